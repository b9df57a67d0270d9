# SPDX-License-Identifier: GPL-2.0-or-later
"""Performs the effects of negotiations: what UDP and TCP have in common.

Invariant: effects are performed in order; what the broker could not answer becomes 310 on the wire and the whole story
in the log, as often as it takes to be noticed.
Not here: octets on sockets (`udp`, `tcp`), decisions (`broker`).
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ddtb6.broker.admission import Buckets
from ddtb6.broker.broker import Broker, Visitor
from ddtb6.broker.ports import Clock, StoreBusy
from ddtb6.tsp.effects import Answer, Ask, Followup, Hangup, Proven, Refused, Reply
from ddtb6.tsp.negotiation import Input
from ddtb6.tsp.status import ServerBusy, ServerError

COMPLAINTS_RATE = 0.2
"""Failures of the broker logged a second, each with its traceback: a full disk fails every log-in."""
COMPLAINTS_BURST = 5


class Wire(Protocol):
    """How one visitor is spoken to."""

    def reply(self, payload: bytes) -> None:
        """Answer the message just taken; empty is an acknowledgement without text."""

    def followup(self, payload: bytes) -> None:
        """A second answer to the same message, when the client is ready for it."""

    def proven(self) -> None:
        """The client has shown that it receives what is sent to it."""

    def hangup(self) -> None:
        """Nothing more will be said."""


class Driver:
    """Moves negotiations forward; one for the process."""

    log = Logger()

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._complaints = Buckets(COMPLAINTS_RATE, COMPLAINTS_BURST)

    def take(self, visitor: Visitor, wire: Wire, event: Input) -> None:
        """Give `event` to the visitor's negotiation and perform what comes of it, now or after the broker's answer."""
        for effect in visitor.negotiation.step(event, self._clock.monotonic()):
            match effect:
                case Reply(payload):
                    wire.reply(payload)
                case Ask():
                    Deferred.fromCoroutine(self._answer(effect, visitor, wire))
                case Followup(payload):
                    wire.followup(payload)
                case Proven():
                    wire.proven()
                case Hangup():
                    wire.hangup()

    async def _answer(self, ask: Ask, visitor: Visitor, wire: Wire) -> None:
        """Ask the broker, and go on with what it says. One coroutine: four callbacks cost more than the answer."""
        answer: Answer
        try:
            answer = await self._broker.answer(ask, visitor)
        except StoreBusy:
            answer = Refused(ask.token, ServerBusy())
        except Exception:
            if self._complaints.take("", self._clock.monotonic()):
                self.log.failure("The broker could not answer {question}", question=type(ask.question).__name__)
            answer = Refused(ask.token, ServerError())
        try:
            self.take(visitor, wire, answer)
        except Exception:
            self.log.failure("A negotiation broke down")
