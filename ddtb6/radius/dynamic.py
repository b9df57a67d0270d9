# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic authorization: somebody else ends a session (Disconnect) or changes its terms (CoA).

Source: RFC 5176. Where it leaves a choice: a request for several sessions is refused (508); one without an
Event-Timestamp is served unless the configuration says otherwise, since radclient and many portals send none.
Invariants: what a stranger or a wrong secret sends changes nothing but a counter; a request is done as a whole or not
at all, and answered when that is durable; a repeated request is answered again and not done again; memory is bounded by
`REMEMBERED` and `MOST_UNDER_WAY`.
Not here: sockets (`transport.socket`), signatures (`radius.packets`), which session is meant (`radius.selection`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.ports import Clock, Session, StoreError, Terms
from ddtb6.radius import selection
from ddtb6.radius.attributes import Attribute, Malformed, Received
from ddtb6.radius.nas import Nas
from ddtb6.radius.packets import Code, Fault, Incoming, Refused, make_reply, read_request
from ddtb6.radius.records import user_name
from ddtb6.radius.selection import IDENTIFYING, NAMING_NAS, Nak, check_nas, select
from ddtb6.radius.terms import LEAST_INTERIM
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import TunnelId

WINDOW = 300.0
"""Seconds by which an Event-Timestamp may differ from our clock, and for which answers are remembered."""
REMEMBERED = 4096
"""Answers remembered; the oldest go first. One client can ask 256 different things within the window (RFC 5176)."""
MOST_UNDER_WAY = 256
"""Requests that are being done at once; more are refused (506)."""
WARNING_INTERVAL = 60.0
"""Seconds between two warnings about the same client."""
LINES_AT_ONCE, LINES_PER_SECOND = 50, 10.0
"""Log lines about what clients asked for."""

CHANGEABLE = frozenset({"Session-Timeout", "Idle-Timeout", "Acct-Interim-Interval", "Class", "Filter-Id"})
"""What a CoA can change; each replaces all that the session had of it."""

_ACCOMPANYING = frozenset({"Event-Timestamp", "Message-Authenticator", "Proxy-State", "Reply-Message"})
"""Allowed in any request, and nothing to be done about. TSP cannot show a Reply-Message to a client."""
_IN_DISCONNECT = frozenset({"Class", "Acct-Terminate-Cause"})
_ANSWERS = {
    Code.DISCONNECT_REQUEST: (Code.DISCONNECT_ACK, Code.DISCONNECT_NAK),
    Code.COA_REQUEST: (Code.COA_ACK, Code.COA_NAK),
}


class Sessions(selection.Sessions, Protocol):
    """What of the broker is needed (`broker.broker`)."""

    async def disconnect(self, tunnel: TunnelId, reason: EndReason) -> bool: ...

    async def change_terms(self, tunnel: TunnelId, terms: Terms) -> bool: ...


class Sender(Protocol):
    """The socket that a request came through (`transport.socket.UdpSocket`)."""

    def send(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> bool: ...


@dataclass(frozen=True, slots=True)
class DynamicClient:
    """Somebody who may send requests."""

    name: str
    address: str
    """Numeric; requests from other addresses are not read."""
    secret: bytes = field(repr=False)
    must_sign: bool = False
    """Requests without a Message-Authenticator are dropped."""


_Key = tuple[Endpoint, int, bytes]


class DynamicAuthorization:
    """Serves requests; ``UdpSocket(reactor, endpoint, dynamic.receive)`` is a socket that listens for it."""

    log = Logger()

    def __init__(
        self,
        clock: Clock,
        sessions: Sessions,
        nas: Nas,
        clients: Sequence[DynamicClient],
        *,
        must_date: bool = False,
        interim_fixed: bool = False,
    ) -> None:
        """`must_date`: requests without an Event-Timestamp are dropped.

        `interim_fixed`: the configuration's interim interval goes before what a client says.
        Raises ValueError for an address that is a name.
        """
        self._clock, self._sessions, self._nas = clock, sessions, nas
        self._clients: dict[str, list[DynamicClient]] = {}
        for each in clients:
            self._clients.setdefault(_canonical(each.address), []).append(each)
        self._must_date, self._interim_fixed = must_date, interim_fixed
        self._answers: OrderedDict[_Key, tuple[float, bytes | None]] = OrderedDict()
        """When it was asked for, and the answer; None while it is being done."""
        self._under_way = 0
        self._changing: dict[str, DeferredLock] = {}
        """By owner, while a change of the session is being written."""
        self._warned: dict[str, float] = {}
        self._lines, self._lines_at = float(LINES_AT_ONCE), clock.monotonic()
        self.counters: Counter[str] = Counter()
        """``disconnected``, ``changed``, ``repeated``, ``stale``, ``undated``, ``refused-CAUSE``, and the values of
        `packets.Fault` for what was dropped."""

    def receive(self, socket: Sender, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """A datagram. Never raises."""
        clients = self._clients.get(_canonical(remote.address))
        if clients is None:
            self.counters[Fault.WRONG_SOURCE.value] += 1
            return
        try:
            client, request = self._verified(datagram, clients)
        except Refused as refused:
            self.counters[refused.fault.value] += 1
            self._suspect(clients[0], refused.fault)
            return
        self._forget_old()
        key = (remote, request.identifier, request.authenticator)
        if key in self._answers:
            self.counters["repeated"] += 1
            answer = self._answers[key][1]
            if answer is not None:
                socket.send(answer, local, remote)
            return
        if not self._current(client, request):
            return
        self._answers[key] = (self._clock.monotonic(), None)

        async def serve() -> None:
            answer = await self._answer(client, request)
            if key in self._answers:
                self._answers[key] = (self._answers[key][0], answer)
            socket.send(answer, local, remote)

        Deferred.fromCoroutine(serve()).addErrback(lambda failure: self.log.failure("an answer was not made", failure))

    # --- may it be served? ----------------------------------------------------------------------------------------

    @staticmethod
    def _verified(datagram: bytes, clients: Sequence[DynamicClient]) -> tuple[DynamicClient, Incoming]:
        """Which of the clients at an address it is, by its secret. Raises Refused."""
        for client in clients:
            try:
                request = read_request(datagram, client.secret)
            except Refused as refused:
                if refused.fault is not Fault.WRONG_AUTHENTICATOR:
                    raise
                continue
            if request.code not in _ANSWERS:
                raise Refused(Fault.WRONG_CODE)
            if client.must_sign and not request.signed:
                raise Refused(Fault.UNSIGNED)
            return client, request
        raise Refused(Fault.WRONG_AUTHENTICATOR)

    def _current(self, client: DynamicClient, request: Incoming) -> bool:
        """Is it new? A copy of an old one, sent by somebody on the way, is not."""
        dates = request.attributes.octets("Event-Timestamp")
        if not dates and not self._must_date:
            return True
        if len(dates) != 1 or len(dates[0]) != 4:
            self.counters["undated"] += 1
            self._warn(client, "sends requests without an Event-Timestamp, which are dropped; it has to add one")
            return False
        off = int.from_bytes(dates[0]) - self._clock.epoch()
        if abs(off) > WINDOW:
            self.counters["stale"] += 1
            self._warn(client, f"sent a request whose Event-Timestamp is {off:+.0f} s off; set both clocks right")
            return False
        return True

    def _suspect(self, client: DynamicClient, fault: Fault) -> None:
        if fault is Fault.WRONG_AUTHENTICATOR:
            self._warn(client, "sends requests that are not made with our shared secret: one of the two is wrong")
        elif fault is Fault.UNSIGNED:
            self._warn(client, "sends requests without a Message-Authenticator, which are dropped; it has to add one")

    def _warn(self, client: DynamicClient, what: str) -> None:
        now = self._clock.monotonic()
        if now - self._warned.get(client.name, -WARNING_INTERVAL) >= WARNING_INTERVAL:
            self._warned[client.name] = now
            self.log.warn(
                "dynamic authorization client {name} ({address}) {what}",
                name=client.name,
                address=client.address,
                what=what,
            )

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        while self._answers:
            asked, answer = next(iter(self._answers.values()))
            full = len(self._answers) >= REMEMBERED
            if not full and now - asked <= WINDOW:
                break
            if answer is None and not full:
                break
            self._answers.popitem(last=False)

    # --- serving --------------------------------------------------------------------------------------------------

    async def _answer(self, client: DynamicClient, request: Incoming) -> bytes:
        """Do it, and say so; or why not."""
        ack, nak = _ANSWERS[request.code]
        attributes: list[Attribute] = []
        self._under_way += 1
        try:
            if self._under_way > MOST_UNDER_WAY:
                raise Nak("Resources-Unavailable", "too many requests at once")
            check_nas(request.attributes, self._nas)
            if request.code is Code.DISCONNECT_REQUEST:
                what = await self._disconnect(request.attributes)
                attributes.append(("Acct-Terminate-Cause", "Admin-Reset"))
            else:
                what = await self._change(request.attributes)
            code = ack
            self._say(f"{client.name} {what}")
        except Nak as refusal:
            code = nak
            attributes.append(("Error-Cause", refusal.cause))
            self.counters[f"refused-{refusal.cause}"] += 1
            self._say(f"{client.name} was refused ({refusal.cause}): {refusal}")
        finally:
            self._under_way -= 1
        # RFC 5176 section 3.6 has Event-Timestamp in each of the four answers.
        attributes.append(("Event-Timestamp", int(self._clock.epoch())))
        return make_reply(code, request, client.secret, attributes)

    async def _disconnect(self, asked: Received) -> str:
        self._only(asked, IDENTIFYING | _IN_DISCONNECT)
        session = select(asked, self._sessions, self._nas)
        classes = asked.octets("Class")
        try:
            if classes:  # Section 3.6, note 4: it goes into the Stop.
                await self._sessions.change_terms(session.id, replace(session.terms, account_class=classes))
            done = await self._sessions.disconnect(session.id, EndReason.DISCONNECTED)
        except StoreError as error:
            raise Nak("Resources-Unavailable", str(error)) from None
        if not done:
            raise Nak("Session-Context-Not-Found", "the session ended meanwhile")
        self.counters["disconnected"] += 1
        return f"ended {_named(session)}"

    async def _change(self, asked: Received) -> str:
        if "Service-Type" in asked:
            raise Nak("Unsupported-Service", "no Service-Type is served, neither Authorize Only nor a change of it")
        self._only(asked, IDENTIFYING | CHANGEABLE)
        if CHANGEABLE.isdisjoint(asked.names()):
            raise Nak("Missing-Attribute", f"nothing to change; possible are {', '.join(sorted(CHANGEABLE))}")
        session = select(asked, self._sessions, self._nas, renumbering=True)
        async with self._alone(session.owner):
            # Another change may have been made meanwhile, which this one must not undo.
            session = select(asked, self._sessions, self._nas, renumbering=True)
            terms = self._changed(session.terms, asked)
            try:
                done = await self._sessions.change_terms(session.id, terms)
            except StoreError as error:
                raise Nak("Resources-Unavailable", str(error)) from None
        if not done:
            raise Nak("Session-Context-Not-Found", "the session ended meanwhile")
        self.counters["changed"] += 1
        return f"changed {', '.join(sorted(CHANGEABLE.intersection(asked.names())))} of {_named(session)}"

    @asynccontextmanager
    async def _alone(self, owner: str) -> AsyncIterator[None]:
        """One change of an owner's session after the other: each is made of what the one before has left."""
        lock = self._changing.setdefault(owner, DeferredLock())
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()  # Those who waited may be through when this returns.
            if not lock.locked and self._changing.get(owner) is lock:
                del self._changing[owner]

    def _only(self, asked: Received, allowed: frozenset[str]) -> None:
        strange = [each for each in asked.names() if each not in allowed | NAMING_NAS | _ACCOMPANYING]
        if strange:
            raise Nak("Unsupported-Attribute", ", ".join(strange))

    def _changed(self, terms: Terms, asked: Received) -> Terms:
        """`terms` with everything that is asked for. Raises Nak, of all of it, for anything that cannot be."""
        try:
            session_limit = asked.integer("Session-Timeout")
            idle_limit = asked.integer("Idle-Timeout")
            interim = asked.integer("Acct-Interim-Interval")
            filter_ids = asked.texts("Filter-Id")
        except Malformed as error:
            raise Nak("Invalid-Attribute-Value", str(error)) from None
        classes = asked.octets("Class")
        if not all(classes):
            raise Nak("Invalid-Attribute-Value", "Class is empty")
        if interim is not None:
            if self._interim_fixed:
                raise Nak("Administratively-Prohibited", "the interim interval is fixed by the configuration")
            if 0 < interim < LEAST_INTERIM:
                raise Nak("Invalid-Attribute-Value", f"Acct-Interim-Interval {interim} is below {LEAST_INTERIM:.0f}")
        if session_limit is not None:
            terms = replace(terms, session_limit=float(session_limit))
        if idle_limit is not None:
            terms = replace(terms, idle_limit=float(idle_limit))
        if interim is not None:
            terms = replace(terms, interim_interval=float(interim))
        if classes:
            terms = replace(terms, account_class=classes)
        if filter_ids:
            terms = replace(terms, filter_ids=filter_ids)
        return terms

    def _say(self, line: str) -> None:
        """In the log, unless too much is said there already; the counters have it all."""
        now = self._clock.monotonic()
        self._lines = min(self._lines + (now - self._lines_at) * LINES_PER_SECOND, float(LINES_AT_ONCE))
        self._lines_at = now
        if self._lines >= 1:
            self._lines -= 1
            self.log.info("dynamic authorization: {line}", line=line)


def _named(session: Session) -> str:
    return f"session {session.id} ({session.accounted_as:016x}) of {user_name(session) or session.owner}"


def _canonical(address: str) -> str:
    """Raises ValueError."""
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)
