# SPDX-License-Identifier: GPL-2.0-or-later
"""The store against a model so simple that it cannot be wrong: a list of pieces, searched from end to end."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from support.stored import POOLS, QUARANTINE, SetClock, make_store, now, opening

from ddtb6.addressing.pool import Use
from ddtb6.broker.journal import RecordKind
from ddtb6.broker.ports import Ending, HoldsOther, NotGrantable, Opening, PoolExhausted, Session, Terms
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters

OWNERS = [f"user:{name}" for name in "abcdef"] + [f"anonymous:{name}" for name in "abc"]
MEMORY = Path("/dev/shm")  # no disk to wait for


# Few enough that they often meet: in the two pools of prefixes, carved otherwise than those are, and outside of them.
NETWORKS = [
    *(f"2001:db8:100::/{length}" for length in (53, 54, 55, 56, 57, 64, 65)),
    *("2001:db8:100:80::/57", "2001:db8:100:100::/56", "2001:db8:100:200::/55", "2001:db8:100:3ff::/64"),
    *("2001:db8:200::/46", "2001:db8:200::/47", "2001:db8:200::/48", "2001:db8:201::/56", "2001:db8:203::/48"),
    "2001:db8:999::/56",
]
ADDRESSES = [f"2001:db8:ffff:1::{end}" for end in (0, 1, 2, 3, 5)] + ["2001:db8:ffff:2::2"]
networks = st.sampled_from(NETWORKS).map(IPv6Network)
terms = st.builds(
    Terms,
    address=st.none() | st.sampled_from(ADDRESSES).map(IPv6Address),
    interface_id=st.sampled_from([None, None, 1, 2, 4]),
    prefix=st.none() | networks,
    routes=st.lists(networks, max_size=2).map(tuple),
)


@dataclass(eq=False)
class Piece:
    pool: str
    prefix: IPv6Network
    owner: str
    granted: float
    released: float | None = None
    route: bool = False


class Refused(Exception):
    """What the store should raise is the argument."""


class Model:
    """Pieces in the order in which they were first handed out."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def held(self, owner: str) -> list[Piece]:
        return [each for each in self.pieces if each.owner == owner and each.released is None]

    def overlapping(self, network: IPv6Network) -> list[Piece]:
        return [each for each in self.pieces if each.prefix.overlaps(network)]

    def chosen(self, owner: str, pool: str, moment: float, avoid: Sequence[IPv6Network]) -> IPv6Network:
        """What the owner gets of a pool."""
        address = POOLS[pool].length == 128
        for piece in self.held(owner):
            if (piece.prefix.prefixlen == 128) == address and piece.pool and not piece.route:
                if piece.pool != pool:
                    raise Refused(HoldsOther)
                return piece.prefix
        rested = [
            each
            for each in self.pieces
            if each.pool == pool
            and each.released is not None
            and not any(each.prefix.overlaps(other) for other in avoid)
        ]
        known = [each for each in rested if each.owner == owner]
        free = [each for each in rested if each.released <= moment - QUARANTINE]  # type: ignore[operator]
        if known:
            return max(known, key=lambda each: (each.released, -int(each.prefix[0]))).prefix
        if free:
            return min(free, key=lambda each: each.released or 0.0).prefix
        first = POOLS[pool].first
        for index in range(first, min(first + POOLS[pool].capacity, 1000)):
            piece = POOLS[pool].piece(index)
            if not self.overlapping(piece) and not any(piece.overlaps(other) for other in avoid):
                return piece
        raise Refused(PoolExhausted)

    def named(self, owner: str, network: IPv6Network, use: Use) -> IPv6Network:
        """The same, if it may be had."""
        pools = [pool for pool in POOLS.values() if pool.use is use and network.subnet_of(pool.block)]
        reserved = [pool.piece(pool.first).network_address for pool in pools if use is Use.ACCOUNTS]
        if (
            not pools
            or (use is Use.PREFIXES and network.prefixlen > 64)
            or any(network.network_address < first for first in reserved)
            or any(each.owner != owner and each.released is None for each in self.overlapping(network))
        ):
            raise Refused(NotGrantable)
        return network

    def grants(self, asked: Opening, moment: float) -> tuple[IPv6Network, IPv6Network | None, tuple[IPv6Network, ...]]:
        """Address, prefix, routes."""
        owner, said = asked.owner, asked.terms
        routes = tuple(dict.fromkeys(said.routes))
        routes = tuple(each for each in routes if not any(each != other and each.subnet_of(other) for other in routes))
        wanted = said.address
        if wanted is None and said.interface_id is not None:
            wanted = POOLS[asked.address_pool].block.network_address + said.interface_id
        if wanted is None:
            address = self.chosen(owner, asked.address_pool, moment, ())
        else:
            address = self.named(owner, IPv6Network(wanted), Use.ACCOUNTS)
        prefix = None
        if asked.prefix_pool is not None:
            if said.prefix is None:
                prefix = self.chosen(owner, asked.prefix_pool, moment, routes)
            else:
                prefix = self.named(owner, said.prefix, Use.PREFIXES)
            routes = tuple(each for each in routes if not each.subnet_of(prefix))
            if any(each.overlaps(prefix) for each in routes):
                raise Refused(NotGrantable)
        for each in routes:
            self.named(owner, each, Use.PREFIXES)
        return address, prefix, routes

    def take(
        self,
        owner: str,
        address: IPv6Network,
        prefix: IPv6Network | None,
        routes: tuple[IPv6Network, ...],
        moment: float,
    ) -> None:
        new = [(each, True) for each in routes] + [(each, False) for each in (address, prefix) if each is not None]
        for piece in self.held(owner):
            stays = prefix is None and not piece.route and piece.prefix.prefixlen != 128
            if piece.prefix not in [network for network, _ in new] and not stays:
                piece.released = moment
        for network, route in new:
            self.pieces = [each for each in self.pieces if each.prefix == network or not each.prefix.overlaps(network)]
            there = [each for each in self.pieces if each.prefix == network]
            if not there:
                of = [pool.name for pool in POOLS.values() if network.subnet_of(pool.block)]
                pool = of[0] if POOLS[of[0]].length == network.prefixlen else ""
                self.pieces.append(Piece(pool, network, owner, moment, route=route))
                continue
            [piece] = there
            piece.route = route
            if piece.released is not None:
                piece.owner, piece.granted, piece.released = owner, moment, None

    def release(self, owner: str, moment: float) -> None:
        for piece in self.held(owner):
            piece.released = moment

    def clear_strays(self, moment: float) -> None:
        """What is no piece of a pool leaves no trace once it has rested."""
        self.pieces = [
            each for each in self.pieces if each.pool or each.released is None or each.released > moment - QUARANTINE
        ]

    def forget(self, moment: float) -> None:
        for piece in self.pieces:
            if piece.released is not None and piece.released < moment - QUARANTINE:
                piece.owner = ""


