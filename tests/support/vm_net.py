# SPDX-License-Identifier: GPL-2.0-or-later
"""The network of these tests, made once; each test has a device without peers.

        client ---------------- broker ---------------- host
            192.0.2.2/24    192.0.2.1/24    2001:db8:f::2/64
           198.51.100.7    2001:db8:f::1/64
                           utun0: 2001:db8:1::1/128
                           the signalling socket: 192.0.2.1:3653

The broker forwards and sends 2001:db8:1::/64 and 2001:db8:8000::/33 to utun0; the host sends both to the broker.
Clients are UDP sockets in the client's namespace, the host's packets are seen and sent as frames.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

import pytest
from support.netns import Lab, Namespace, wait_until
from support.vm_utun import UDP, Netlink, Peer, Seen, Utun

BROKER, CLIENT, CLIENT_TOO = "192.0.2.1", "192.0.2.2", "198.51.100.7"
PORT = 3653
HOST, BROKER_ON_WIRE = "2001:db8:f::2", "2001:db8:f::1"
BROKER_INNER = "2001:db8:1::1"
SOURCE = "2001:db8:1::101"
PREFIX = "2001:db8:8000:100::/56"
INSIDE = "2001:db8:8000:100::7"
ETH_P_IPV6 = 0x86DD


def packed(address: str | IPv6Address) -> bytes:
    return IPv6Address(address).packed


def ipv6(
    source: object, destination: object, payload: bytes = b"", *, hops: int = 64, kind: int = 59, tclass: int = 0
) -> bytes:
    """An IPv6 packet; by default with "no next header", which no stack answers."""
    head = struct.pack("!IHBB", 6 << 28 | tclass << 20, len(payload), kind, hops)
    return head + packed(str(source)) + packed(str(destination)) + payload


def icmp(source: object, destination: object, kind: int, code: int, rest: bytes, *, hops: int = 64) -> bytes:
    body = bytes((kind, code, 0, 0)) + rest
    check = _checksum(_pseudo(source, destination, body, 58) + body)
    return ipv6(source, destination, body[:2] + check + body[4:], kind=58, hops=hops)


def udp(source: object, destination: object, payload: bytes) -> bytes:
    """From port 5001 to port 5000."""
    head = struct.pack("!HHH", 5001, 5000, 8 + len(payload))
    check = _checksum(_pseudo(source, destination, head + b"\0\0" + payload, 17) + head + b"\0\0" + payload)
    return ipv6(source, destination, head + (check if any(check) else b"\xff\xff") + payload, kind=17)


def _pseudo(source: object, destination: object, body: bytes, kind: int) -> bytes:
    return packed(str(source)) + packed(str(destination)) + struct.pack("!II", len(body), kind)


def _checksum(octets: bytes) -> bytes:
    octets += bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def fragmentation_needed(quoted: bytes, mtu: int) -> bytes:
    """An ICMPv4 error about an outer packet."""
    body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted[:548]
    return body[:2] + _checksum(body) + body[4:]


def hop(packet: bytes) -> bytes:
    """As a router leaves it."""
    return packet[:7] + bytes((packet[7] - 1,)) + packet[8:]


@dataclass
class Net:
    """The network and one device in it."""

    lab: Lab
    client: Namespace
    broker: Namespace
    host: Namespace
    netlink: Netlink
    utun: Utun
    signalling: socket.socket
    wire: socket.socket
    """The host's end, packets without their frame's head."""
    outer: tuple[str, str]
    """Names of the devices of client and broker on the outer wire."""
    inner: tuple[str, str]
    clients: dict[tuple[str, int], socket.socket] = field(default_factory=dict)

    def client_at(self, port: int = 40001, address: str = CLIENT) -> socket.socket:
        """The client's socket of that port."""
        there = self.clients.get((address, port))
        if there is None:
            there = self.clients[address, port] = self.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
            there.bind((address, port))
            there.settimeout(5)
        return there

    def add(self, *peers: Peer, replace: bool = False) -> None:
        """Add peers, each with a client at its other end."""
        self.utun.add(*peers, replace=replace)
        for each in peers:
            if each.transport == UDP:
                self.client_at(each.remote[1], each.remote[0])

    def up(self, packet: bytes, port: int = 40001, address: str = CLIENT) -> None:
        """From a client to the broker."""
        self.client_at(port, address).sendto(packet, (BROKER, PORT))

    def down(self, packet: bytes) -> None:
        """From the host towards the clients."""
        self.wire.send(packet)

    def at_host(self, deadline: float = 5.0) -> bytes:
        """The next packet of ours that comes to the host."""
        self.wire.settimeout(deadline)
        while True:
            packet, address = self.wire.recvfrom(65536)
            # Not what it sends itself, and not its neighbour discovery.
            if address[2] != 4 and not (packet[6] == 58 and packet[40] in range(130, 138)) and packet[6] != 0:
                return packet

    def drain_host(self) -> None:
        """Forget what has come to the host."""
        self.wire.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.wire.recvfrom(65536)

    def at_client(self, port: int = 40001, address: str = CLIENT) -> bytes:
        return self.client_at(port, address).recv(65536)

    def nothing_at_host(self) -> None:
        """Whatever was sent before has been dealt with when the next packet of another peer has come through."""
        with pytest.raises(TimeoutError):
            self.at_host(0.2)

    def drops_to(self, identity: int, **expected: int) -> Seen:
        """Wait until the peer has dropped this much, and no more."""
        wanted = {reason.replace("_", "-"): count for reason, count in expected.items()}
        return wait_until(
            lambda: seen if (seen := self.utun.one(identity)).drops == wanted else None, f"drops {wanted}"
        )

    def stray_to(self, before: dict[str, int], **more: int) -> None:
        def settled() -> bool:
            now = self.utun.strays()
            return {k: now.get(k, 0) - before.get(k, 0) for k in now if now[k] != before.get(k, 0)} == wanted

        wanted = {reason.replace("_", "-"): count for reason, count in more.items()}
        wait_until(settled, f"strays {wanted}")

    def heard(self) -> list[bytes]:
        """What the signalling socket got."""
        found = []
        self.signalling.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.signalling.recv(65536))
        return found


