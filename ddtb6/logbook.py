# SPDX-License-Identifier: GPL-2.0-or-later
"""One log line for each thing that happened, in words an operator can act on.

Invariants: no secret is logged; what strangers can provoke is logged at most `STRANGERS_RATE` times a second, and what
was left out is counted in a line of its own.
Not here: how the log is written (twistd), what listeners on other matters keep (`broker.tally`).
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from socket import AF_INET6, inet_ntop

from twisted.logger import Logger

from ddtb6.broker import events
from ddtb6.broker.admission import Buckets
from ddtb6.broker.ports import Clock
from ddtb6.tunnel.reasons import EndReason

STRANGERS_RATE = 5.0
STRANGERS_BURST = 20


class Logbook:
    """Listens to the bus."""

    log = Logger()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._allowed = Buckets(STRANGERS_RATE, STRANGERS_BURST, limit=1)
        self._left_out = 0

    def write(self, event: events.Event) -> None:
        """Log `event`."""
        match event:
            case events.NewcomerRefused() | events.LoginRefused() | events.RequestRefused():
                self._stranger(words(event))
            case events.LoggedIn() | events.SessionEstablished():
                pass  # The session between them says the same and more.
            case events.SessionOpened(session) | events.SessionEnded(session):
                if session.user is None:
                    self._stranger(words(event), session.id)
                else:
                    self._info(words(event), session.id, session.user)
            case events.PlaneTrouble():
                self.log.error("{line}", line=words(event))
            case _:
                self._info(words(event))

    def _stranger(self, line: str, session: int | None = None) -> None:
        if not self._allowed.take("", self._clock.monotonic()):
            self._left_out += 1
            return
        if self._left_out:
            self._info(f"{self._left_out} lines about strangers were left out: more came than are logged")
            self._left_out = 0
        self._info(line, session)

    def _info(self, line: str, session: int | None = None, user: str | None = None) -> None:
        # No fields in the text: twistd formats each by itself, and a line for every session is a tenth of what a log-in
        # costs. Session and user are for `journald`.
        self.log.info(line.replace("{", "{{").replace("}", "}}"), session=session, user=user)


def words(event: events.Event) -> str:
    """What happened, in one line."""
    match event:
        case events.NewcomerRefused(link):
            return f"{link.remote} turned away: too many negotiations"
        case events.LoginRefused(link, mechanism, why):
            return f"log-in refused: {_name(event.user)}{link.remote} by {mechanism}: {why}"
        case events.RequestRefused(link, owner, status, why):
            return f"{owner} at {link.remote} was answered {status} ({why})"
        case events.LoggedIn(link, owner, mechanism):
            return f"{owner} at {link.remote} logged in by {mechanism}"
        case events.SessionEstablished(session):
            return f"session {session.id}: {session.owner} accepted the offer"
        case events.SessionOpened(session, nat):
            spec = session.spec
            return (
                f"session {session.id}: {session.owner} at {spec.remote}{' behind NAT' if nat else ''} by "
                f"{session.mechanism}, address {_text(spec.address)}, prefix {_prefix_text(spec.prefix)}"
            )
        case events.SessionEnded():
            return _ended(event)
        case events.Reconciled(kept, raised, lowered, closed):
            return (
                f"data plane made to match the store: {kept} tunnels kept, {raised} raised, {lowered} lowered, "
                f"{closed} superseded sessions closed"
            )
        case events.PlaneTrouble(what):
            return f"data plane: {what}"


def _ended(event: events.SessionEnded) -> str:
    session, ending = event.session, event.ending
    by = f" by {event.by}" if event.by else ""
    if ending.reason is EndReason.REPLACED and not event.by.startswith(f"{session.spec.remote.address}:"):
        by += ", another address: do two machines use one account?"
    return (
        f"session {session.id}: {session.owner} at {session.spec.remote} ended: {ending.reason.value}{by}; "
        f"{ending.counters.octets_in} octets in, {ending.counters.octets_out} out"
    )


def _name(claimed: str) -> str:
    """The name that a stranger gave, bounded and on one line."""
    short = claimed[:64]
    return f"{short if short.isprintable() else ascii(short)} at " if short else ""


def _text(address: IPv6Address) -> str:
    """As `str` has it, in a tenth of the time."""
    return inet_ntop(AF_INET6, address.packed)


def _prefix_text(prefix: IPv6Network | None) -> str:
    return "none" if prefix is None else f"{_text(prefix.network_address)}/{prefix.prefixlen}"
