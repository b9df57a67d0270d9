# SPDX-License-Identifier: GPL-2.0-or-later
"""The store against a model so simple that it cannot be wrong: a list of pieces, searched from end to end."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from ipaddress import IPv6Network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from support.stored import POOLS, QUARANTINE, SetClock, make_store, now, opening

from ddtb6.broker.ports import Ending, HoldsOther, PoolExhausted, Session
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters

OWNERS = [f"user:{name}" for name in "abcdef"] + [f"anonymous:{name}" for name in "abc"]
MEMORY = Path("/dev/shm")  # no disk to wait for


@dataclass
class Piece:
    pool: str
    prefix: IPv6Network
    owner: str
    granted: float
    released: float | None = None


class Model:
    """Pieces in the order of their pool's indices, as far as they were ever handed out."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def held(self, owner: str) -> list[Piece]:
        return [each for each in self.pieces if each.owner == owner and each.released is None]

    def find(self, owner: str, pool: str, moment: float) -> Piece | type[Exception]:
        """What the owner gets; a new piece is not yet among `pieces`."""
        address = POOLS[pool].length == 128
        for piece in self.held(owner):
            if (piece.prefix.prefixlen == 128) == address:
                return piece if piece.pool == pool else HoldsOther
        mine = [each for each in self.pieces if each.pool == pool]
        rested = [each for each in mine if each.released is not None]
        known = [each for each in rested if each.owner == owner]
        free = [each for each in rested if each.released <= moment - QUARANTINE]  # type: ignore[operator]
        if known:
            return max(known, key=lambda each: each.released or 0.0)
        if free:
            return min(free, key=lambda each: each.released or 0.0)
        index = POOLS[pool].first + len(mine)
        if len(mine) == POOLS[pool].capacity:
            return PoolExhausted
        return Piece(pool, POOLS[pool].piece(index), owner, moment)

    def take(self, piece: Piece, owner: str, moment: float) -> None:
        if piece not in self.pieces:
            self.pieces.append(piece)
        elif piece.released is not None:
            piece.owner, piece.granted, piece.released = owner, moment, None

    def release(self, owner: str, moment: float) -> None:
        for piece in self.held(owner):
            piece.released = moment


class Allocator(RuleBasedStateMachine):
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.clock = SetClock()
        self.store = make_store(Path(self.directory.name), clock=self.clock)
        self.model = Model()
        self.live: dict[int, str] = {}

    def teardown(self) -> None:
        now(self.store.close())
        self.directory.cleanup()

    def pass_time(self) -> None:
        """No two events at the same time, so that the order of releases is one."""
        self.clock.now += 0.25

    @rule(target=sessions, owner=st.sampled_from(OWNERS), pool=st.sampled_from([None, "homes", "sites"]))
    def open(self, owner: str, pool: str | None) -> object:
        self.pass_time()
        asked = opening(owner, None if owner.startswith("anonymous") else pool)
        wanted = [each for each in (asked.address_pool, asked.prefix_pool) if each]
        expected = [self.model.find(owner, each, self.clock.now) for each in wanted]
        refusals = [each for each in expected if isinstance(each, type)]
        if refusals:
            with pytest.raises(refusals[0]):
                now(self.store.open_session(asked))
            return multiple()
        session = now(self.store.open_session(asked))
        for piece in expected:
            assert isinstance(piece, Piece)
            self.model.take(piece, owner, self.clock.now)
        given_out = [IPv6Network(session.spec.address)] + [session.spec.prefix] * (session.spec.prefix is not None)
        assert given_out == [piece.prefix for piece in expected if isinstance(piece, Piece)]
        assert session.id not in self.live
        self.live[session.id] = owner
        return session

    @rule(session=consumes(sessions))
    def close(self, session: Session) -> None:
        self.pass_time()
        now(self.store.close_sessions([Ending(session.id, EndReason.IDLE, Counters())]))
        owner = self.live.pop(session.id)
        if owner.startswith("anonymous:") and owner not in self.live.values():
            self.model.release(owner, self.clock.now)

    @rule(owner=st.sampled_from(OWNERS))
    def release(self, owner: str) -> None:
        self.pass_time()
        gone = now(self.store.release(owner))
        assert {each.prefix for each in gone} == {each.prefix for each in self.model.held(owner)}
        self.model.release(owner, self.clock.now)
        assert now(self.store.release(owner)) == []

    @rule(seconds=st.sampled_from([1.0, QUARANTINE / 2, QUARANTINE, 10 * QUARANTINE]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def restart(self) -> None:
        now(self.store.close())
        self.store = make_store(Path(self.directory.name), clock=self.clock)

    @rule()
    def prune(self) -> None:
        now(self.store.prune(self.clock.now))

    @invariant()
    def what_is_held_is_what_the_model_holds(self) -> None:
        leases = now(self.store.leases())
        expected = [each for each in self.model.pieces if each.released is None]
        assert sorted((each.pool, each.prefix, each.owner, each.granted) for each in leases) == sorted(
            (each.pool, each.prefix, each.owner, each.granted) for each in expected
        )
        assert not any(one.prefix.overlaps(other.prefix) for one, other in combinations(leases, 2))

    @invariant()
    def usage_is_right(self) -> None:
        resting = self.clock.now - QUARANTINE
        assert now(self.store.pool_usage()) == {
            name: (
                sum(each.pool == name and each.released is None for each in self.model.pieces),
                sum(each.pool == name and (each.released or resting) > resting for each in self.model.pieces),
            )
            for name in POOLS
        }

    @invariant()
    def sessions_live_until_they_are_closed(self) -> None:
        assert {each.id: each.owner for each in now(self.store.live_sessions())} == self.live

    @invariant()
    def whois_knows_every_holder(self) -> None:
        for piece in self.model.pieces:
            if piece.released is None:
                holding = now(self.store.whois(piece.prefix[-1]))
                assert holding is not None
                assert holding.lease.owner == piece.owner


TestAllocator = Allocator.TestCase
TestAllocator.settings = settings(stateful_step_count=40)
