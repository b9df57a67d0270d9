# SPDX-License-Identifier: GPL-2.0-or-later
"""The composition root: a configuration in, a service out. The only module that names every adapter.

Start order: store, data plane (made to match the store), firewall, listeners, status page, control socket. Stopping is
the reverse. What the broker cannot do without ends the process with one sentence; what it can is a warning.
Not here: any decision about clients (`broker`).
"""

from __future__ import annotations

import gc
import os
import secrets
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.application.service import Service
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from ddtb6 import __version__, notify
from ddtb6.auth.chain import Anonymous, Chain, offered
from ddtb6.auth.local import LocalUsers, ThreadLane
from ddtb6.broker.admission import Gate
from ddtb6.broker.broker import Broker, Policy
from ddtb6.broker.events import Bus
from ddtb6.broker.planes import DataPlaneError
from ddtb6.broker.ports import Authenticator, StoreError
from ddtb6.broker.probes import KEY, Probes
from ddtb6.broker.recording import Recording
from ddtb6.broker.views import Overview
from ddtb6.clock import SystemClock
from ddtb6.config import Config, ConfigError
from ddtb6.dataplane import choose as planes
from ddtb6.firewall.choose import choose as choose_firewall
from ddtb6.firewall.rules import FirewallError, Plan
from ddtb6.logbook import Logbook
from ddtb6.store.store import Store, open_store
from ddtb6.transport.driver import Driver
from ddtb6.transport.listening import Inherited, ListenError, Listening, environment_at_start, passed
from ddtb6.transport.tcp import TcpListener
from ddtb6.transport.udp import UdpSignalling
from ddtb6.web.serve import Daemon, Web

if TYPE_CHECKING:
    from ddtb6.aaa import Aaa

T = TypeVar("T")

FIREWALL_STATUS_AGE = 30.0
"""Seconds for which what was read of the kernel's rules is shown again: reading takes milliseconds, nft a process."""

COLLECTING = (10_000, 10, 10)
"""Thresholds of Python's collector of cycles. With the defaults it goes through all sessions every few hundred
log-ins, which was a sixth of the processor time of a log-in; hardly anything here is in a cycle."""


def _nonce() -> bytes:
    """128 unpredictable bits in 22 characters that need no quoting."""
    return secrets.token_urlsafe(16).encode()


class Fatal(Exception):
    """The broker cannot run; the message is a sentence for the operator."""