class Allocator(RuleBasedStateMachine):
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.clock = SetClock()
        self.store = make_store(Path(self.directory.name), clock=self.clock, journal=True)
        self.model = Model()
        self.live: dict[int, str] = {}
        self.told: list[tuple[RecordKind, int]] = []
        self.last_number = 0

    def teardown(self) -> None:
        now(self.store.close())
        self.directory.cleanup()

    def pass_time(self) -> None:
        """No two events at the same time, so that the order of releases is one."""
        self.clock.now += 0.25

    def opened(self, asked: Opening) -> object:
        self.pass_time()
        try:
            address, prefix, routes = self.model.grants(asked, self.clock.now)
        except Refused as refused:
            with pytest.raises(refused.args[0]):
                now(self.store.open_session(asked))
            return multiple()
        session = now(self.store.open_session(asked))
        self.model.take(asked.owner, address, prefix, routes, self.clock.now)
        assert IPv6Network(session.spec.address) == address
        assert session.spec.prefix == prefix
        assert session.spec.routes == routes
        assert all(session.id > other for other in self.live)
        self.live[session.id] = asked.owner
        if session.user is not None:
            self.told.append((RecordKind.START, session.id))
        return session

    @rule(target=sessions, owner=st.sampled_from(OWNERS), pool=st.sampled_from([None, "homes", "sites"]))
    def open(self, owner: str, pool: str | None) -> object:
        return self.opened(opening(owner, None if owner.startswith("anonymous") else pool))

    @rule(
        target=sessions,
        owner=st.sampled_from(OWNERS[:6]),
        pool=st.sampled_from([None, "homes", "sites"]),
        terms=terms,
    )
    def open_as_named(self, owner: str, pool: str | None, terms: Terms) -> object:
        return self.opened(replace(opening(owner, pool), terms=terms))

    @rule(session=consumes(sessions))
    def close(self, session: Session) -> None:
        self.pass_time()
        now(self.store.close_sessions([Ending(session.id, EndReason.IDLE, Counters())]))
        owner = self.live.pop(session.id)
        if session.user is not None:
            self.told.append((RecordKind.STOP, session.id))
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
        self.store = make_store(Path(self.directory.name), clock=self.clock, journal=True)
        self.model.clear_strays(self.clock.now)

    @rule()
    def prune(self) -> None:
        now(self.store.prune(self.clock.now))
        self.model.clear_strays(self.clock.now)
        self.model.forget(self.clock.now)

    @rule(few=st.integers(0, 3))
    def acknowledge(self, few: int) -> None:
        records = now(self.store.waiting(0, few))
        now(self.store.acknowledge([each.number for each in records]))
        del self.told[:few]

    @invariant()
    def journal_tells_it_all(self) -> None:
        records = now(self.store.waiting(0, 1000))
        assert [(each.kind, each.session and each.session.id) for each in records] == self.told
        if records:
            assert records[-1].number >= self.last_number
            self.last_number = records[-1].number

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
