# SPDX-License-Identifier: GPL-2.0-or-later
"""The user-space data plane: one TUN device carries every tunnel, packets pass through this process.

The kernel routes: it decrements hop limits, answers pings to the broker's addresses, sends Time Exceeded, and hands a
packet from one client to another back to us. What this module does is move packets between the device and the outer
socket after `dataplane.peers` has judged them.
Invariants: a full queue loses packets and never raises; one turn of the reactor carries a bounded number of packets.
Not here: the outer socket (`transport`; app joins them), the judgement (`dataplane.peers`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv6Interface
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.planes import Carried, DataPlaneError, PlaneEvent, PlaneLost
from ddtb6.broker.ports import Clock
from ddtb6.dataplane import icmp6
from ddtb6.dataplane.device import LARGEST_PACKET, carried, open_tun
from ddtb6.dataplane.links import NEXT_HOP, Layout, Links, warn_unless_forwarding
from ddtb6.dataplane.peers import Peers
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters, Observed, TunnelId, TunnelSpec

PACKETS_A_TURN = 64
"""Read from the device before the reactor gets its turn; more starve signalling, fewer cost a poll each."""


class Readers(Protocol):
    """What is needed of a reactor; the reading half of Twisted's IReactorFDSet."""

    def addReader(self, reader: Any) -> object: ...
    def removeReader(self, reader: Any) -> object: ...


@implementer(IReadDescriptor)
class TunPlane:
    """`planes.UserSpacePlane` over /dev/net/tun."""

    name = "tun"
    encapsulations = frozenset((Encapsulation.V6UDPV4,))
    outlives = False

    def __init__(
        self,
        reactor: Readers,
        clock: Clock,
        device: str,
        pools: Sequence[Pool],
        mtu: int,
        own_addresses: Collection[str] = (),
    ) -> None:
        """`mtu` is the device's, octets. `own_addresses`: outer addresses of this machine, loopback left out."""
        self._reactor = reactor
        self._now = clock.monotonic
        self._device = device
        blocks = tuple(pool.block for pool in pools)
        addresses = tuple(IPv6Interface((p.broker_address, 128)) for p in pools if p.use is not Use.PREFIXES)
        self._layout = Layout(mtu, addresses, blocks, NEXT_HOP, unreachable=blocks)
        self._broker_addresses = {each.ip.packed for each in addresses}
        self._links = Links()
        self._peers = Peers(pools, own_addresses, self.encapsulations, self._answer)
        self._listeners: list[Callable[[PlaneEvent], None]] = []
        self._fd = -1
        self._lost = False
        self._transmit: Callable[[bytes, Endpoint, Endpoint], bool] = _nowhere
        self._listening: Callable[[bytes, bytes], bool] = icmp6.deaf

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the device, its addresses and routes; makes them again after a loss. Raises DataPlaneError."""
        opened = self._fd < 0
        if opened:
            self._fd = open_tun(self._device)
            self._reactor.addReader(self)
        try:
            self._links.apply(self._device, self._layout)
        except DataPlaneError:
            if opened:
                self._close()
                self._links.undo()
            raise
        self._lost = False
        warn_unless_forwarding()

    async def stop(self) -> None:
        """Close the device and forget the tunnels. Raises DataPlaneError.

        The unreachable routes go as well: they stay only when the process dies, to keep packets for our space from
        bouncing off the upstream until it is back. After a clean stop the operator may route the space elsewhere, and
        a left-over route would swallow it without a word.
        """
        self._close()
        self._peers.clear()
        self._links.undo()

    async def raise_tunnel(self, spec: TunnelSpec) -> None:
        self._peers.put(spec)

    async def raise_tunnels(self, specs: Sequence[TunnelSpec]) -> Mapping[TunnelId, str]:
        return self._peers.put_all(specs)

    async def lower_tunnel(self, tunnel: TunnelId) -> Counters | None:
        return self._peers.take(tunnel)

    async def dump(self, tunnels: Collection[TunnelId] | None = None) -> Sequence[Observed]:
        return self._peers.dump(tunnels)

    def strays(self) -> Mapping[Refusal, int]:
        return dict(self._peers.strays)

    def carried(self) -> Carried | None:
        return carried(self._device)

    def send_echo(self, source: bytes, destination: bytes, rest: bytes) -> bool:
        """Not counted as traffic, no more than its reply: both end here."""
        packet = icmp6.message(source, destination, icmp6.ECHO_REQUEST, 0, rest)
        peer = self._peers.outward(packet, self._now())
        return peer is not None and self._transmit(packet, peer.local, peer.remote)

    def hear_echoes(self, listener: Callable[[bytes, bytes], bool]) -> None:
        self._listening = listener

    def subscribe(self, listener: Callable[[PlaneEvent], None]) -> None:
        self._listeners.append(listener)

    def send_with(self, transmit: Callable[[bytes, Endpoint, Endpoint], bool]) -> None:
        self._transmit = transmit

    # --- packets --------------------------------------------------------------------------------------------------

    def feed(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """From a client to the device."""
        peer = self._peers.inward(datagram, local, remote, self._now())
        if peer is None or (datagram[6] == icmp6.ICMP6 and self._is_echo(datagram)):
            return
        try:
            os.write(self._fd, datagram)
        except BlockingIOError:
            peer.refuse(Refusal.NOT_SENT)
        except OSError as error:
            peer.refuse(Refusal.NOT_SENT)
            self._lose(f"the device {self._device} takes no packets: {error.strerror}")
        else:
            peer.packets_in += 1
            peer.octets_in += len(datagram)

    def doRead(self) -> None:
        """From the device to clients."""
        fd, now, outward, transmit = self._fd, self._now(), self._peers.outward, self._transmit
        for _ in range(PACKETS_A_TURN):
            try:
                packet = os.read(fd, LARGEST_PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                self._close()
                self._lose(f"the device {self._device} is gone: {error.strerror}")
                return
            peer = outward(packet, now)
            if peer is None:
                continue
            if transmit(packet, peer.local, peer.remote):
                peer.packets_out += 1
                peer.octets_out += len(packet)
            else:
                peer.refuse(Refusal.NOT_SENT)

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return f"tun {self._device}"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw an error condition on the descriptor: somebody removed the device."""
        if self._fd >= 0:
            self._close()
            self._lose(f"the device {self._device} is gone")

    def _is_echo(self, packet: bytes) -> bool:
        return packet[24:40] in self._broker_addresses and icmp6.heard(packet, self._listening)

    def _answer(self, packet: bytes) -> None:
        try:
            os.write(self._fd, packet)
        except OSError:
            return  # an ICMPv6 error is a courtesy; the next packet tells whether the device is lost

    def _close(self) -> None:
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = True
            for listener in self._listeners:
                listener(PlaneLost(why))


def _nowhere(datagram: bytes, local: Endpoint, remote: Endpoint) -> bool:
    return False