class BrokerService(Service):
    """The whole daemon."""

    log = Logger(namespace="ddtb6")

    def __init__(self, config: Config, reactor: Any) -> None:
        """Takes nothing from the system yet."""
        self.config = config
        self._reactor = reactor
        self._clock = SystemClock()
        self._stopping: list[Callable[[], Any]] = []
        """What to undo, in the order it was done; each may return a Deferred or a coroutine."""
        self._listening: list[str] = []
        self._started = self._clock.epoch()
        self.ready: Deferred[None] = Deferred()
        """Fires once everything listens."""

    # --- life -----------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        Deferred.fromCoroutine(self._start()).addCallbacks(lambda _: self.ready.callback(None), self._failed)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def _failed(self, failure: Failure) -> None:
        if failure.check(Fatal):
            self.log.critical("{why}", why=failure.getErrorMessage())
            print(f"ddtb6: {failure.getErrorMessage()}", file=sys.stderr)
        else:
            self.log.failure("ddtb6 could not start", failure)
        self._reactor.callWhenRunning(self._give_up)

    def _give_up(self) -> None:
        self._reactor.addSystemEventTrigger("after", "shutdown", _exit_with_failure)
        self._reactor.stop()

    async def _stop(self) -> None:
        notify.stopping()
        while self._stopping:
            undo = self._stopping.pop()
            try:
                await maybeDeferred(_as_deferred(undo))
            except Exception:
                self.log.failure("while stopping")

    async def _start(self) -> None:
        config, reactor, clock = self.config, self._reactor, self._clock
        # Two lanes: a flood of log-ins by password must not keep an administrator from changing one.
        passwords, management = ThreadLane(reactor), ThreadLane(reactor, threads=1)
        for lane in (passwords, management):
            lane.start()
            self._stopping.append(lane.stop)
        store = self._open_store()
        self._stopping.append(store.close)
        aaa = self._make_aaa()
        try:
            choice = planes.choose(config.dataplane.kind)
            pools = tuple(config.pools.values())
            plane = planes.make(choice.kind, reactor, clock, config.dataplane.device, pools, config.tunnel.mtu)
        except DataPlaneError as error:
            raise Fatal(f"no data plane: {error}") from None
        authenticator = self._make_authenticator(store, passwords, aaa)
        policy = self._policy(offered(config.auth.mechanisms, authenticator))
        limits = config.limits
        gate = Gate(limits.per_source_rate, limits.per_source_burst, limits.overall_rate, limits.negotiations)
        bus = Bus(lambda event, fault: self.log.failure("a listener failed on {event}", Failure(fault), event=event))
        bus.subscribe(Logbook(clock).write)
        broker = Broker(policy, gate, clock, authenticator, store, plane, _nonce, bus)
        recording = Recording(clock, store, broker.activity, outlives=plane.outlives)
        await recording.start()
        broker.measure(recording)
        self._stopping.append(recording.stop)
        deliverer = aaa.deliverer(store) if aaa else None
        if deliverer is not None:
            self._stopping.append(lambda: deliverer.stop(staying=broker.activity().sessions))
        try:
            await broker.start()
        except DataPlaneError as error:
            raise Fatal(f"the data plane {plane.name} cannot start: {error}") from None
        self._stopping.append(broker.stop)
        if deliverer is not None:
            await deliverer.start(resumed=broker.activity().sessions)
        probes = self._probes(broker, plane, recording)
        firewall = self._raise_firewall()
        driver = Driver(broker, clock)
        udp = UdpSignalling(broker, driver, clock, planes.packets_to(plane), limits.negotiations)
        tcp = TcpListener(broker, driver, clock, reactor)
        listening = self._listen(udp, tcp, aaa, broker)
        try:
            await planes.connect(plane, listening.transmit, listening.carrying)
        except DataPlaneError as error:
            raise Fatal(f"the data plane {plane.name} cannot use our ports: {error}") from None

        def overview() -> Overview:
            return Overview(
                version=__version__,
                started=self._started,
                listening=tuple(self._listening),
                data_plane=plane.name,
                data_plane_reason=choice.reason,
                firewall=firewall(),
                encapsulations=tuple(each.value for each in broker.capability.encapsulations),
                mechanisms=policy.mechanisms,
                negotiations=udp.under_way() + len(tcp),
                activity=broker.activity(),
                reconciled=broker.reconciled,
                aaa=aaa.view() if aaa else None,
                trouble=broker.in_trouble,
            )

        web = Web(
            Daemon(
                *(config, reactor, clock, store, broker, bus, overview, recording, plane.carried),
                *(probes.view if probes else None, authenticator, management),
            )
        )
        self._stopping.append(web.stop)
        try:
            await web.start()
        except (CannotListenError, OSError) as error:
            raise Fatal(f"cannot serve the pages or the control socket: {error}; see `ddtb6 doctor`") from None
        self._every_second(udp.tick, broker.tick, *([probes.tick] if probes else []), recording.tick, web.tick)
        self.log.info("data plane {name}: {why}", name=plane.name, why=choice.reason)
        self.log.info("{firewall}", firewall=firewall())
        gc.freeze()  # What was imported stays for good.
        gc.set_threshold(*COLLECTING)
        self.log.info("ddtb6 {version} serves {places}", version=__version__, places=", ".join(self._listening))
        notify.ready()

    # --- parts ----------------------------------------------------------------------------------------------------

    def _open_store(self) -> Store:
        reactor = self._reactor
        thread = ThreadPool(1, 1, name="ddtb6-store")
        thread.start()
        self._stopping.append(thread.stop)

        def in_thread(work: Callable[[], T]) -> Deferred[T]:
            return deferToThreadPool(reactor, thread, work)

        config = self.config
        try:
            return open_store(
                config.server.database,
                config.pools,
                self._clock,
                in_thread=in_thread,
                later=lambda work: reactor.callLater(0, work),
                journal=config.accounts_by_radius,
            )
        except StoreError as error:
            raise Fatal(str(error)) from None

    def _probes(self, broker: Broker, plane: planes.Plane, recording: Recording) -> Probes | None:
        if not self.config.tunnel.latency:
            return None
        try:
            key = secrets.token_bytes(KEY)
            return Probes(self._clock, key, broker, self.config.pools, plane, recording)
        except DataPlaneError as error:
            self.log.warn("latency is not measured: {why}", why=str(error))
            return None

    def _make_aaa(self) -> Aaa | None:
        if not self.config.radius_servers and not self.config.radius_dynamic.listen:
            return None
        from ddtb6.aaa import Aaa

        try:
            aaa = Aaa(self.config, self._reactor, self._clock)
        except ConfigError as error:
            raise Fatal(str(error)) from None
        self._stopping.append(aaa.close)
        return aaa

    def _make_authenticator(self, store: Store, lane: ThreadLane, aaa: Aaa | None) -> Chain:
        config = self.config
        named = [each for each in config.auth.chain if each != "anonymous"]
        makers: dict[str, Callable[[], Authenticator]] = {
            "local": lambda: LocalUsers(store, config.server.realm, lane, last=named[-1] == "local"),
            "radius": lambda: cast("Aaa", aaa).authenticator(),
            "anonymous": Anonymous,
        }
        return Chain([makers[each]() for each in config.auth.chain])

    def _policy(self, mechanisms: tuple[str, ...]) -> Policy:
        config, tunnel = self.config, self.config.tunnel
        return Policy(
            realm=config.server.realm,
            mechanisms=mechanisms,
            pools=config.pools,
            mtu=tunnel.mtu,
            keepalive=tunnel.keepalive,
            idle_limit=tunnel.idle_limit,
            history=config.server.history * 86400.0,
            interim_interval=config.radius.interim_interval,
            interim_fixed=config.radius.interim_from == "configuration",
            lifetime=tunnel.lifetime,
            resolver=tunnel.resolver,
            domain=tunnel.domain,
            negotiation_timeout=config.limits.negotiation_timeout,
            per_source_tunnels=config.limits.per_source_tunnels,
        )

    def _listen(self, udp: UdpSignalling, tcp: TcpListener, aaa: Aaa | None, broker: Broker) -> Listening:
        """Open every port, those of the AAA included."""
        config = self.config
        try:
            listening = Listening(self._reactor, Inherited(passed(environment_at_start(), os.getpid())))
            self._stopping.append(listening.close)
            self._listening = listening.places
            listening.udp(config.listen.udp, udp.receive)
            listening.tcp(config.listen.tcp, tcp)
            if aaa is not None and config.radius_dynamic.listen:
                listening.dynamic(config.radius_dynamic.listen, aaa.dynamic(broker).receive)
        except ListenError as error:
            raise Fatal(str(error)) from None
        unwanted = listening.unwanted()
        if unwanted:
            self.log.warn("{unwanted}", unwanted=unwanted)
        return listening

    def _raise_firewall(self) -> Callable[[], str]:
        """Apply the firewall; whatever hinders it is one warning. Returns what says what holds, as a sentence."""
        config = self.config
        backend, why = choose_firewall(config.firewall.backend)
        if backend is None:
            if config.firewall.backend != "none":
                self.log.warn("{why}", why=why)
            return lambda: why
        try:
            plan = Plan(
                device=config.dataplane.device,
                udp_ports=tuple(each.port for each in config.listen.udp),
                tcp_ports=tuple(each.port for each in config.listen.tcp),
                mtu=config.tunnel.mtu,
                rate=config.firewall.signalling_rate,
            )
            backend.apply(plan)
        except FirewallError as error:
            without = f"No firewall rules: {error}"
            self.log.warn("{without}", without=without)
            return lambda: without
        self._stopping.append(backend.remove)
        return _remembered(backend.status, self._clock, FIREWALL_STATUS_AGE)

    def _every_second(self, rest: Callable[[], None], *work: Callable[[], Any]) -> None:
        """One round after the other, never two at once; what fails keeps nothing else from its turn."""

        waiting: list[Any] = []

        def stop() -> None:
            while waiting:
                waiting.pop().cancel()

        async def round_() -> None:
            waiting.clear()
            notify.alive()
            for each in (rest, *work):
                try:
                    await maybeDeferred(_as_deferred(each))
                except Exception:
                    self.log.failure("the round of every second failed; the next one goes on")
            if self.running:
                waiting.append(self._reactor.callLater(1.0, lambda: Deferred.fromCoroutine(round_())))

        self._stopping.append(stop)
        Deferred.fromCoroutine(round_())


def _remembered(read: Callable[[], str], clock: SystemClock, age: float) -> Callable[[], str]:
    """`read`, asked again only when its answer is `age` seconds old."""
    text, taken = "", -age

    def recent() -> str:
        nonlocal text, taken
        if clock.monotonic() - taken >= age:
            try:
                text = read()
            except FirewallError as error:
                text = f"The firewall rules cannot be read: {error}"
            taken = clock.monotonic()
        return text

    return recent


def _as_deferred(undo: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        result = undo()
        return Deferred.fromCoroutine(result) if isinstance(result, Coroutine) else result

    return run


def _exit_with_failure() -> None:
    # All is shut down by now; the reactor's loop has no way to end with a status.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def make_service(config: Config, reactor: Any = global_reactor) -> BrokerService:
    """The daemon as a service, started and stopped by twistd."""
    return BrokerService(config, reactor)
