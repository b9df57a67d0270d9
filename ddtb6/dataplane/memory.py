# SPDX-License-Identifier: GPL-2.0-or-later
"""The data plane without a device: carries packets between a test's hands, with the same judgement as the real ones.

It passes the conformance suite of the port, and does itself what the kernel does for `dataplane.tun`: routing, hop
limits, echo replies. It can be told to fail, and to lose everything.
Not here: any system call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.planes import Carried, DataPlaneError, PlaneEvent, PlaneLost
from ddtb6.broker.ports import Clock
from ddtb6.dataplane import icmp6
from ddtb6.dataplane.peers import Peers
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters, Observed, TunnelId, TunnelSpec

KEPT = 1000
"""Packets and calls remembered, the newest of each sort."""


class MemoryPlane:
    """`planes.UserSpacePlane` over nothing."""

    name = "memory"
    encapsulations = frozenset((Encapsulation.V6UDPV4,))

    def __init__(
        self, clock: Clock, pools: Sequence[Pool] = (), own_addresses: Collection[str] = (), *, outlives: bool = False
    ) -> None:
        """`own_addresses`: outer addresses of this machine, loopback left out. `outlives`: be like a kernel's."""
        self.outlives = outlives
        self._now = clock.monotonic
        self._blocks = [
            (int(p.block.network_address) >> (128 - p.block.prefixlen), 128 - p.block.prefixlen) for p in pools
        ]
        self._broker_addresses = {p.broker_address.packed for p in pools if p.use is not Use.PREFIXES}
        self._error_source = next(iter(sorted(self._broker_addresses)), None)
        self._peers = Peers(pools, own_addresses, self.encapsulations, self._route)
        self._expiries = icmp6.RateLimit(rate=100, burst=100)
        self._carried = [0, 0, 0, 0]
        self._listening: Callable[[bytes, bytes], bool] = icmp6.deaf
        self._listeners: list[Callable[[PlaneEvent], None]] = []
        self._failures: list[tuple[int, str]] = []
        self._transmit: Callable[[bytes, Endpoint, Endpoint], bool] = _taken
        self.calls: deque[str] = deque(maxlen=KEPT)
        """Names of the verbs called, those that failed included."""
        self.delivered: deque[bytes] = deque(maxlen=KEPT)
        """Inner packets that went on into the Internet, hop limit decremented."""
        self.transmitted: deque[tuple[bytes, Endpoint, Endpoint]] = deque(maxlen=KEPT)
        """Datagrams that went out to clients: datagram, local, remote."""

    # --- what only a test does ------------------------------------------------------------------------------------

    def fail_at(self, call: int = 1, why: str = "the data plane was told to fail") -> None:
        """The `call`-th call of start, stop, raise_tunnel, lower_tunnel or dump from now on raises DataPlaneError."""
        self._failures.append((call, why))

    def reboot(self) -> None:
        """Forget all tunnels and say nothing, as a machine that was switched off."""
        self._peers.clear()

    def lose(self, why: str = "the data plane was told to lose everything") -> None:
        """Forget all tunnels, as a device that was reset, and say so."""
        self._peers.clear()
        for listener in self._listeners:
            listener(PlaneLost(why))

    def receive(self, packet: bytes) -> None:
        """A packet comes from the Internet."""
        if len(packet) >= icmp6.HEADER and packet[0] >> 4 == 6:
            self._forward(packet)

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._called("start")

    async def stop(self) -> None:
        self._called("stop")
        if not self.outlives:
            self._peers.clear()

    async def raise_tunnel(self, spec: TunnelSpec) -> None:
        self._called("raise_tunnel")
        self._peers.put(spec)

    async def raise_tunnels(self, specs: Sequence[TunnelSpec]) -> Mapping[TunnelId, str]:
        refused = {}
        for spec in specs:
            try:
                await self.raise_tunnel(spec)
            except DataPlaneError as error:
                refused[spec.id] = str(error)
        return refused

    async def lower_tunnel(self, tunnel: TunnelId) -> Counters | None:
        self._called("lower_tunnel")
        return self._peers.take(tunnel)

    async def dump(self, tunnels: Collection[TunnelId] | None = None) -> Sequence[Observed]:
        self._called("dump")
        return self._peers.dump(tunnels)

    def strays(self) -> Mapping[Refusal, int]:
        return dict(self._peers.strays)

    def carried(self) -> Carried:
        return Carried(*self._carried)

    def send_echo(self, source: bytes, destination: bytes, rest: bytes) -> bool:
        packet = icmp6.message(source, destination, icmp6.ECHO_REQUEST, 0, rest)
        peer = self._peers.outward(packet, self._now())
        if peer is None or not self._transmit(packet, peer.local, peer.remote):
            return False
        self.transmitted.append((packet, peer.local, peer.remote))
        return True

    def hear_echoes(self, listener: Callable[[bytes, bytes], bool]) -> None:
        self._listening = listener

    def subscribe(self, listener: Callable[[PlaneEvent], None]) -> None:
        self._listeners.append(listener)

    def send_with(self, transmit: Callable[[bytes, Endpoint, Endpoint], bool]) -> None:
        self._transmit = transmit

    def feed(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """From a client into the Internet, or to another client."""
        peer = self._peers.inward(datagram, local, remote, self._now())
        if peer is None or (datagram[6] == icmp6.ICMP6 and self._is_echo(datagram)):
            return
        peer.packets_in += 1
        peer.octets_in += len(datagram)
        self._carried[0] += len(datagram)
        self._carried[2] += 1
        self._forward(datagram)

    def _is_echo(self, packet: bytes) -> bool:
        return packet[24:40] in self._broker_addresses and icmp6.heard(packet, self._listening)

    # --- what the kernel does for the others ----------------------------------------------------------------------

    def _forward(self, packet: bytes) -> None:
        if packet[24:40] in self._broker_addresses:
            reply = icmp6.echo_reply(packet)
            if reply is not None:
                self._route(reply)
        elif packet[7] > 1:
            self._route(packet[:7] + bytes((packet[7] - 1,)) + packet[8:])
        elif self._error_source is not None and self._expiries.take(self._now()):
            answer = icmp6.error(self._error_source, icmp6.TIME_EXCEEDED, 0, 0, packet)
            if answer is not None:
                self._route(answer)

    def _route(self, packet: bytes) -> None:
        destination = int.from_bytes(packet[24:40], "big")
        if not any(destination >> shift == network for network, shift in self._blocks):
            self.delivered.append(packet)
            return
        peer = self._peers.outward(packet, self._now())
        if peer is None:
            return
        if self._transmit(packet, peer.local, peer.remote):
            self.transmitted.append((packet, peer.local, peer.remote))
            peer.packets_out += 1
            peer.octets_out += len(packet)
            self._carried[1] += len(packet)
            self._carried[3] += 1
        else:
            peer.refuse(Refusal.NOT_SENT)

    def _called(self, verb: str) -> None:
        self.calls.append(verb)
        due = [why for call, why in self._failures if call == 1]
        self._failures = [(call - 1, why) for call, why in self._failures if call > 1]
        if due:
            raise DataPlaneError(due[0])


def _taken(datagram: bytes, local: Endpoint, remote: Endpoint) -> bool:
    return True
