# SPDX-License-Identifier: GPL-2.0-or-later
"""One RADIUS server at one address and port: sends to it, sends again, believes its answers, notices its death.

Source: RFC 2865 section 2.5 and 5080 section 2.2.1 (a retransmission is the same octets), 5997 (Status-Server: never
retransmitted, only to a server that is marked dead).
Invariants: a datagram that is not believed changes nothing but a counter, and the waiting goes on; no request waits
beyond its deadline; sockets, requests under way and requests in the queue are bounded; sockets are never connected (an
ICMP error would close them, and a forger's source is checked here anyway).
Not here: which server is asked after which (`radius.exchange`), sockets (`radius.lane`), packets (`radius.packets`).
"""

from __future__ import annotations

import errno
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.ports import Clock
from ddtb6.radius.attributes import Attribute
from ddtb6.radius.lane import IDENTIFIERS, Build, Flight, Lane
from ddtb6.radius.packets import Code, Fault, Refused, Reply, make_request, read_reply

FIRST_LANES, MOST_LANES = 4, 16
"""Sockets that are used in turn, and how many there may be when these are full."""
FIRST_WINDOW, LEAST_WINDOW = 200, 32
"""Requests under way at once: so many at first, never fewer. FreeRADIUS' socket holds about 200."""
MOST_WAITING = 20_000
"""Requests that may wait for their turn."""
PROBED = 10
"""Times the dead time that one is left to probes that has answered them. Not for ever: another program may serve that
address by now, which knows no Status-Server."""
WARNING_INTERVAL = 60.0
"""Seconds between two warnings about the same."""
TRUST = 10.0
"""Seconds for which a genuine answer proves that the secret is right, whatever else comes."""

TOO_MANY = "too many requests are under way"