def make_utun(namespace: Namespace, name: str = "utun0", netlink: Netlink | None = None) -> tuple[Netlink, Utun]:
    """A device that is up."""
    namespace.run("ip", "link", "add", name, "type", "utun")
    namespace.run("ip", "link", "set", name, "up", "mtu", "1400")
    with namespace.inside():
        return (netlink := netlink or Netlink()), Utun(netlink, socket.if_nametoindex(name))


def signalling_socket(namespace: Namespace, address: str = "0.0.0.0", port: int = PORT) -> socket.socket:
    made = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    return made


@pytest.fixture(scope="session")
def network() -> Iterator[Net]:
    with Lab() as lab:
        client, broker, host = (lab.namespace(label) for label in ("client", "broker", "host"))
        outer = lab.wire(client, broker, [f"{CLIENT}/24"], [f"{BROKER}/24"])
        inner = lab.wire(broker, host, [f"{BROKER_ON_WIRE}/64"], [f"{HOST}/64"])
        client.address("lo", f"{CLIENT_TOO}/32")
        broker.route("198.51.100.0/24", "via", CLIENT)
        broker.sysctl("net/ipv6/conf/all/forwarding", 1)
        # Errors are part of what is tested here; the kernel's own limits are not.
        for each in (broker, client, host):
            each.sysctl("net/ipv6/icmp/ratelimit", 0)
        netlink, utun = make_utun(broker)
        broker.address("utun0", f"{BROKER_INNER}/128")
        broker.route("2001:db8:1::/64", "dev", "utun0")
        broker.route("2001:db8:8000::/33", "dev", "utun0")
        host.route("2001:db8::/32", "via", BROKER_ON_WIRE)
        host.run("ping", "-6", "-c1", "-W5", BROKER_ON_WIRE, check=False)
        wire = host.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IPV6))
        wire.bind((inner[1], ETH_P_IPV6))
        frame_to = broker.hardware_address(inner[0])
        sender = _Sender(wire, inner[1], frame_to)
        signalling = signalling_socket(broker)
        utun.attach(signalling)
        yield Net(lab, client, broker, host, netlink, utun, signalling, sender, outer, inner)  # type: ignore[arg-type]


class _Sender:
    """The host's packet socket with `send` to the broker."""

    def __init__(self, wire: socket.socket, device: str, hardware: bytes) -> None:
        self._wire = wire
        self._to = (device, ETH_P_IPV6, 0, 0, hardware)
        self.settimeout, self.recvfrom = wire.settimeout, wire.recvfrom

    def send(self, packet: bytes) -> None:
        self._wire.sendto(packet, self._to)


@pytest.fixture
def net(network: Net) -> Iterator[Net]:
    yield network
    network.utun.flush()
    network.heard()
    for each in network.clients.values():
        each.close()
    network.clients.clear()
    network.drain_host()


@pytest.fixture
def peer(net: Net) -> Peer:
    """The usual one, in place."""
    made = Peer(1, [f"{SOURCE}/128", PREFIX], mtu=1280)
    net.add(made)
    return made
