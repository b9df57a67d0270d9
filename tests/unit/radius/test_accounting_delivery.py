# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery of accounting under virtual time: order, outages, stubborn records, stopping, and bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.accounting import NAS, MemoryJournal, session
from support.virtual import VirtualClock
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from ddtb6.broker.journal import RecordKind
from ddtb6.broker.ports import Terms
from ddtb6.radius.accounting import MOST_IN_FLIGHT, REMINDER, AccountingDeliverer
from ddtb6.radius.attributes import Received, Unencodable
from ddtb6.radius.backlog import MEMORY, PAGE
from ddtb6.radius.exchange import NoAnswer
from ddtb6.radius.lane import Build
from ddtb6.radius.packets import Code, Reply
from ddtb6.tunnel.reasons import EndReason

START, STOP, INTERIM, ON, OFF = (
    RecordKind.START,
    RecordKind.STOP,
    RecordKind.INTERIM,
    RecordKind.ON,
    RecordKind.OFF,
)
ANSWER = Reply(Code.ACCOUNTING_RESPONSE, Received(), signed=False)
SILENCE = 7.0
"""Seconds after which an exchange gives up."""


class Aaa:
    """Stands in for the client of the servers: answers, or does not."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.up = True
        self.held = False
        self.ignores: Callable[[dict[str, Any]], bool] = lambda _: False
        self.asked: list[dict[str, Any]] = []
        """Every request that was made, answered or not."""
        self.heard: list[dict[str, Any]] = []
        """What was acknowledged."""
        self.waiting: list[tuple[dict[str, Any], Deferred[Reply]]] = []
        self.most_waiting = 0

    async def exchange(self, code: Code, build: Build, *, tries: int | None = None) -> Reply:
        assert code is Code.ACCOUNTING_REQUEST
        said = dict(build())
        self.asked.append(said)
        answer: Deferred[Reply] = Deferred()
        entry = (said, answer)
        self.waiting.append(entry)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        timer = self._clock.callLater(SILENCE, answer.errback, NoAnswer("one: no answer"))
        if self.up and not self.held and not self.ignores(said):
            self.answer(said)
        try:
            return await answer
        finally:
            if entry in self.waiting:
                self.waiting.remove(entry)
            if timer.active():
                timer.cancel()

    def answer(self, said: dict[str, Any]) -> None:
        (entry,) = (each for each in self.waiting if each[0] is said)
        self.waiting.remove(entry)
        self.heard.append(said)
        entry[1].callback(ANSWER)

    def told(self) -> list[tuple[str, str]]:
        """Kind and session of what was acknowledged, in order."""
        return [(each["Acct-Status-Type"], each["Acct-Session-Id"].lstrip("0")) for each in self.heard]


class DeliveryCase(TestCase):
    def setUp(self) -> None:
        self.clock = VirtualClock()
        self.journal = MemoryJournal()
        self.aaa = Aaa(self.clock)
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self._note)
        self.addCleanup(globalLogPublisher.removeObserver, self._note)
        self.deliverer = self.made()

    def _note(self, event: dict[str, Any]) -> None:
        text = event.get("log_format") or ""
        if text.startswith("accounting"):
            self.lines.append(text.format(**event))

    def made(self) -> AccountingDeliverer:
        client: Any = self.aaa
        return AccountingDeliverer(self.clock, self.clock, self.journal, client, NAS, jitter=lambda: 0.5)

    def start(self, resumed: int = 1) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.deliverer.start(resumed)))

    def stop(self, staying: int = 1) -> Deferred[None]:
        return Deferred.fromCoroutine(self.deliverer.stop(staying))

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        self.clock.pump([step] * int(seconds / step))

    def fill(self, sessions: int, *kinds: RecordKind) -> None:
        """For each kind, one record of each session."""
        for kind in kinds:
            for number in range(1, sessions + 1):
                reason = EndReason.DELETED if kind is STOP else None
                self.journal.add(kind, session(number), self.clock.epoch(), reason=reason)


class OrderTests(DeliveryCase):
    def test_all_is_delivered_and_removed(self) -> None:
        self.fill(50, START, INTERIM, STOP)
        self.start()
        assert len(self.aaa.heard) == 150
        assert self.journal.records == {}
        assert self.deliverer.state().delivered == 150

    def test_of_one_session_one_at_a_time(self) -> None:
        self.aaa.held = True
        self.fill(2, START, INTERIM, STOP)
        self.start()
        for kind in ("Start", "Interim-Update", "Stop"):
            waiting = [said for said, _ in self.aaa.waiting]
            assert [each["Acct-Status-Type"] for each in waiting] == [kind, kind]
            for said in waiting:
                self.aaa.answer(said)
        assert self.journal.records == {}

    def test_a_session_that_waits_holds_up_no_other(self) -> None:
        self.aaa.held = True
        self.fill(2, START, STOP)
        self.start()
        for _ in range(2):
            self.aaa.answer(next(said for said, _ in self.aaa.waiting if said["NAS-Port"] == 2))
        assert self.aaa.told() == [("Start", "2"), ("Stop", "2")]
        assert [each.session.id for each in self.journal.records.values() if each.session] == [1, 1]

    def test_what_is_written_later_is_noticed(self) -> None:
        self.start()
        self.fill(1, START)
        self.pass_time(1)
        assert self.aaa.told() == [("Start", "1")]
        self.fill(1, STOP)
        self.deliverer.poke()
        assert self.aaa.told() == [("Start", "1"), ("Stop", "1")]

    def test_bounded_in_flight_and_in_memory(self) -> None:
        self.aaa.held = True
        self.fill(3 * MEMORY, START)
        self.start()
        self.pass_time(3)
        assert self.aaa.most_waiting == MOST_IN_FLIGHT
        assert self.journal.most_read <= PAGE
        assert self.deliverer._backlog._held <= MEMORY
        self.aaa.held = False
        for said, _ in list(self.aaa.waiting):
            self.aaa.answer(said)
        assert len(self.aaa.heard) == 3 * MEMORY
        assert self.journal.records == {}

    def test_acknowledged_in_batches(self) -> None:
        """While a write is under way, what comes waits for the next."""
        written: list[Deferred[None]] = []
        acknowledge = self.journal.acknowledge

        async def slow(numbers: Any) -> None:
            written.append(Deferred())
            await written[-1]
            await acknowledge(numbers)

        self.journal.acknowledge = slow  # type: ignore[method-assign]
        self.fill(90, START)
        self.start()
        written[0].callback(None)
        written[1].callback(None)
        assert self.journal.writes == [1, 89]

    def test_an_on_is_a_border(self) -> None:
        self.aaa.held = True
        self.fill(1, STOP)
        self.start(resumed=0)
        self.fill(1, START)
        self.deliverer.poke()
        for expected in ("Stop", "Accounting-On", "Start"):
            ((said, _),) = self.aaa.waiting
            assert said["Acct-Status-Type"] == expected
            self.aaa.answer(said)
        assert self.journal.records == {}

    def test_no_on_where_sessions_are_resumed(self) -> None:
        self.start(resumed=3)
        self.pass_time(2)
        assert self.aaa.asked == []


class OutageTests(DeliveryCase):
    def test_every_record_arrives_once_and_in_order(self) -> None:
        self.start()
        self.aaa.up = False
        self.fill(20, START)
        self.pass_time(600)
        self.fill(20, INTERIM)
        self.pass_time(3000)
        self.fill(20, STOP)
        self.pass_time(100)
        assert len(self.journal.records) == 60
        self.aaa.up = True
        self.pass_time(30)
        assert self.journal.records == {}
        told = self.aaa.told()
        assert len(told) == len({*told}) == 60
        for number in range(1, 21):
            kinds = [kind for kind, of in told if of == f"{number:x}"]
            assert kinds == ["Start", "Interim-Update", "Stop"]

    def test_a_new_trial_has_a_new_delay_and_the_old_time(self) -> None:
        self.start()
        self.aaa.up = False
        self.fill(1, START)
        begun = self.clock.epoch()
        self.pass_time(60)
        delays = [each["Acct-Delay-Time"] for each in self.aaa.asked]
        assert delays == sorted({*delays})
        assert len(delays) >= 3
        assert {each["Event-Timestamp"] for each in self.aaa.asked} == {int(begun)}

    def test_bounds_of_log_requests_and_memory(self) -> None:
        self.start()
        self.aaa.up = False
        self.fill(10 * MEMORY, START)
        self.pass_time(30)
        before = len(self.aaa.asked)
        self.pass_time(3600)
        assert len(self.aaa.asked) - before <= 3600 / 15 + 5
        assert self.deliverer._backlog._held <= MEMORY
        assert len(self.lines) <= 2 + 3600 / REMINDER
        assert "records are kept" in self.lines[0]
        assert f"{10 * MEMORY} records wait" in self.lines[-1]
        state = self.deliverer.state()
        assert state.waiting == 10 * MEMORY
        assert state.outage_since is not None
        assert state.oldest == 1700001000.0
        assert state.last_error == "one: no answer"
        self.aaa.up = True
        self.pass_time(30)
        assert self.journal.records == {}
        assert "acknowledged again" in self.lines[-1]
        self.pass_time(10)
        assert self.deliverer.state().outage_since is None
        assert self.deliverer.state().waiting == 0

    def test_trials_go_round(self) -> None:
        """A record that a server never answers does not stand in the way of the others when it is the oldest."""
        self.aaa.ignores = lambda said: said["NAS-Port"] == 1
        self.fill(1, START)
        self.start()
        self.pass_time(60)
        for number in range(2, 10):
            self.journal.add(START, session(number))
        self.pass_time(30)
        assert [each.session.id for each in self.journal.records.values() if each.session] == [1]

    def test_while_the_store_fails(self) -> None:
        self.start()
        self.fill(3, START)
        self.journal.broken = True
        self.pass_time(5)
        assert self.aaa.asked == []
        assert self.deliverer.state().last_error == "The disk is full."
        self.journal.broken = False
        self.aaa.held = True
        self.pass_time(2)
        self.journal.broken = True
        for said, _ in list(self.aaa.waiting):
            self.aaa.answer(said)
        self.pass_time(20)
        self.journal.broken = False
        self.pass_time(2)
        assert self.journal.records == {}
        assert len(self.aaa.asked) == 3, "what was acknowledged is not sent again"


class StubbornTests(DeliveryCase):
    def test_one_session_that_is_never_acknowledged_rests(self) -> None:
        self.aaa.ignores = lambda said: said["NAS-Port"] == 1
        self.start()
        for second in range(1800):
            self.journal.add(INTERIM, session(1 + second % 2), self.clock.epoch())
            self.pass_time(1)
        assert len([each for each in self.aaa.told() if each[1] == "2"]) == 900
        assert len([each for each in self.aaa.asked if each["NAS-Port"] == 1]) < 20
        assert self.deliverer.state().resting == 1
        assert len(self.lines) <= 2 + 2 * 1800 / REMINDER
        self.aaa.ignores = lambda _: False
        self.pass_time(700)
        assert self.journal.records == {}
        told = [each["Event-Timestamp"] for each in self.aaa.heard if each["NAS-Port"] == 1]
        assert told == sorted(told)
        assert len(told) == 900

    def test_more_stubborn_sessions_than_fit_into_memory(self) -> None:
        self.aaa.ignores = lambda said: said["User-Name"] == "bad"
        for number in range(1, 3 * MEMORY):
            self.journal.add(START, session(number, terms=Terms(billed_as="bad" if number % 3 else "good")))
        self.start()
        self.pass_time(300)
        assert len(self.aaa.heard) == MEMORY - 1
        assert self.deliverer._backlog._held <= MEMORY
        self.aaa.ignores = lambda _: False
        self.pass_time(700)
        assert self.journal.records == {}

    def test_what_cannot_be_encoded_is_dropped_and_said(self) -> None:
        exchange = self.aaa.exchange

        async def choosy(code: Code, build: Build, *, tries: int | None = None) -> Reply:
            if dict(build())["NAS-Port"] == 2:
                raise Unencodable("too long")
            return await exchange(code, build)

        self.aaa.exchange = choosy  # type: ignore[method-assign]
        self.fill(3, START, STOP)
        self.start()
        self.pass_time(2)
        assert self.journal.records == {}
        assert len(self.aaa.heard) == 4
        assert [line for line in self.lines if "cannot be sent" in line]

    def test_a_server_that_ignores_on(self) -> None:
        self.aaa.ignores = lambda said: "On" in said["Acct-Status-Type"]
        self.start(resumed=0)
        self.fill(3, START)
        self.pass_time(300)
        assert self.journal.records == {}
        assert [kind for kind, _ in self.aaa.told()] == ["Start"] * 3
        assert [line for line in self.lines if "left out" in line]

    def test_an_on_that_waits_through_an_outage_is_not_lost(self) -> None:
        self.aaa.up = False
        self.start(resumed=0)
        self.fill(3, START)
        self.pass_time(1000)
        self.aaa.up = True
        self.pass_time(60)
        assert self.journal.records == {}
        assert sorted(kind for kind, _ in self.aaa.told()) == ["Accounting-On", "Start", "Start", "Start"]

    def test_of_several_the_last_one_stands(self) -> None:
        """A broker that was restarted while no server answered."""
        self.aaa.up = False
        self.journal.add(ON)
        self.fill(1, START, STOP)
        self.journal.add(OFF)
        self.start(resumed=0)
        self.pass_time(1000)
        self.aaa.up = True
        self.pass_time(60)
        assert self.journal.records == {}
        kinds = [kind for kind, _ in self.aaa.told()]
        assert kinds[-1] == "Accounting-On"
        assert [kind for kind in kinds if "Accounting" not in kind] == ["Start", "Stop"]


class StopTests(DeliveryCase):
    def test_drains_and_says_off(self) -> None:
        self.start(resumed=0)
        self.fill(5, START, STOP)
        self.successResultOf(self.stop(staying=0))
        assert self.aaa.told()[0][0] == "Accounting-On"
        assert self.aaa.told()[-1][0] == "Accounting-Off"
        assert len(self.aaa.heard) == 12
        assert self.journal.records == {}
        assert self.clock.getDelayedCalls() == []

    def test_no_off_where_sessions_stay(self) -> None:
        self.start()
        self.successResultOf(self.stop(staying=1))
        assert self.aaa.asked == []

    def test_waits_a_little_for_what_is_under_way(self) -> None:
        self.start()
        self.aaa.held = True
        self.fill(2, START)
        done = self.stop()
        self.assertNoResult(done)
        self.aaa.answer(self.aaa.waiting[0][0])
        self.pass_time(2)
        self.assertNoResult(done)
        self.pass_time(2)
        self.successResultOf(done)
        assert len(self.journal.records) == 1
        assert self.aaa.waiting == []
        assert self.clock.getDelayedCalls() == []

    def test_the_rest_is_delivered_after_the_next_start(self) -> None:
        self.start()
        self.aaa.up = False
        self.fill(2, START, STOP)
        done = self.stop()
        self.pass_time(5)
        self.successResultOf(done)
        assert len(self.journal.records) == 4
        self.aaa.up = True
        self.deliverer = self.made()
        self.start()
        assert self.aaa.told() == [("Start", "1"), ("Start", "2"), ("Stop", "1"), ("Stop", "2")]

    def test_during_an_outage_it_does_not_wait(self) -> None:
        self.start()
        self.aaa.up = False
        self.fill(2, START)
        self.pass_time(9)
        assert self.deliverer.state().outage_since is not None
        while self.aaa.waiting:
            self.pass_time(1)
        self.successResultOf(self.stop())
        assert self.clock.getDelayedCalls() == []

    def test_before_the_start_it_is_nothing(self) -> None:
        self.successResultOf(self.stop(staying=0))
        assert self.journal.records == {}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(1, 5)),
            st.tuples(st.just("up"), st.booleans()),
            st.tuples(st.just("ignore"), st.integers(0, 5)),
            st.tuples(st.just("store"), st.booleans()),
            st.tuples(st.just("wait"), st.integers(1, 40)),
            st.tuples(st.just("restart"), st.none()),
            st.tuples(st.just("off"), st.none()),
        ),
        max_size=40,
    )
)
def test_whatever_happens_all_is_delivered_in_order(story: list[tuple[str, Any]]) -> None:
    clock, journal = VirtualClock(), MemoryJournal()
    aaa: Any = Aaa(clock)

    def begin() -> AccountingDeliverer:
        made = AccountingDeliverer(clock, clock, journal, aaa, NAS, jitter=lambda: 0.5)
        Deferred.fromCoroutine(made.start(1))
        return made

    deliverer = begin()
    written: list[int] = []
    for what, value in story:
        if what == "write":
            written.append(journal.add(INTERIM, session(value), float(len(written))).number)
        elif what == "off":
            journal.add(OFF, at=float(len(written)))
        elif what == "up":
            aaa.up = value
        elif what == "ignore":
            aaa.ignores = lambda said, value=value: said.get("NAS-Port") == value
        elif what == "store":
            journal.broken = value
        elif what == "wait":
            clock.pump([1.0] * value)
        else:
            journal.broken = False
            done = Deferred.fromCoroutine(deliverer.stop(1))
            clock.pump([1.0] * 4)
            assert done.called
            deliverer = begin()
    aaa.up, aaa.ignores, journal.broken = True, lambda _: False, False
    clock.pump([1.0] * 1300)
    assert journal.records == {}
    for number in range(1, 6):
        told = [each["Event-Timestamp"] for each in aaa.heard if each.get("NAS-Port") == number]
        expected = [place for place, _ in enumerate(written)]
        assert [each for each, last in zip(told, [-1, *told], strict=False) if each != last] == sorted({*told})
        assert {*told} <= {*expected}
    assert {each["Event-Timestamp"] for each in aaa.heard if "NAS-Port" in each} == set(range(len(written)))
