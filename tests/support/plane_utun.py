# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of a broker whose packets the kernel carries: real datagrams over a wire, for `support.planes`.

    client (192.0.2.2, and all of 198.51.100.0/24) -- veth -- broker (192.0.2.1, 203.0.113.80, the socket: port 3653)

What the module has judged is asked of the module by a client of its own, that shares nothing with the plane.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from support.netns import Lab, Namespace, wait_until
from support.vm_utun import Netlink, Utun

from ddtb6.addressing.endpoint import Endpoint

OWN, CLIENT, TOO = "192.0.2.1", "192.0.2.2", "203.0.113.80"
PORT = 3653
ETH_P_IP = 0x0800


@dataclass
class Near:
    """The clients' side."""

    client: Namespace
    broker: Namespace
    outer: socket.socket
    """The broker's socket."""
    capture: socket.socket
    """All that comes to the client's end of the wire, in order."""
    sent: list[tuple[bytes, Endpoint, Endpoint]] = field(default_factory=list)
    sockets: dict[Endpoint, socket.socket] = field(default_factory=dict)
    utun: Utun | None = None
    takes: bool = True

    def look_at(self, device: str) -> None:
        """Have the device asked for what it has judged. To be called inside of the broker's namespace."""
        self.utun = Utun(Netlink(), socket.if_nametoindex(device))

    def feed(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """Send it from `remote` to `local`, and wait until the module has judged it."""
        before = self._judged()
        self._at(remote).sendto(datagram, local)
        wait_until(lambda: self._judged() > before, f"a judgement of {datagram.hex()}")

    def _judged(self) -> int:
        assert self.utun is not None
        of_peers = sum(each.rx_packets + sum(each.drops.values()) for each in self.utun.dump())
        return of_peers + sum(self.utun.strays().values())

    def _at(self, remote: Endpoint) -> socket.socket:
        there = self.sockets.get(remote)
        if there is None:
            there = self.sockets[remote] = self.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
            there.bind(remote)
        return there

    def collect(self) -> None:
        """Bring `sent` up to now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, sender = self.capture.recvfrom(65535)
                head = 4 * (packet[0] & 0xF)
                if sender[2] == socket.PACKET_OUTGOING or packet[9] != socket.IPPROTO_UDP:
                    continue
                ports = (int.from_bytes(packet[head + at : head + at + 2], "big") for at in (0, 2))
                local, remote = map(Endpoint, (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16)), ports)
                self.sent.append((packet[head + 8 :], local, remote))

    def take(self, takes: bool) -> None:
        """A socket that is not attached takes nothing."""
        assert self.utun is not None
        if takes is not self.takes:
            (self.utun.attach if takes else self.utun.detach)(self.outer)
            self.takes = takes

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        self.broker.sysctl("net/ipv6/icmp/ratelimit", 1000)
        yield
        self.broker.sysctl("net/ipv6/icmp/ratelimit", 0)

    def close(self) -> None:
        for each in (self.outer, self.capture, *self.sockets.values()):
            each.close()
        if self.utun is not None:
            self.utun.netlink.close()


def clients(lab: Lab, broker: Namespace, stack: contextlib.ExitStack) -> Near:
    """Make the network."""
    client = lab.namespace("client")
    wire, _ = lab.wire(client, broker, [f"{CLIENT}/24"], [f"{OWN}/24"])
    broker.address("lo", f"{TOO}/32")
    client.route(TOO, "via", OWN)
    for network in ("198.51.100.0/24", "203.0.113.5/32"):
        broker.route(network, "via", CLIENT)
        client.run("ip", "route", "add", "local", network, "dev", "lo")
    outer = broker.socket(socket.AF_INET, socket.SOCK_DGRAM)
    outer.bind(("0.0.0.0", PORT))
    capture = client.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    capture.bind((wire, ETH_P_IP))
    capture.setblocking(False)
    near = Near(client, broker, outer, capture)
    stack.callback(near.close)
    return near