_TRANSIENT = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is and what is agreed with it."""

    name: str
    address: str
    """A numeric IPv4 or IPv6 address; names are not resolved."""
    port: int
    secret: bytes = field(repr=False)
    message_authenticator: str = "auto"
    """In answers to Access-Request: `yes` demands it, `no` does not, `auto` demands it after the first that came."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long is waited for what, in seconds."""

    timeout: float = 1.0
    """For an answer to the first datagram; doubles with each further one."""
    tries: int = 3
    """Datagrams to one server."""
    patience: float = 15.0
    """For an answer of any server."""
    dead_time: float = 30.0
    """Until a dead server that knows no Status-Server is tried with a request again."""
    probe_interval: float = 10.0
    """Between two Status-Server to a dead server."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """How a server does, for people."""

    name: str
    endpoint: Endpoint
    alive: bool
    """It answers, or was not asked yet."""
    answered_ago: float | None
    """Seconds since its last genuine answer; None: there was none."""
    round_trip: float | None
    """Seconds from request to answer, smoothed."""
    in_flight: int
    queued: int
    signs: bool | None
    """Whether its answers have a Message-Authenticator; None: not known yet."""
    counters: Mapping[str, int]
    """``sent``, ``retransmitted``, ``answered``, ``unanswered``, ``not-sent``, and the values of `packets.Fault`."""


class Silent(Exception):
    """This server gave no answer; the text says why."""


class Peer:
    """One server."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        clock: Clock,
        server: Server,
        timing: Timing,
        identity: Iterable[Attribute],
        entropy: Callable[[int], bytes],
        jitter: Callable[[], float],
    ) -> None:
        """`identity` goes into Status-Server. Opens nothing yet. Raises ValueError for an address that is a name."""
        self.server = server
        self.endpoint = Endpoint(str(ip_address(server.address)), server.port)
        self.alive = True
        self._reactor, self._clock, self._timing = reactor, clock, timing
        self._identity, self._entropy, self._jitter = tuple(identity), entropy, jitter
        self._lanes: deque[Lane] = deque()
        self._queue: deque[Flight] = deque()
        self._in_flight = 0
        self._window = float(FIRST_WINDOW)
        self._closed = False
        self._answers_status = False
        self._on_trial = False
        self._dead_since = 0.0
        self._answered: float | None = None
        self._round_trip: float | None = None
        self._fastest = math.inf
        self._filling = False
        self._probing: Any = None
        self._signs: bool | None = None
        self._counters: Counter[str] = Counter()
        self._warned: dict[str, float] = {}

    # --- for the exchange -----------------------------------------------------------------------------------------

    @property
    def worth_asking(self) -> bool:
        """It is alive; or it has been dead for a while, and nobody else is trying."""
        if self.alive or self._on_trial:
            return self.alive
        wait = self._timing.dead_time * (PROBED if self._answers_status else 1)
        return self._clock.monotonic() - self._dead_since >= wait

    def ask(self, code: Code, build: Build, deadline: float, tries: int) -> Deferred[Reply]:
        """Fires with the answer; fails with Silent, or with what `build` raised.

        `build` gives the attributes when it is the request's turn. `deadline` is in monotonic seconds.
        """
        flight = Flight(code, build, deadline, tries, self._timing.timeout, self._cancelled)
        if not self.alive:
            self._on_trial = flight.trial = True
        if self._closed:
            self._fail(flight, "the broker is stopping")
        elif self._in_flight < self._window:
            self._launch(flight)
        elif len(self._queue) < MOST_WAITING:
            self._queue.append(flight)
            flight.timer = self._reactor.callLater(max(deadline - self._clock.monotonic(), 0), self._tired, flight)
        else:
            self._fail(flight, "too many requests wait for it")
        return flight.answer

    def probe(self, wait: float) -> Deferred[Reply]:
        """One Status-Server. Fires with the answer; fails with Silent after `wait` seconds."""
        deadline = self._clock.monotonic() + wait
        flight = Flight(Code.STATUS_SERVER, lambda: self._identity, deadline, 1, wait, self._cancelled)
        if self._closed:
            self._fail(flight, "the broker is stopping")
        else:
            self._launch(flight)
        return flight.answer

    def state(self) -> ServerState:
        """A snapshot."""
        ago = None if self._answered is None else self._clock.monotonic() - self._answered
        return ServerState(
            name=self.server.name,
            endpoint=self.endpoint,
            alive=self.alive,
            answered_ago=ago,
            round_trip=self._round_trip,
            in_flight=self._in_flight,
            queued=len(self._queue),
            signs=self._signs,
            counters=dict(self._counters),
        )

    async def close(self) -> None:
        """Give up what waits, close the sockets."""
        self._closed = True
        self._stop_probing()
        for lane in self._lanes:
            for flight in list(lane.flights.values()):
                self._fail(flight, "the broker is stopping")
        self._give_up_queue("the broker is stopping")
        while self._lanes:
            await self._lanes.pop().close()

    # --- sending --------------------------------------------------------------------------------------------------

    def _launch(self, flight: Flight) -> None:
        """Give it an identifier, make its packet and send it."""
        self._stop_timer(flight)
        if self._clock.monotonic() >= flight.deadline:
            self._fail(flight, TOO_MANY)
            return
        try:
            lane = self._lane()
        except (CannotListenError, OSError) as error:
            self._fail(flight, f"no socket can be opened: {error}")
            return
        identifier = lane.free.popleft()
        try:
            flight.request = make_request(
                flight.code, identifier, self.server.secret, flight.build(), self._entropy(16)
            )
        except Exception as error:
            lane.free.append(identifier)
            self._finish(flight)
            flight.answer.errback(error)
            return
        lane.flights[identifier] = flight
        flight.lane = lane
        self._in_flight += 1
        self._transmit(flight)

    def _transmit(self, flight: Flight) -> None:
        assert flight.lane is not None
        assert flight.request is not None
        now = self._clock.monotonic()
        again = flight.first_sent is not None
        if again:
            flight.repeated = True
        else:
            flight.first_sent = now
        wait = flight.wait * (0.9 + 0.2 * self._jitter())
        flight.wait *= 2
        flight.tries -= 1
        try:
            flight.lane.write(flight.request.octets, self.endpoint)
            self._counters["retransmitted" if again else "sent"] += 1
        except OSError as error:
            self._counters["not-sent"] += 1
            if error.errno not in _TRANSIENT:
                wait, flight.tries = 0.0, 0
                flight.why = f"{error.strerror}"
        flight.timer = self._reactor.callLater(min(wait, max(flight.deadline - now, 0.0)), self._overdue, flight)

    def _overdue(self, flight: Flight) -> None:
        flight.timer = None
        if flight.tries > 0 and self._clock.monotonic() < flight.deadline:
            self._window = max(self._window * 0.9, LEAST_WINDOW)
            self._transmit(flight)
            return
        self._counters["unanswered"] += 1
        heard = self._answered is not None and flight.first_sent is not None and self._answered > flight.first_sent
        # Whoever signs its accepts and not its rejects must not seem dead to all because of one wrong password.
        heard = heard or (flight.unsigned and self._signs is True)
        if flight.tries <= 0 and not heard and flight.code is not Code.STATUS_SERVER:
            self._died(flight.why)
        self._fail(flight, flight.why or "no answer")

    def _tired(self, flight: Flight) -> None:
        flight.timer = None
        self._queue.remove(flight)
        self._fail(flight, TOO_MANY)

    def _lane(self) -> Lane:
        """A socket with a free identifier; each in turn. Raises CannotListenError or OSError."""
        free = sum(1 for each in self._lanes if each.free)
        if len(self._lanes) < (MOST_LANES if not free else FIRST_LANES):
            try:
                self._lanes.appendleft(Lane(self._reactor, self.endpoint, self._received))
                return self._lanes[0]
            except (CannotListenError, OSError):
                if not free:
                    raise
        if not free:
            raise OSError(errno.EBUSY, "all identifiers are in use")
        self._lanes.rotate()
        while not self._lanes[0].free:
            self._lanes.rotate()
        return self._lanes[0]

    # --- the end of a request -------------------------------------------------------------------------------------

    def _finish(self, flight: Flight) -> None:
        """It waits no longer; the next one's turn. Its identifier is used again last of all."""
        self._stop_timer(flight)
        if flight.trial:
            self._on_trial = flight.trial = False
        if flight.lane is not None and flight.request is not None:
            del flight.lane.flights[flight.request.identifier]
            flight.lane.free.append(flight.request.identifier)
            flight.lane = None
            self._in_flight -= 1
            self._next()

    def _next(self) -> None:
        """Fill the window from the queue."""
        if self._filling or self._closed:
            return
        self._filling = True  # What cannot be sent ends at once, which comes here again.
        while self._queue and self._in_flight < self._window:
            self._launch(self._queue.popleft())
        self._filling = False

    def _fail(self, flight: Flight, why: str) -> None:
        self._finish(flight)
        flight.answer.errback(Silent(f"{self.server.name}: {why}"))

    def _cancelled(self, flight: Flight) -> None:
        if flight in self._queue:
            self._queue.remove(flight)
        self._finish(flight)

    def _give_up_queue(self, why: str) -> None:
        waiting, self._queue = self._queue, deque()
        for flight in waiting:
            self._fail(flight, why)

    @staticmethod
    def _stop_timer(flight: Flight) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
            flight.timer = None

    # --- answers --------------------------------------------------------------------------------------------------

    def _received(self, lane: Lane, datagram: bytes, source: tuple[str, int]) -> None:
        try:
            if source != self.endpoint:
                raise Refused(Fault.WRONG_SOURCE)
            if len(datagram) < 2:
                raise Refused(Fault.MALFORMED)
            flight = lane.flights.get(datagram[1])
            if flight is None or flight.request is None:
                raise Refused(Fault.NOT_EXPECTED)
            reply = read_reply(datagram, flight.request, self.server.secret, self.server.name)
            if flight.code is Code.ACCESS_REQUEST:
                self._judge_signing(flight, reply.signed)
        except Refused as refused:
            self._counters[refused.fault.value] += 1
            self._suspect(refused.fault)
            return
        self._heard(flight)
        self._finish(flight)
        flight.answer.callback(reply)

    def _judge_signing(self, flight: Flight, signed: bool) -> None:
        """Note whether answers to Access-Request are signed; raises Refused when they must be and this one is not."""
        policy = self.server.message_authenticator
        if signed:
            self._signs = True
        elif policy == "yes" or (policy == "auto" and self._signs):
            flight.unsigned, flight.why = True, "it does not sign all of its answers"
            raise Refused(Fault.UNSIGNED)
        elif self._signs is None:
            self._signs = False
            if policy == "auto":
                self._warn(
                    "signing",
                    "does not sign its answers with a Message-Authenticator, so that whoever is on the way can forge "
                    "them (CVE-2024-3596); update the server, or let it add one",
                    for_good=True,
                )

    def _suspect(self, fault: Fault) -> None:
        """Say what an operator can put right."""
        now = self._clock.monotonic()
        if fault is Fault.WRONG_AUTHENTICATOR and (self._answered is None or now - self._answered > TRUST):
            self._warn(
                "secret",
                "answers, but its answers are not made with our shared secret: one of the two secrets is wrong",
            )
        elif fault is Fault.UNSIGNED:
            self._warn(
                "unsigned",
                "sent an answer without a Message-Authenticator, which was dropped; have it sign all of its answers, "
                "or set message_authenticator to no",
            )

    def _warn(self, about: str, what: str, for_good: bool = False) -> None:
        """At most one line a minute about the same, or one ever."""
        now = self._clock.monotonic()
        if now - self._warned.get(about, -WARNING_INTERVAL) >= WARNING_INTERVAL:
            self._warned[about] = float("inf") if for_good else now
            self.log.warn("RADIUS server {who} {what}", who=self._who, what=what)

    @property
    def _who(self) -> str:
        return f"{self.server.name} ({self.endpoint})"

    # --- life and death -------------------------------------------------------------------------------------------

    def _heard(self, flight: Flight) -> None:
        """A genuine answer came."""
        now = self._answered = self._clock.monotonic()
        self._counters["answered"] += 1
        if flight.first_sent is not None and not flight.repeated:  # Else there is no telling which one was answered.
            took = now - flight.first_sent
            self._round_trip = took if self._round_trip is None else 0.875 * self._round_trip + 0.125 * took
            self._fastest = min(self._fastest, took)
            # A server that is slow by nature can take more; one that is slow because much waits there cannot.
            if self._queue and took < 2 * self._fastest:
                self._window = min(self._window + 1, MOST_LANES * IDENTIFIERS)
        if flight.code is Code.STATUS_SERVER:
            self._answers_status = True
        if not self.alive:
            self.alive = True
            self._stop_probing()
            self.log.info(
                "RADIUS server {who} answers again, after {ago:.0f} s", who=self._who, ago=now - self._dead_since
            )

    def _died(self, why: str) -> None:
        first = self.alive
        self.alive = False
        self._window = float(FIRST_WINDOW)
        self._dead_since = self._clock.monotonic()
        if first:
            self.log.warn(
                "RADIUS server {who} does not answer ({why}): it is down or out of reach, does not know this host as "
                "its client, or the shared secret is wrong",
                who=self._who,
                why=why or f"{self._timing.tries} datagrams",
            )
            self._probe_while_dead()
        self._give_up_queue("it does not answer")

    def _probe_while_dead(self) -> None:
        wait = self._timing.probe_interval * (0.75 + 0.5 * self._jitter())
        self._probing = self._reactor.callLater(wait, self._probe_while_dead)
        self.probe(wait / 2).addErrback(lambda failure: failure.trap(Silent))

    def _stop_probing(self) -> None:
        if self._probing is not None and self._probing.active():
            self._probing.cancel()
        self._probing = None
