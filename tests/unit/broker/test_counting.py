# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session has carried, over restarts of the broker and losses of the data plane: all of it, and nothing twice.

The tunnels are those of a data plane in the kernel: they stand and count while no broker runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.held import begin
from support.negotiations import CREATE
from support.stored import now, opening
from support.virtual import POOLS, SERVER, VirtualClock, World

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker.ports import Principal, Session
from ddtb6.broker.tunnels import CHECKPOINT_INTERVAL, RAISED_AT_ONCE
from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.tsp.effects import Ask, Establish, Established, Grant, Granted
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import Counters

HERE = Endpoint("203.0.113.5", 40001)


class Life:
    """One account's session through the lives of brokers, and what it ought to have carried."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = VirtualClock()
        self.plane = MemoryPlane(self.clock, tuple(POOLS.values()), outlives=True)
        self.world = World(directory, clock=self.clock, plane=self.plane, idle_limit=0.0)
        log_in(self.world, "alice", HERE)
        self.session: Session = self.world.live()[0]
        self.carried = self.written = 0
        """Packets from the client so far; and at the last checkpoint."""

    def traffic(self) -> None:
        assert self.world.ping(self.session)
        self.carried += 1

    def checkpoint(self) -> None:
        self.world.pass_time(CHECKPOINT_INTERVAL + 1)
        self.written = self.carried

    def kill(self) -> None:
        self.world = World(self.directory, clock=self.clock, store=self.world.store, plane=self.plane, idle_limit=0.0)
        self.written = self.carried  # A broker that starts writes down what was carried meanwhile.

    def stop(self) -> None:
        now(self.world.broker.stop())
        self.kill()

    def reboot(self) -> None:
        self.plane.reboot()
        self.carried = self.written
        self.kill()

    def reboot_and_killed_before_the_tunnel_was_raised(self) -> None:
        self.plane.reboot()
        self.carried = self.written
        [stored] = now(self.world.store.live_sessions())
        now(self.world.store.checkpoint({stored.id: stored.carried}, anew=True))
        self.kill()

    def lose(self) -> None:
        self.plane.lose()
        self.carried = self.written
        self.world.round()

    def end(self) -> Counters:
        now(self.world.broker.disconnect(self.session.id, EndReason.DISCONNECTED))
        [ended] = now(self.world.store.past_sessions())
        now(self.world.store.close())
        return ended.counters

    def shown(self) -> int:
        assert self.world.live() == now(self.world.store.live_sessions())
        [view] = now(self.world.broker.sessions())
        return view.counters.packets_in


def log_in(world: World, name: str, remote: Endpoint) -> None:
    who = world.broker.welcome(Link(Carrier.UDP, SERVER, remote))
    who.principal = Principal(f"user:{name}", name)
    [answer] = begin(world.broker.answer(Ask(1, Grant(CREATE)), who))
    assert isinstance(answer, Granted), answer
    [answer] = begin(world.broker.answer(Ask(1, Establish()), who))
    assert isinstance(answer, Established), answer


EVENTS = (
    *(Life.traffic, Life.checkpoint, Life.kill, Life.stop, Life.lose, Life.reboot),
    Life.reboot_and_killed_before_the_tunnel_was_raised,
)


@given(st.lists(st.sampled_from(EVENTS), max_size=14))
def test_nothing_is_lost_but_what_a_lost_kernel_had_not_told_and_nothing_counts_twice(events: list[object]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        life = Life(Path(directory))
        for each in events:
            each(life)  # type: ignore[operator]
            assert life.shown() == life.carried
        assert life.end().packets_in == life.carried


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


def test_refusals_go_on_counting_as_well(life: Life) -> None:
    life.checkpoint()
    assert not life.world.ping(life.session, Endpoint("203.0.113.9", 1))
    life.world.plane.feed(b"\x60", SERVER, HERE)
    life.kill()
    life.world.plane.feed(b"\x60", SERVER, HERE)
    assert life.end().refused == {Refusal.MALFORMED: 2}


def test_a_tunnel_of_another_time_is_not_taken_for_the_sessions_own(life: Life) -> None:
    """It stood idle while the packets went through another data plane, and has counted less than is written."""
    for _ in range(3):
        life.traffic()
    life.stop()
    stale, life.plane = life.plane, MemoryPlane(life.clock, tuple(POOLS.values()))
    life.kill()
    for _ in range(2):
        life.traffic()
    life.stop()
    life.plane = stale
    life.kill()
    assert life.shown() == 5
    life.traffic()
    life.kill()
    assert life.end().packets_in == 6


def test_what_an_overtaken_session_carried_after_the_last_checkpoint_is_in_its_end(life: Life) -> None:
    """Killed after a new session was written and before the old one's tunnel went down."""
    life.traffic()
    life.checkpoint()
    for _ in range(2):
        life.traffic()
    old = life.session
    now(life.world.store.open_session(opening(old.owner)))
    life.kill()
    ended = {each.id: each for each in now(life.world.store.past_sessions())}[old.id]
    assert (ended.reason, ended.counters.packets_in) == (EndReason.REPLACED, 3)


def test_many_are_raised_in_one_go_and_each_that_is_refused_ends_alone(tmp_path: Path) -> None:
    clock = VirtualClock()
    pools = tuple(POOLS.values())
    world = World(tmp_path, clock=clock, plane=MemoryPlane(clock, pools), per_source_tunnels=1000)
    count = 2 * RAISED_AT_ONCE + 1
    for number in range(count):
        log_in(world, f"u{number}", Endpoint(HERE.address, 1000 + number))
    sizes: list[int] = []

    class Watched(MemoryPlane):
        async def raise_tunnels(self, specs):  # type: ignore[no-untyped-def]
            sizes.append(len(specs))
            if len(sizes) == 2:
                self.fail_at(RAISED_AT_ONCE // 2)
            return await super().raise_tunnels(specs)

    after = World(tmp_path, clock=clock, store=world.store, plane=Watched(clock, pools))
    assert sizes == [RAISED_AT_ONCE, RAISED_AT_ONCE, 1]
    assert len(after.live()) == count - 1
    [failed] = [each for each in now(after.store.past_sessions()) if each.ended is not None]
    assert failed.id == RAISED_AT_ONCE + RAISED_AT_ONCE // 2
    assert failed.reason is EndReason.FAILED
    now(after.store.close())


@pytest.mark.parametrize(
    ("more", "less"),
    [
        (Counters(1, 2, 3, 4, {Refusal.LOOP: 5}), Counters(1, 2, 3, 4, {Refusal.LOOP: 5})),
        (Counters(1, 2, 3, 4, {Refusal.LOOP: 5}), Counters(0, 1, 2, 3)),
    ],
)
def test_counters_cover_what_they_were_before(more: Counters, less: Counters) -> None:
    assert more.covers(less)
    for each in (
        *(Counters(2, 2, 3, 4), Counters(1, 3, 3, 4), Counters(1, 2, 4, 4), Counters(1, 2, 3, 5)),
        Counters(refused={Refusal.LOOP: 6}),
        Counters(refused={Refusal.TOO_BIG: 1}),
    ):
        assert not more.covers(each)
