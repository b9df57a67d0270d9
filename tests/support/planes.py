# SPDX-License-Identifier: GPL-2.0-or-later
"""Data planes to run the conformance suite against, each between a client's hand and a host on the IPv6 side.

A rig gives the plane packets at its two ends and shows what leaves at them. Where a real network is involved the host
is another namespace behind a veth, so what is seen is what really leaves.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any, TypeVar

from support.capabilities import need_tun
from support.netns import Lab, Namespace, wait_until
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.planes import DataPlane
from ddtb6.clock import SystemClock
from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.dataplane.tun import TunPlane
from ddtb6.dataplane.utun import UtunPlane
from ddtb6.tunnel.spec import Observed, TunnelId, TunnelSpec

T = TypeVar("T")

LOCAL = Endpoint("192.0.2.1", 3653)
OWN = "192.0.2.1"
HOST = "2001:db8:f::2"
"""On the IPv6 side; routes the pools to the broker."""
BROKER_ON_WIRE = "2001:db8:f::1"
DEVICE_MTU = 1400

ADDRESSES = Pool("link", IPv6Network("2001:db8:1::/64"), Use.ACCOUNTS, 128)
GUESTS = Pool("guests", IPv6Network("2001:db8:2::/64"), Use.ANONYMOUS, 128)
PREFIXES = Pool("prefixes", IPv6Network("2001:db8:8000::/33"), Use.PREFIXES, 56)
POOLS = (ADDRESSES, GUESTS, PREFIXES)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends; one that does fails."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine suspended")


class SetClock:
    """A clock that stands where it was put."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def epoch(self) -> float:
        return self.now + 1.7e9

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def spec(number: int, **changes: Any) -> TunnelSpec:
    """Tunnel `number`, from its own outer port, with the address and the /56 of that number unless changed."""
    given: dict[str, Any] = {
        "id": TunnelId(number),
        "encapsulation": Encapsulation.V6UDPV4,
        "local": LOCAL,
        "remote": Endpoint("198.51.100.7", 40000 + number),
        "address": IPv6Address(int(ADDRESSES.block.network_address) + 0x100 + number),
        "prefix": PREFIXES.piece(number),
        "mtu": 1280,
    }
    return TunnelSpec(**{**given, **changes})


def packed(address: str | IPv6Address) -> bytes:
    return IPv6Address(address).packed


def ipv6(
    source: str | IPv6Address,
    destination: str | IPv6Address,
    payload: bytes = b"",
    *,
    following: int = 59,
    hop_limit: int = 64,
) -> bytes:
    """An IPv6 packet; by default with "no next header", which no stack answers."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, hop_limit)
    return head + packed(source) + packed(destination) + payload


def icmp(
    source: str | IPv6Address, destination: str | IPv6Address, kind: int, code: int, rest: bytes, *, hop_limit: int = 64
) -> bytes:
    """An ICMPv6 message; its checksum is computed word by word, as RFC 1071 has it."""
    body = bytes((kind, code, 0, 0)) + rest
    summed = packed(source) + packed(destination) + struct.pack("!II", len(body), 58) + body + bytes(len(body) % 2)
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    return ipv6(source, destination, body, following=58, hop_limit=hop_limit)


def hops(packet: bytes, less: int = 1) -> bytes:
    """The packet with its hop limit lowered, as a router leaves it."""
    return packet[:7] + bytes((packet[7] - less,)) + packet[8:]


def plain(packet: bytes) -> bytes:
    """An answer with flow label 0 and hop limit 64: both are the answering stack's to choose."""
    return b"\x60\0\0\0" + packet[4:7] + b"\x40" + packet[8:]


