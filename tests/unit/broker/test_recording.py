# SPDX-License-Identifier: GPL-2.0-or-later
"""The past: rates over restarts of the daemon, of counters and of clocks; what is kept of it, and how much."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stored import SetClock, make_store, now, rows
from support.virtual import POOLS, VirtualClock, World, account
from support.website import opening_of, stand

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.history import FINE, Point
from ddtb6.broker.ports import Session
from ddtb6.broker.recording import HELD, MINUTE, TEN_MINUTES, TIERS, Recording
from ddtb6.broker.views import Activity
from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.store.store import Store
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters

HERE = Endpoint("198.51.100.7", 4000)
NOTHING = Activity(sessions=0, logins={}, refusals={}, ended={}, strays={}, pools=())
START = 1_700_000_400.0
"""A ten-minute begins."""


class Steady(SetClock):
    """A clock whose two readings can be moved apart."""

    def __init__(self) -> None:
        super().__init__(START)
        self.start = 0.0

    def monotonic(self) -> float:
        return self.now - START

    def set(self, seconds: float) -> None:
        """Somebody sets the clock of the machine."""
        self.start += seconds

    def epoch(self) -> float:
        return self.now + self.start


class Meter:
    """A recording on a real store, and a tunnel that is counted by hand."""

    def __init__(self, directory: Path, *, outlives: bool = False) -> None:
        self.directory = directory
        self.clock = Steady()
        self.outlives = outlives
        self.store: Store = make_store(directory, clock=self.clock)
        self.activity = NOTHING
        self.session: Session = now(self.store.open_session(opening_of("alice", HERE, None)))
        self.counted = Counters()
        self.begin()

    def begin(self) -> None:
        self.recording = Recording(self.clock, self.store, lambda: self.activity, outlives=self.outlives)
        now(self.recording.start())

    def carry(self, octets: int, packets: int = 0) -> None:
        before, self.counted = self.counted, self.counted + Counters(packets, octets, packets, 2 * octets)
        self.recording.moved(self.session, before, self.counted)

    def minute(self, octets: int = 0, seconds: float = 60.0) -> None:
        self.clock.now += seconds
        self.carry(octets)
        self.settle()

    def settle(self) -> None:
        self.recording.settled()
        now(self.recording.tick())

    def points(self) -> list[Point]:
        return list(self.recording.history().hour.points)

    def close(self) -> None:
        now(self.recording.stop())
        now(self.store.close())


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    made = Meter(tmp_path)
    yield made
    made.close()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Meter]:
    """Of a data plane that counts while no daemon runs."""
    made = Meter(tmp_path, outlives=True)
    yield made
    made.close()


def test_octets_become_rates(meter: Meter) -> None:
    meter.activity = replace(NOTHING, sessions=3, logins={"PLAIN": 2}, refusals={"300 x": 1})
    meter.minute(600)
    meter.minute()
    first, second = meter.points()
    assert (first.at, first.octets_in, first.octets_out, first.sessions) == (START, 10.0, 20.0, 3.0)
    assert (first.logins, first.refusals) == (120.0, 60.0)
    assert (second.octets_in, second.logins, second.sessions) == (0.0, 0.0, 3.0)
    assert meter.recording.latest() == second


def test_a_count_that_comes_late_is_spread(meter: Meter) -> None:
    meter.minute(900, seconds=90.0)
    assert [each.octets_in for each in meter.points()] == [10.0, 10.0]


def test_counters_that_go_down_are_no_traffic(meter: Meter) -> None:
    meter.clock.now += 60
    meter.recording.moved(meter.session, Counters(5, 500, 5, 500), Counters())
    meter.settle()
    [point] = meter.points()
    assert (point.octets_in, point.octets_out, point.packets_in, point.packets_out) == (0.0, 0.0, 0.0, 0.0)


def test_it_is_there_after_a_restart(meter: Meter) -> None:
    for octets in (60, 120, 180):
        meter.minute(octets)
    before = meter.recording.history()
    now(meter.recording.stop())
    meter.begin()
    assert meter.recording.history() == before


def test_a_time_without_a_daemon_is_unknown_where_nothing_was_carried(meter: Meter) -> None:
    meter.minute(60)
    now(meter.recording.stop())
    meter.clock.now += 600
    meter.begin()
    meter.minute(60)
    assert [(each.at - START, each.octets_in) for each in meter.points()] == [(0.0, 1.0), (660.0, 1.0)]


def test_what_was_carried_without_a_daemon_is_no_spike(kernel: Meter) -> None:
    kernel.minute(60)
    now(kernel.recording.stop())
    kernel.clock.now += 600
    kernel.begin()
    kernel.carry(6000)
    kernel.settle()
    assert {each.octets_in for each in kernel.points()[1:]} == {10.0}
    assert len(kernel.points()) == 11
    total = sum(each.octets_in * MINUTE for each in kernel.points())
    assert total == pytest.approx(6060)


def test_a_clock_that_is_set(meter: Meter) -> None:
    meter.minute(600)
    meter.clock.set(86400.0 * 365)
    meter.minute(600)
    assert [each.octets_in for each in meter.points()] == [10.0]
    meter.clock.set(-86400.0 * 400)
    meter.minute(600)
    latest = meter.recording.latest()
    assert latest is not None
    assert latest.at <= meter.clock.epoch()
    assert all(each.octets_in == pytest.approx(10.0) for each in meter.points())


def test_it_is_bounded(meter: Meter) -> None:
    """A day of minutes, a week of ten: counted every half hour, which takes less time than every minute."""
    for _ in range(8 * 48):
        meter.minute(1800, seconds=1800.0)
    counts = dict(rows(meter.directory, "SELECT step, count(*) FROM past GROUP BY step"))
    for step, kept in TIERS.items():
        assert counts[step] in (kept // step, kept // step + 1)
        assert len(meter.recording._tiers[step]) == counts[step]
    history = meter.recording.history()
    assert [len(each.points) for each in (history.hour, history.day, history.week)] == [60, 288, 168]
    assert {each.octets_in for each in history.week.points} == {1.0}


def test_the_past_of_a_tunnel_is_whole_wherever_it_is(meter: Meter) -> None:
    for _ in range(90):
        meter.minute(60)
        history = now(meter.recording.of_tunnel("user:alice"))
        assert [each.octets_in for each in history.day.points] == pytest.approx([1.0] * len(history.day.points))
        assert history.day.points[-1].at <= meter.clock.epoch()
    assert len(history.day.points) == 9
    now(meter.recording.stop())
    meter.begin()
    assert now(meter.recording.of_tunnel("user:alice")) == history


def test_tunnels_take_turns_in_being_written(meter: Meter) -> None:
    sessions = [replace(meter.session, owner=f"user:u{number}", user=f"u{number}") for number in range(100)]
    most = 0
    for _ in range(HELD // MINUTE):
        meter.clock.now += 60
        for session in sessions:
            meter.recording.moved(session, Counters(), Counters(1, 60, 1, 60))
        before = rows(meter.directory, "SELECT count(*) FROM tunnel_past")[0][0]
        meter.settle()
        most = max(most, rows(meter.directory, "SELECT count(*) FROM tunnel_past")[0][0] - before)
    assert rows(meter.directory, "SELECT count(*), max(length(ring)) FROM tunnel_past")[0][0] == 100
    assert most < 50


def test_guests_have_no_past(meter: Meter) -> None:
    meter.clock.now += 60
    guest = replace(meter.session, owner="anonymous:198.51.100.9:1", user=None)
    meter.recording.moved(guest, Counters(), Counters(1, 60, 1, 60))
    meter.settle()
    now(meter.recording.stop())
    assert rows(meter.directory, "SELECT count(*) FROM tunnel_past") == [(0,)]
    assert meter.points()[0].octets_in == 1.0


def test_echoes(meter: Meter) -> None:
    for seconds in (0.010, None, 0.030):
        meter.recording.asked("user:alice")
        if seconds is not None:
            meter.recording.answered("user:alice", seconds)
    [point] = now(meter.recording.of_tunnel("user:alice")).day.points
    assert (point.sent, point.answered) == (3, 2)
    assert (point.least, point.mean, point.most) == tuple(pytest.approx(each, rel=1e-3) for each in (0.01, 0.02, 0.03))
    meter.recording.answered("user:alice", 0.02)
    meter.recording.answered("user:alice", 0.02)
    assert now(meter.recording.of_tunnel("user:alice")).day.points[0].answered == 3, "an answer counts once"


def test_who_is_deleted_has_no_past(meter: Meter) -> None:
    now(meter.store.add_account(account("alice", "x")))
    meter.minute(60)
    now(meter.recording.stop())
    assert now(meter.store.ring("user:alice")) is not None
    now(meter.store.delete_account("alice"))
    assert now(meter.store.ring("user:alice")) is None


def test_rings_of_who_is_gone_for_a_week_go(meter: Meter) -> None:
    meter.minute(60)
    now(meter.recording.stop())
    meter.clock.now += 7 * 86400 - 60
    now(meter.store.prune(0.0))
    assert now(meter.store.ring("user:alice")) is not None
    meter.clock.now += 120
    now(meter.store.prune(0.0))
    assert now(meter.store.ring("user:alice")) is None


def test_the_broker_tells_it_everything(tmp_path: Path) -> None:
    """Of a plane that outlives it: pings while it runs, while it does not, and of a session that ends at once."""
    clock = VirtualClock()
    plane = MemoryPlane(clock, tuple(POOLS.values()), outlives=True)
    world = World(tmp_path, clock=clock, plane=plane, idle_limit=0.0)
    session = stand(world, opening_of("alice", HERE, None))
    pings = 0

    def ping(times: int) -> None:
        nonlocal pings
        for _ in range(times):
            assert world.ping(session)
        pings += times

    ping(5)
    world.pass_time(150)
    ping(3)
    now(world.broker.stop())
    now(world.recording.stop())
    for _ in range(4):
        plane._peers._by_id[session.id].packets_in += 1
    pings += 4
    clock.advance(300)
    world = World(tmp_path, clock=clock, store=world.store, plane=plane, idle_limit=0.0)
    ping(2)
    world.pass_time(30)
    now(world.broker.disconnect(session.id, EndReason.DISCONNECTED))
    world.pass_time(61)
    told = sum(each.packets_in for each in world.recording._tiers[TEN_MINUTES].values())
    world.close()
    assert told == pytest.approx(pings)


@given(st.lists(st.tuples(st.floats(1.0, 4000.0), st.integers(0, 10**9), st.floats(-5000.0, 5000.0)), max_size=8))
def test_octets_are_kept_whatever_the_clock_does(steps: list[tuple[float, int, float]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        meter = Meter(Path(directory))
        for seconds, octets, leap in steps:
            meter.minute(octets, seconds)
            meter.clock.set(leap)
        spans = meter.recording._tiers[TEN_MINUTES].values()
        assert sum(each.octets_in for each in spans) == pytest.approx(sum(octets for _, octets, _ in steps))
        assert sum(each.known for each in spans) == pytest.approx(sum(seconds for seconds, _, _ in steps))
        assert all(each.at % FINE == 0 for each in spans)
        meter.close()
