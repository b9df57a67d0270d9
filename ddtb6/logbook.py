# SPDX-License-Identifier: GPL-2.0-or-later
"""One log line for each thing that happened, in words an operator can act on.

Invariants: no secret is logged; what strangers can provoke is logged at most `STRANGERS_RATE` times a second, and what
was left out is counted in a line of its own.
Not here: how the log is written (twistd), what listeners on other matters keep (`broker.tally`).
"""

from __future__ import annotations

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
            case events.NewcomerRefused(link):
                self._stranger("{remote} turned away: too many negotiations", remote=link.remote)
            case events.LoginRefused(link, mechanism, why):
                self._stranger(
                    "log-in refused: {remote} by {mechanism}: {why}", remote=link.remote, mechanism=mechanism, why=why
                )
            case events.RequestRefused(link, owner, status, why):
                self._stranger(
                    "{owner} at {remote} was answered {status} ({why})",
                    owner=owner,
                    remote=link.remote,
                    status=status,
                    why=why,
                )
            case events.LoggedIn():
                pass  # The session that follows says the same and more.
            case events.SessionOpened(session, nat):
                self.log.info(
                    "session {id}: {owner} at {remote}{nat} by {mechanism}, address {address}, prefix {prefix}",
                    id=session.id,
                    owner=session.owner,
                    remote=session.spec.remote,
                    nat=" behind NAT" if nat else "",
                    mechanism=session.mechanism,
                    address=session.spec.address,
                    prefix=session.spec.prefix or "none",
                )
            case events.SessionEstablished():
                pass
            case events.SessionEnded():
                self._ended(event)
            case events.Reconciled(kept, raised, lowered, closed):
                self.log.info(
                    "data plane made to match the store: {kept} tunnels kept, {raised} raised, {lowered} lowered, "
                    "{closed} superseded sessions closed",
                    kept=kept,
                    raised=raised,
                    lowered=lowered,
                    closed=closed,
                )
            case events.PlaneTrouble(what):
                self.log.error("data plane: {what}", what=what)

    def _ended(self, event: events.SessionEnded) -> None:
        session, ending = event.session, event.ending
        by = f" by {event.by}" if event.by else ""
        if ending.reason is EndReason.REPLACED and not event.by.startswith(f"{session.spec.remote.address}:"):
            by += ", another address: do two machines use one account?"
        self.log.info(
            "session {id}: {owner} at {remote} ended: {reason}{by}; {octets_in} octets in, {octets_out} out",
            id=session.id,
            owner=session.owner,
            remote=session.spec.remote,
            reason=ending.reason.value,
            by=by,
            octets_in=ending.counters.octets_in,
            octets_out=ending.counters.octets_out,
        )

    def _stranger(self, text: str, **fields: object) -> None:
        if not self._allowed.take("", self._clock.monotonic()):
            self._left_out += 1
            return
        if self._left_out:
            self.log.warn("{count} lines about refusals were left out, more came than are logged", count=self._left_out)
            self._left_out = 0
        self.log.info(text, **fields)