@dataclass
class Rig:
    """A plane with its two ends in the test's hands."""

    plane: DataPlane
    feed: Callable[[bytes, Endpoint, Endpoint], None]
    """Give it a datagram from a client, as it comes to our outer end: datagram, local, remote."""
    passes: Callable[[float], None]
    """Let so many seconds pass."""
    sent: list[tuple[bytes, Endpoint, Endpoint]]
    """What left for clients."""
    to_internet: Callable[[], list[bytes]]
    """The list of what has come out on the IPv6 side, brought up to now."""
    from_internet: Callable[[bytes], None]
    """Send an IPv6 packet from the host."""
    turn: Callable[[], None]
    """Let whatever is under way move on a little."""
    outer_socket: Callable[[bool], None]
    """Whether the outer socket takes datagrams."""
    here: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Puts the calling thread where the plane's device is."""
    limited: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Within it ICMPv6 errors are limited in rate as they always are; without, the kernel may be told not to."""
    errors_come_from: str = str(ADDRESSES.broker_address)
    """The source of errors that a host on the IPv6 side is sent."""
    in_kernel: bool = False
    """Packets are carried, and errors made, by the kernel: time is real, and redirects are answered."""
    _marks: int = 0

    def raise_tunnel(self, wanted: TunnelSpec) -> TunnelSpec:
        drive(self.plane.raise_tunnel(wanted))
        return wanted

    def observed(self, tunnel: TunnelSpec) -> Observed:
        return drive(self.plane.dump([tunnel.id]))[0]

    def refused(self, tunnel: TunnelSpec) -> dict[str, int]:
        return {reason.value: count for reason, count in self.observed(tunnel).counters.refused.items()}

    def strays(self) -> dict[str, int]:
        return {reason.value: count for reason, count in self.plane.strays().items()}

    def from_client(self, tunnel: TunnelSpec, packet: bytes) -> None:
        self.feed(packet, tunnel.local, tunnel.remote)

    def until(self, condition: Callable[[], T], what: str) -> T:
        def turned() -> T:
            self.turn()
            return condition()

        return wait_until(turned, what)

    def comes_out(self, packet: bytes) -> None:
        """Wait until `packet` comes out at the host."""
        self.until(lambda: packet in self.to_internet(), f"{packet.hex()} at the host")

    def reaches(self, tunnel: TunnelSpec, packet: bytes) -> None:
        """Wait until `packet` leaves for the client of `tunnel`."""
        wanted = (packet, tunnel.local, tunnel.remote)
        self.until(lambda: wanted in self.sent, f"{packet.hex()} at client {tunnel.id}")

    def settle(self) -> None:
        """Wait until all that was put in before, at either end, has come out where it will.

        Order is kept on the way, so a packet that surely passes is sent after it in each direction.
        """
        self._marks += 1
        passing = spec(90, prefix=None)
        drive(self.plane.raise_tunnel(passing))
        mark = b"mark %d" % self._marks
        up, down = ipv6(passing.address, HOST, mark), ipv6(HOST, passing.address, mark)
        self.from_client(passing, up)
        self.comes_out(hops(up))
        self.from_internet(down)
        self.reaches(passing, hops(down))
        self.sent.remove((hops(down), passing.local, passing.remote))
        drive(self.plane.lower_tunnel(passing.id))

    def internet_saw(self) -> list[bytes]:
        """All that has come out at the host, marks left out."""
        self.settle()
        return [packet for packet in self.to_internet() if not packet[40:].startswith(b"mark ")]


class Outer:
    """The outer socket of a plane in user space."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Endpoint, Endpoint]] = []
        self.takes = True

    def transmit(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> bool:
        if self.takes:
            self.sent.append((datagram, local, remote))
        return self.takes

    def take(self, takes: bool) -> None:
        self.takes = takes


@contextlib.contextmanager
def memory_rig() -> Iterator[Rig]:
    clock = SetClock()
    plane = MemoryPlane(clock, POOLS, [OWN])
    seen: list[bytes] = []

    def to_internet() -> list[bytes]:
        seen.extend(plane.delivered)
        plane.delivered.clear()
        return seen

    outer = Outer()
    plane.send_with(outer.transmit)
    rig = Rig(
        plane, plane.feed, clock.pass_by, outer.sent, to_internet, plane.receive, turn=lambda: None,
        outer_socket=outer.take,
    )  # fmt: skip
    drive(plane.start())
    yield rig
    drive(plane.stop())


@contextlib.contextmanager
def private_reactor() -> Iterator[EPollReactor]:
    """A reactor that is turned by hand (`iterate`), and must have nothing of ours left to read in the end."""
    reactor = EPollReactor()
    try:
        yield reactor
        assert reactor.getReaders() == [reactor.waker]
    finally:
        for each in (*reactor.removeAll(), reactor.waker):
            each.connectionLost(Failure(ConnectionDone()))
        reactor._poller.close()


@dataclass(frozen=True, slots=True)
class Far:
    """The broker's namespace and the host behind it: host (2001:db8:f::2) -- veth -- broker (2001:db8:f::1)."""

    broker: Namespace
    host: Namespace
    handle: socket.socket
    wire: str
    router: bytes
    seen: list[bytes]

    def to_internet(self) -> list[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, sender = self.handle.recvfrom(65535)
                # Neither what the host sends itself, nor neighbour discovery and MLD between the two.
                chatter = packet[6] == 0 or (packet[6] == 58 and 130 <= packet[40] <= 143)
                if sender[2] != socket.PACKET_OUTGOING and not chatter:
                    self.seen.append(packet)
        return self.seen

    def from_internet(self, packet: bytes) -> None:
        self.handle.sendto(packet, (self.wire, 0x86DD, 0, 0, self.router))


def far_side(lab: Lab, stack: contextlib.ExitStack) -> Far:
    broker, host = lab.namespace("broker"), lab.namespace("host")
    broker.sysctl("net/ipv6/conf/all/forwarding", 1)
    broker.sysctl("net/ipv6/icmp/ratelimit", 0)
    outside, wire = lab.wire(broker, host, [f"{BROKER_ON_WIRE}/64"], [f"{HOST}/64"])
    host.route("2001:db8::/32", "via", BROKER_ON_WIRE)
    router = broker.hardware_address(outside)
    handle = stack.enter_context(host.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
    handle.bind((wire, 0x86DD))
    handle.setblocking(False)
    return Far(broker, host, handle, wire, router, [])


@contextlib.contextmanager
def tun_rig() -> Iterator[Rig]:
    """The TUN device in the broker's namespace."""
    need_tun()
    clock = SetClock()
    with private_reactor() as reactor, Lab() as lab, contextlib.ExitStack() as stack:
        plane = TunPlane(reactor, clock, "ddtb6", POOLS, DEVICE_MTU, [OWN])
        far, outer = far_side(lab, stack), Outer()
        plane.send_with(outer.transmit)
        rig = Rig(
            plane, plane.feed, clock.pass_by, outer.sent, far.to_internet, far.from_internet,
            lambda: reactor.iterate(0.0), outer.take, far.broker.inside,
        )  # fmt: skip
        with far.broker.inside():
            drive(plane.start())
        try:
            yield rig
        finally:
            with far.broker.inside():
                drive(plane.stop())


@contextlib.contextmanager
def utun_rig() -> Iterator[Rig]:
    """The module's device in the broker's namespace, with clients behind a second wire."""
    from support.plane_utun import clients

    with private_reactor() as reactor, Lab() as lab, contextlib.ExitStack() as stack:
        plane = UtunPlane(reactor, SystemClock(), "ddtb6", POOLS, DEVICE_MTU, [OWN])
        far = far_side(lab, stack)
        near = clients(lab, far.broker, stack)
        with far.broker.inside():
            drive(plane.start())
            drive(plane.attach([near.outer.fileno()]))
            near.look_at("ddtb6")

        def turn() -> None:
            reactor.iterate(0.0)
            near.collect()

        rig = Rig(
            plane, near.feed, time.sleep, near.sent, far.to_internet, far.from_internet, turn, near.take,
            far.broker.inside, near.limited, errors_come_from=BROKER_ON_WIRE, in_kernel=True,
        )  # fmt: skip
        try:
            yield rig
        finally:
            drive(plane.stop())


RIGS: dict[str, Callable[[], contextlib.AbstractContextManager[Rig]]] = {
    "memory": memory_rig,
    "tun": tun_rig,
    "utun": utun_rig,
}
