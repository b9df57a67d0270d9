# SPDX-License-Identifier: GPL-2.0-or-later
"""Performs the effects of negotiations: what UDP and TCP have in common.

Invariant: effects are performed in order; what the broker could not answer becomes 310 on the wire and the whole story
in the log.
Not here: octets on sockets (`udp`, `tcp`), decisions (`broker`).
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ddtb6.broker.broker import Broker, Visitor
from ddtb6.broker.ports import Clock, StoreBusy
from ddtb6.tsp.effects import Answer, Ask, Established, Followup, Hangup, Proven, Refused, Reply
from ddtb6.tsp.negotiation import Input
from ddtb6.tsp.status import ServerBusy, ServerError


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

    def take(self, visitor: Visitor, wire: Wire, event: Input) -> None:
        """Give `event` to the visitor's negotiation and perform what comes of it, now or after the broker's answer."""
        for effect in visitor.negotiation.step(event, self._clock.monotonic()):
            match effect:
                case Reply(payload):
                    wire.reply(payload)
                case Ask():
                    answer = Deferred.fromCoroutine(self._broker.answer(effect, visitor))
                    answer.addErrback(self._fault, effect)
                    answer.addCallback(lambda got: self.take(visitor, wire, got))
                    answer.addErrback(lambda failure: self.log.failure("A negotiation broke down", failure))
                case Followup(payload):
                    wire.followup(payload)
                case Proven():
                    wire.proven()
                case Established():
                    self._broker.established(visitor)
                case Hangup():
                    wire.hangup()

    def _fault(self, failure: Failure, ask: Ask) -> Answer:
        if failure.check(StoreBusy):
            return Refused(ask.token, ServerBusy())
        self.log.failure("The broker could not answer {question}", failure, question=type(ask.question).__name__)
        return Refused(ask.token, ServerError())
