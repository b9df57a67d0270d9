# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole broker under virtual time: everything real but the clock, the wire and the data plane.

No reactor runs; what is asked of the store and of the authenticators is answered at once unless a test holds it back.
"""

from __future__ import annotations

import hashlib
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from support.planes import icmp
from support.stored import by_name, now, pool
from twisted.internet.defer import execute
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Pool, Use
from ddtb6.auth.chain import Anonymous, Chain, offered
from ddtb6.auth.local import LocalUsers
from ddtb6.broker.admission import Gate
from ddtb6.broker.broker import Broker, Policy
from ddtb6.broker.events import Bus, Event
from ddtb6.broker.ports import Account, Session
from ddtb6.broker.probes import KEY, Probes
from ddtb6.broker.recording import Recording
from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.sasl.digest import user_secret
from ddtb6.store.store import Store, open_store
from ddtb6.transport.driver import Driver
from ddtb6.transport.tcp import TcpListener, TcpSignalling
from ddtb6.transport.udp import UdpSignalling

T = TypeVar("T")

SERVER = Endpoint("192.0.2.1", 3653)
POOLS = by_name(
    pool("links", "2001:db8:0:1::/64", Use.ACCOUNTS),
    pool("guests", "2001:db8:0:2::/126", Use.ANONYMOUS),
    pool("homes", "2001:db8:100::/54"),
    pool("sites", "2001:db8:200::/46", length=48),
)
"""Room for two guests, four homes and four sites."""


class VirtualClock(Clock):
    """Twisted's clock, which is a reactor's worth of timers, as the broker's clock too."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = 1000.0

    def monotonic(self) -> float:
        return float(self.seconds())

    def epoch(self) -> float:
        return self.monotonic() + 1.7e9


def account(name: str, password: str, realm: str = "ddtb6", *, disabled: bool = False) -> Account:
    """An account whose PLAIN verifier takes microseconds to check."""
    key = hashlib.scrypt(password.encode(), salt=b"saltsalt", n=2, r=1, p=1, dklen=32)
    stored = f"scrypt$2$1$1${b64encode(b'saltsalt').decode()}${b64encode(key).decode()}"
    return Account(name, user_secret(name, realm, password), stored, disabled, 0.0)


