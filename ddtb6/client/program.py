# SPDX-License-Identifier: GPL-2.0-or-later
"""The client program: asks a broker for a tunnel, keeps it, and comes back when it is lost.

Invariants: the device is made before the broker is asked, so lack of rights shows at once, and stays until the end, so
open sockets outlive a new log-in that brings the same address; every log-in has a UDP port of its own; whatever ends
the program, what it made is taken back.
Not here: the protocol (`tsp.client`), packets (`tunnel`), the command line (`cli.connect`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from secrets import SystemRandom
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.task import deferLater

from ddtb6.addressing.endpoint import Carrier, Endpoint
from ddtb6.broker.planes import DataPlaneError
from ddtb6.client import events
from ddtb6.client.backoff import Backoff
from ddtb6.client.keepalive import KeepaliveClock
from ddtb6.client.machine import LinuxMachine, lan_address
from ddtb6.client.options import PORT, Action, ClientOptions, Exit, Machine, Report
from ddtb6.client.paths import Outcome, Reactor, Silent, UdpPath, negotiate_over_tcp
from ddtb6.client.tunnel import Tunnel
from ddtb6.tsp.client import VERSIONS, ClientNegotiation
from ddtb6.tsp.messages import Create, Delete, Info, Offer
from ddtb6.tsp.outcomes import Done, Failed, OlderVersion, Redirect, Retry, Wish
from ddtb6.tsp.status import ServerError, UnsupportedTunnelType

MOST_BROKERS = 5
"""Asked in one attempt, the one that was named and those that it leads to."""
RESOLVE_TIMEOUTS = (2, 5)
"""Seconds for a name to be resolved, try after try."""


def connect(
    reactor: Any, options: ClientOptions, password: str, report: Report, machine: Machine | None = None
) -> Deferred[Exit]:
    """Run the program; fires with its exit code, also after the reactor was told to stop.

    `machine` is this Linux machine unless another is given.
    """
    program = Program(reactor, options, password, report, machine or LinuxMachine(options), SystemRandom().random)
    running: Deferred[Exit] = Deferred.fromCoroutine(program.run())

    def stop() -> Deferred[None]:
        over: Deferred[None] = Deferred()

        def tell(result: Any) -> Any:
            over.callback(None)
            return result

        running.cancel()
        running.addBoth(tell)
        return over

    reactor.addSystemEventTrigger("before", "shutdown", stop)
    return running


class Broker(NamedTuple):
    """A broker to ask."""

    host: str
    port: int
    written: str
    """As a person or another broker wrote it; part of what DIGEST-MD5 proves."""


class Program:
    """One run."""

    def __init__(
        self,
        reactor: Reactor,
        options: ClientOptions,
        password: str,
        report: Report,
        machine: Machine,
        draw: Callable[[], float],
    ) -> None:
        """`draw` gives numbers from 0 to 1, by which waits are spread."""
        self._reactor = reactor
        self._options = options
        self._password = password
        self._report = report
        self._machine = machine
        self._draw = draw
        self._backoff = Backoff(draw)
        self._path: UdpPath | None = None
        self._remote = Endpoint("0.0.0.0", 0)
        self._mechanism = ""

    async def run(self) -> Exit:
        """All of it; cancelling is the ordinary way to end it, and leads to OK."""
        try:
            if self._options.action is Action.TUNNEL:
                return await self._with_device()
            return await self._without_device()
        except CancelledError:
            return Exit.OK
        except DataPlaneError as error:
            self._report(events.failed(str(error)))
            return Exit.USAGE
        finally:
            self._close_path()

    async def _with_device(self) -> Exit:
        fd = self._machine.open()
        try:
            while True:
                outcome = await self._attempt()
                if isinstance(outcome, Done):
                    assert outcome.offer is not None, "a create is answered with an offer"
                    await self._carry(fd, outcome.offer)
                    self._close_path()
                    if self._options.once:
                        return Exit.NO_ANSWER
                    continue
                code = await self._put_off(outcome)
                if code is not None:
                    return code
        finally:
            self._close_path()
            self._machine.close()
            self._report(events.down(self._options.device))

    async def _without_device(self) -> Exit:
        while True:
            outcome = await self._attempt()
            if isinstance(outcome, Done):
                self._report(events.deleted() if outcome.offer is None else events.info(outcome.offer))
                return Exit.OK
            code = await self._put_off(outcome)
            if code is not None:
                return code

    async def _put_off(self, outcome: Outcome) -> Exit | None:
        """Say what went wrong, and wait; the exit code where nothing is tried again."""
        if isinstance(outcome, Failed):
            self._report(events.refused(outcome.error))
            code, later = Exit.REFUSED, outcome.retry is Retry.LATER
        else:
            code, later = Exit.NO_ANSWER, False
        if self._options.once or self._options.action is not Action.TUNNEL:
            return code
        seconds = self._backoff.later() if later else self._backoff.soon()
        self._report(events.waiting(seconds))
        await self._sleep(seconds)
        return None

    async def _carry(self, fd: int, offer: Offer) -> None:
        """Be the end of the tunnel until it is lost."""
        options, machine, path = self._options, self._machine, self._path
        assert path is not None, "an offer over UDP leaves its path"
        machine.configure(offer)
        self._backoff.reset()
        lan = lan_address(options, offer)
        self._report(events.up(options, offer, self._remote, self._mechanism, lan))
        if offer.prefix is None and options.prefix_length is not None:
            self._report(events.hint("the broker gave an address and no prefix"))
        elif offer.prefix is not None and options.lan is not None and lan is None:
            self._report(events.hint(f"{offer.prefix} is too small for {options.lan}: a network takes a /64"))
        elif offer.prefix is not None and lan is None:
            self._report(events.hint("the prefix is routed to this machine; give it to a network with --lan DEVICE"))
        if offer.prefix is not None and not machine.forwarding():
            self._report(
                events.hint(
                    "this machine forwards no IPv6: `sysctl -w net.ipv6.conf.all.forwarding=1` lets others use it"
                )
            )
        keepalive = None
        if offer.keepalive is not None and offer.keepalive.address is not None and offer.keepalive.interval > 0:
            keepalive = KeepaliveClock(
                offer.client_inner,
                offer.keepalive.address,
                offer.keepalive.interval,
                secrets.randbelow(1 << 16),
                secrets.token_bytes(16),
                self._reactor.seconds(),
                self._draw,
            )
        why = await Tunnel(self._reactor, fd, path, keepalive).carry()
        self._report(events.lost(why))

    # --- asking ---------------------------------------------------------------------------------------------------

    async def _attempt(self) -> Outcome:
        """Ask the broker, and those that it names; what the last of them said."""
        options = self._options
        queue = [Broker(options.host, options.port, options.server)]
        asked: set[Broker] = set()
        outcome: Outcome = Redirect(())
        while queue and len(asked) < MOST_BROKERS:
            broker = queue.pop(0)
            if broker in asked:
                continue
            asked.add(broker)
            outcome = await self._ask(broker)
            if isinstance(outcome, Redirect):
                self._report(events.redirected(outcome.brokers))
                queue = [Broker(each, PORT, each) for each in outcome.brokers if ":" not in each]
            elif not isinstance(outcome, Silent):
                break
        if isinstance(outcome, Redirect):
            return Failed(ServerError("the brokers only name each other, or none that has an IPv4 address"), Retry.SOON)
        return outcome

    async def _ask(self, broker: Broker) -> Outcome:
        """Ask one broker, by each carrier until one is answered."""
        address = await self._resolve(broker.host)
        local = None if address is None else self._machine.local_address(address)
        if address is None or local is None:
            why = "its name has no IPv4 address" if address is None else f"there is no way to {address} from here"
            self._report(events.no_answer(broker.written, why, None))
            return Silent(why)
        remote = self._remote = Endpoint(address, broker.port)
        wish = self._wish(broker, local)
        outcome: Outcome = Silent("")
        for carrier in self._options.carriers:
            self._report(events.asking(broker.written, remote, carrier))
            outcome = await self._negotiate(carrier, remote, wish)
            if not isinstance(outcome, Silent):
                return self._explained(outcome, carrier, remote)
            self._report(events.no_answer(broker.written, outcome.why, carrier))
        return outcome

    async def _negotiate(self, carrier: Carrier, remote: Endpoint, wish: Wish) -> Outcome:
        """Negotiate, with an older version where the broker insists. Done over UDP leaves `_path` open."""
        version = VERSIONS[0]
        while True:
            role = ClientNegotiation(wish, carrier, secrets.token_hex(16).encode(), version)
            if carrier is Carrier.UDP:
                self._close_path()
                self._path = UdpPath(self._reactor, remote)
                outcome = await self._path.negotiate(role)
            else:
                outcome = await negotiate_over_tcp(self._reactor, remote, role)
            self._mechanism = role.mechanism
            if not isinstance(outcome, OlderVersion):
                return outcome
            version = outcome.version

    def _explained(self, outcome: Outcome, carrier: Carrier, remote: Endpoint) -> Outcome:
        """What an outcome over TCP means for a tunnel, which only UDP can carry."""
        if carrier is Carrier.UDP or self._options.action is not Action.TUNNEL:
            return outcome
        if isinstance(outcome, Failed) and not isinstance(outcome.error, UnsupportedTunnelType):
            return outcome
        if not isinstance(outcome, Failed | Done):
            return outcome
        if Carrier.UDP in self._options.carriers:
            why = f"the broker answers over TCP, not over UDP, which alone carries tunnels: let UDP to {remote} pass"
            return Failed(UnsupportedTunnelType(why), Retry.SOON)
        return Failed(UnsupportedTunnelType("only UDP carries a tunnel; leave out --tcp"), Retry.LATER)

    def _wish(self, broker: Broker, local: str) -> Wish:
        options = self._options
        request: Create | Info | Delete
        if options.action is Action.TUNNEL:
            request = Create(
                encapsulation=options.encapsulation,
                client_address=local,
                prefix_length=options.prefix_length,
                keepalive=options.keepalive or None,
            )
        else:
            request = Info() if options.action is Action.INFO else Delete()
        return Wish(
            request=request,
            server=broker.written,
            user=options.user,
            password=self._password,
            mechanism=options.mechanism,
            allow_plain=options.allow_plain,
        )

    async def _resolve(self, host: str) -> str | None:
        try:
            address: str = await self._reactor.resolve(host, RESOLVE_TIMEOUTS)
        except (DNSLookupError, OSError, ValueError):
            return None
        return address

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds)  # type: ignore[arg-type]

    def _close_path(self) -> None:
        if self._path is not None:
            self._path.close()
            self._path = None
