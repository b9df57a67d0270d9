# SPDX-License-Identifier: GPL-2.0-or-later
"""Effects are performed in order; what the broker could not answer becomes a status, and not a flood of log lines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.negotiations import CREATE, OFFER, PROOF, in_state
from support.virtual import VirtualClock
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher

from ddtb6.broker.ports import StoreBusy, StoreError
from ddtb6.transport.driver import COMPLAINTS_BURST, Driver
from ddtb6.tsp.effects import Answer, Ask, Granted, Judged
from ddtb6.tsp.negotiation import Negotiation
from ddtb6.tsp.states import State


class Recorder:
    """A wire, a visitor and a broker in one: writes down what happens to it, in order."""

    def __init__(self, negotiation: Negotiation) -> None:
        self.negotiation = negotiation
        self.happened: list[object] = []
        self.outcome: Answer | Exception | None = None
        self.asked: Deferred[Answer] | None = None

    async def answer(self, ask: Ask, visitor: object) -> Answer:
        self.happened.append(type(ask.question).__name__)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is None:
            self.asked = Deferred()
            return await self.asked
        return self.outcome

    def reply(self, payload: bytes) -> None:
        _, _, rest = payload.partition(b"\r\n")
        self.happened.append(rest[:3] or "reply")

    def followup(self, payload: bytes) -> None:
        self.happened.append("followup")

    def proven(self) -> None:
        self.happened.append("proven")

    def hangup(self) -> None:
        self.happened.append("hangup")


def take(recorder: Recorder, event: object, driver: Driver | None = None) -> list[object]:
    made = driver or Driver(recorder, VirtualClock())  # type: ignore[arg-type]
    recorder.happened.clear()
    made.take(recorder, recorder, event)  # type: ignore[arg-type]
    return recorder.happened


@pytest.fixture
def failures() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []

    def keep(event: LogEvent) -> None:
        if event.get("log_failure") is not None:
            events.append(event)

    globalLogPublisher.addObserver(keep)
    yield events
    globalLogPublisher.removeObserver(keep)


def test_in_order() -> None:
    recorder = Recorder(in_state(State.RESPONSE))
    recorder.outcome = Judged(recorder.negotiation._token + 1, "0" * 32)
    assert take(recorder, PROOF) == ["Judge", "proven", "reply", "followup"]


def test_an_answer_at_once_and_one_later() -> None:
    recorder = Recorder(in_state(State.COMMAND))
    recorder.outcome = Granted(recorder.negotiation._token + 1, OFFER)
    assert take(recorder, CREATE) == ["Grant", b"200"]
    recorder.outcome = None
    assert take(recorder, CREATE) == ["Grant"]
    assert recorder.asked is not None
    recorder.asked.callback(Granted(recorder.negotiation._token, OFFER))
    assert recorder.happened == ["Grant", b"200"]


def test_a_store_that_is_busy_is_530_and_not_logged(failures: list[LogEvent]) -> None:
    recorder = Recorder(in_state(State.COMMAND))
    recorder.outcome = StoreBusy("100000 writes are waiting")
    assert take(recorder, CREATE) == ["Grant", b"530"]
    assert recorder.negotiation.state is State.COMMAND
    assert failures == []


@pytest.mark.parametrize("error", [StoreError("The disk is full."), ValueError("a bug"), AssertionError("a bug")])
def test_whatever_else_the_broker_raises_is_310_and_logged_once_in_a_while(
    failures: list[LogEvent], error: Exception
) -> None:
    clock = VirtualClock()
    recorder = Recorder(in_state(State.COMMAND))
    recorder.outcome = error
    driver = Driver(recorder, clock)  # type: ignore[arg-type]
    for _ in range(1000):
        assert take(recorder, CREATE, driver) == ["Grant", b"310"]
    assert len(failures) == COMPLAINTS_BURST
    clock.advance(60)
    take(recorder, CREATE, driver)
    assert len(failures) == COMPLAINTS_BURST + 1


def test_a_wire_that_breaks_is_logged_and_breaks_nothing_else(failures: list[LogEvent]) -> None:
    recorder = Recorder(in_state(State.COMMAND))
    recorder.outcome = Granted(recorder.negotiation._token + 1, OFFER)

    def broken(payload: bytes) -> None:
        raise OSError("of its own")

    recorder.reply = broken  # type: ignore[method-assign]
    assert take(recorder, CREATE) == ["Grant"]
    assert len(failures) == 1