class FakeSocket:
    """What `UdpSignalling` needs of a `UdpSocket`."""

    def __init__(self, family: int = 4) -> None:
        self.family = family
        self.sent: list[tuple[bytes, Endpoint, Endpoint]] = []

    def send(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> bool:
        self.sent.append((datagram, local, remote))
        return True

    def taken(self) -> list[tuple[bytes, Endpoint, Endpoint]]:
        """What was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent


class _End:
    def __init__(self, endpoint: Endpoint) -> None:
        self.host, self.port = endpoint


class FakeConnection:
    """The transport of one TCP connection: keeps every write apart, ends as Twisted's do.

    Its descriptor is one end of a pair; octets put into the other by `unacknowledged` look like those that a client's
    kernel has not acknowledged.
    """

    def __init__(self, clock: Clock, remote: Endpoint, local: Endpoint = SERVER) -> None:
        self._clock = clock
        self._local, self._remote = local, remote
        self._pair = socket.socketpair()
        self.writes: list[bytes] = []
        self.protocol: Any = None
        self.disconnecting = False
        self.connected = True
        self.reading = True
        self.producer: Any = None
        self.no_delay = False

    def attach(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self)

    # --- what the protocol does ---

    def getHost(self) -> _End:
        return _End(self._local)

    def getPeer(self) -> _End:
        return _End(self._remote)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def fileno(self) -> int:
        return self._pair[0].fileno() if self.connected else -1

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.connected and not self.disconnecting:
            self.writes.append(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = not self.disconnecting

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._clock.callLater(0, self.lost)

    def abortConnection(self) -> None:
        self.disconnecting = True
        self._clock.callLater(0, self.lost)

    # --- what a client and its kernel do ---

    def unacknowledged(self, octets: int) -> None:
        self._pair[0].send(bytes(octets))

    def acknowledge(self) -> None:
        self._pair[1].setblocking(False)
        self._pair[1].recv(1 << 16)

    def lost(self) -> None:
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(ConnectionDone()))
            for each in self._pair:
                each.close()

    def taken(self) -> list[bytes]:
        writes, self.writes = self.writes, []
        return writes


class World:
    """One broker and all who talk to it."""

    def __init__(
        self,
        directory: Path,
        *,
        accounts: Mapping[str, str] | None = None,
        realm: str = "ddtb6",
        mechanisms: tuple[str, ...] = ("ANONYMOUS", "PLAIN", "DIGEST-MD5"),
        nonces: Iterator[bytes] | None = None,
        pools: Mapping[str, Pool] = POOLS,
        gate: Gate | None = None,
        in_thread: Callable[..., Any] = execute,
        clock: VirtualClock | None = None,
        plane: Any = None,
        store: Any = None,
        peers: int = 1000,
        probing: bool = False,
        **policy: Any,
    ) -> None:
        self.directory = directory
        self.clock = clock or VirtualClock()
        self.store: Store = store or open_store(directory / "ddtb6.sqlite", pools, self.clock, in_thread=in_thread)
        self.plane: MemoryPlane = plane or MemoryPlane(self.clock, tuple(pools.values()))
        for name, password in (accounts or {}).items():
            now(self.store.add_account(account(name, password, realm)))
        self.authenticator = authenticator = Chain([LocalUsers(self.store, realm, execute), Anonymous()])
        made = (b"nonce-%d" % number for number in count(1)) if nonces is None else nonces
        self.events: list[Event] = []
        self.faults: list[Exception] = []
        self.bus = bus = Bus(lambda event, fault: self.faults.append(fault))
        bus.subscribe(self.events.append)
        self.gate = gate or Gate(per_source_rate=5.0, per_source_burst=40, overall_rate=5000.0, negotiations=1000)
        self.policy = Policy(realm, offered(mechanisms, authenticator), pools, **policy)
        self.broker = Broker(
            self.policy,
            self.gate,
            self.clock,
            authenticator,
            self.store,
            self.plane,
            lambda: next(made),
            bus,
        )
        self.recording = Recording(self.clock, self.store, self.broker.activity, outlives=self.plane.outlives)
        now(self.recording.start())
        self.broker.measure(self.recording)
        self.probing = probing
        """Clients are asked for echoes."""
        self.probes = Probes(self.clock, bytes(KEY), self.broker, pools, self.plane, self.recording)
        self.driver = Driver(self.broker, self.clock)
        self.socket = FakeSocket()
        self.udp = UdpSignalling(self.broker, self.driver, self.clock, self.plane.feed, peers)
        self.tcp = TcpListener(self.broker, self.driver, self.clock, self.clock)
        self.plane.send_with(self.socket.send)
        now(self.broker.start())

    def connect(self, remote: Endpoint) -> FakeConnection:
        """A TCP connection from `remote`; closed at once where none is taken."""
        connection = FakeConnection(self.clock, remote)
        protocol = self.tcp.buildProtocol(None)
        if protocol is None:
            connection.connected = False
        else:
            assert isinstance(protocol, TcpSignalling)
            connection.attach(protocol)
        return connection

    def datagram(self, datagram: bytes, remote: Endpoint, local: Endpoint = SERVER) -> list[bytes]:
        """One datagram comes; what goes back at once."""
        self.udp.receive(self.socket, datagram, local, remote)  # type: ignore[arg-type]
        answers = self.socket.taken()
        assert all(each[1:] == (local, remote) for each in answers), "an answer left from or for elsewhere"
        return [each[0] for each in answers]

    def pass_time(self, seconds: float) -> None:
        """Time passes as it does in the daemon: a round every second."""
        whole = int(seconds)
        for _ in range(whole):
            self.clock.advance(1.0)
            self.round()
        # Timers that set timers: in steps, or each would count from the end of the whole time.
        steps = round((seconds - whole) * 100)
        for _ in range(steps):
            self.clock.advance(0.01)

    def round(self) -> None:
        self.udp.tick()
        now(self.broker.tick())
        if self.probing:
            self.probes.tick()
        now(self.recording.tick())

    def live(self) -> list[Session]:
        """The sessions that live, alike in the broker, the data plane and the store."""
        stored = list(now(self.store.live_sessions()))
        raised = {each.spec.id: each.spec for each in now(self.plane.dump())}
        views = {each.id: each for each in now(self.broker.sessions())}
        assert {each.id: each.spec for each in stored} == raised
        assert set(views) == set(raised)
        assert all(views[each.id].remote == each.spec.remote for each in stored)
        return stored

    def ping(self, session: Session, remote: Endpoint | None = None) -> bool:
        """A keepalive through the tunnel from its client, or from elsewhere; whether it is answered to there."""
        broker_address = next(
            each.broker_address for each in self.policy.pools.values() if session.spec.address in each.block
        )
        echo = icmp(session.spec.address, broker_address, 128, 0, b"\0\1\0\1ping")
        self.udp.receive(self.socket, echo, session.spec.local, remote or session.spec.remote)  # type: ignore[arg-type]
        return any(each[0][0] >> 4 == 6 for each in self.socket.taken())

    def close(self) -> None:
        for connection in list(self.tcp.open):
            connection.transport.lost()
        now(self.broker.stop())
        now(self.recording.stop())
        now(self.store.close())
        assert self.faults == []


@contextmanager
def world(directory: Path, **options: Any) -> Iterator[World]:
    """A broker that is shut down in the end."""
    made = World(directory, **options)
    try:
        yield made
    finally:
        made.close()


def result(awaitable: Awaitable[T]) -> T:
    """The result of what needs nothing to happen any more."""
    return now(awaitable)
