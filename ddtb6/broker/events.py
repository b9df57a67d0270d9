# SPDX-License-Identifier: GPL-2.0-or-later
"""What has happened, in the past tense, and the bus that tells it to whoever listens.

Invariants: no secret in an event; a listener is called synchronously and one that raises cannot break another.
Not here: durable facts (the store), counters (`broker.tally`), log lines (`app`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ddtb6.addressing.endpoint import Link
from ddtb6.broker.ports import Ending, Session


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Credentials were accepted."""

    link: Link
    owner: str
    mechanism: str
    client_version: str


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """Credentials were not accepted, or nobody could judge them."""

    link: Link
    mechanism: str
    why: str
    """For the operator; the client was told less."""
    code: int = 300
    """Status code: 300, or 530 where nobody could judge."""
    user: str = ""
    """The name that was claimed, whatever it holds; empty: none was."""


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A command was refused with a status code."""

    link: Link
    owner: str
    status: str
    """The status line, such as ``301 No more tunnels available``."""
    why: str


@dataclass(frozen=True, slots=True)
class NewcomerRefused:
    """Admission limits turned a negotiation away."""

    link: Link


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A tunnel was offered and stands."""

    session: Session
    nat: bool


@dataclass(frozen=True, slots=True)
class SessionEstablished:
    """The client accepted the offer."""

    session: Session


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A tunnel was taken down."""

    session: Session
    ending: Ending
    by: str
    """Who or what ended it, such as the endpoint of the log-in that replaced it; empty where the reason says all."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """At start or after trouble, the data plane was made to match the store."""

    kept: int
    raised: int
    lowered: int
    closed: int
    """Sessions that another session of their owner had replaced already."""


@dataclass(frozen=True, slots=True)
class PlaneTrouble:
    """The data plane refused something, or was lost."""

    what: str


Event = (
    LoggedIn
    | LoginRefused
    | RequestRefused
    | NewcomerRefused
    | SessionOpened
    | SessionEstablished
    | SessionEnded
    | Reconciled
    | PlaneTrouble
)


class Bus:
    """Synchronous fan-out."""

    def __init__(self, on_fault: Callable[[Event, Exception], None]) -> None:
        """`on_fault` is told of a listener that raised."""
        self._listeners: list[Callable[[Event], None]] = []
        self._on_fault = on_fault

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as fault:
                self._on_fault(event, fault)
