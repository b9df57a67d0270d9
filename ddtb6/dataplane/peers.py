# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnels of a user-space data plane: tables, the judgement of every packet, and counters. Pure.

Source: DESIGN of the port (`broker.planes.DataPlane`); BCP 38 for sources; RFC 6324 section 3.1 for loops; RFC 4443 for
what is answered.
Invariants: no two tunnels share a pair of outer ends or any inner address; a refused change changes nothing; a packet
from outside never moves an endpoint, allocates state, or is answered when no tunnel has its endpoint.
Addresses are handled as two 64-bit halves, *high* (the prefix) and *low* (the interface identifier).
Not here: moving the bytes (`dataplane.tun`, `dataplane.memory`), hop limits (whoever routes does them).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Network, collapse_addresses, ip_address

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.planes import DataPlaneError
from ddtb6.dataplane import icmp6, limits
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters, Observed, TunnelId, TunnelSpec

_HEADER = struct.Struct("!IHHQQQQ")
"""Version, class and flow; payload length; next header and hop limit; source high, low; destination high, low."""
_WORD = 0xFFFFFFFF
_TEREDO = 0x2001_0000
_NAT64 = 0x0064_FF9B << 32


class Peer:
    """One tunnel. The plane counts in it directly: no call per packet.

    Its prefix and routes are pairs of shift and shifted high half. Most tunnels have one at most, so the first is
    `shift` and `network`, and those after it are `further`.
    """

    __slots__ = (
        "address",
        "further",
        "high",
        "last_seen",
        "local",
        "low",
        "mtu",
        "network",
        "octets_in",
        "octets_out",
        "packets_in",
        "packets_out",
        "refused",
        "remote",
        "shift",
        "spec",
    )

    def __init__(self, spec: TunnelSpec) -> None:
        self.spec = spec
        self.local, self.remote, self.mtu = spec.local, spec.remote, spec.mtu
        self.address = spec.address.packed
        number = int(spec.address)
        self.high, self.low = number >> 64, number & (1 << 64) - 1
        networks = [
            (64 - each.prefixlen, int(each.network_address) >> 128 - each.prefixlen) for each in _networks(spec)
        ]
        # Without a network, a number that no shifted high half is equal to.
        self.shift, self.network = networks[0] if networks else (0, -1)
        self.further = tuple(networks[1:])
        self.packets_in = self.octets_in = self.packets_out = self.octets_out = 0
        self.refused: dict[Refusal, int] | None = None
        self.last_seen: float | None = None

    @property
    def networks(self) -> tuple[tuple[int, int], ...]:
        """All of its networks."""
        return () if self.network < 0 else ((self.shift, self.network), *self.further)

    def routes(self, high: int) -> bool:
        """Whether addresses with this high half are in one of its further networks."""
        return any(high >> shift == network for shift, network in self.further)

    def refuse(self, reason: Refusal) -> None:
        """Count a packet that was not carried."""
        if self.refused is None:
            self.refused = {}
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def counters(self) -> Counters:
        """What it has carried so far."""
        return Counters(self.packets_in, self.octets_in, self.packets_out, self.octets_out, dict(self.refused or ()))


class Peers:
    """All tunnels of one data plane."""

    def __init__(
        self,
        pools: Sequence[Pool],
        own_addresses: Collection[str],
        encapsulations: Collection[Encapsulation],
        answer: Callable[[bytes], None],
    ) -> None:
        """`own_addresses`: our outer addresses, loopback left out. `answer` routes an ICMPv6 error that we made."""
        self._encapsulations = encapsulations
        self._answer = answer
        self._blocks = [pool.block for pool in pools]
        self._error_source = next((p.broker_address.packed for p in pools if p.use is not Use.PREFIXES), None)
        self._unreachables = icmp6.RateLimit(rate=100, burst=100)
        self._too_bigs = icmp6.RateLimit(rate=1000, burst=1000)
        self._by_id: dict[TunnelId, Peer] = {}
        self._by_ends: dict[Endpoint, dict[Endpoint, Peer]] = {}
        """By our end, then by the client's."""
        self._by_address: dict[bytes, Peer] = {}
        self._by_network: dict[int, dict[int, Peer]] = {}
        # High halves in order: where tunnels' addresses are, with each as often as there are, and where networks begin.
        self._address_highs = array("Q")
        self._network_highs = array("Q")
        self.strays: dict[Refusal, int] = {}
        self._own = {str(ip_address(each)) for each in own_addresses}
        self._guarded: set[str] = set()
        self._own4: set[int] = set()
        self._sixtofour: set[int] = set()
        self._isatap: set[int] = set()
        for each in self._own:
            self._guard(each)

    # --- verbs ----------------------------------------------------------------------------------------------------

    def put(self, spec: TunnelSpec) -> None:
        """Make the tables equal to `spec`; a tunnel that changes keeps its counters. Raises DataPlaneError."""
        old = self._by_id.get(spec.id)
        if old is not None and old.spec == spec:
            return
        self._check(spec)
        peer = Peer(spec)
        if old is not None:
            self._remove(old)
            peer.packets_in, peer.octets_in = old.packets_in, old.octets_in
            peer.packets_out, peer.octets_out = old.packets_out, old.octets_out
            peer.refused, peer.last_seen = old.refused, old.last_seen
        holder = self._holder(peer)
        if holder is None:
            self._add(peer)
        else:
            if old is not None:
                self._add(old)
            raise DataPlaneError(f"tunnel {holder.spec.id} has an address of {spec.inner_text}")
        self._guard(spec.local.address)

    def put_all(self, specs: Iterable[TunnelSpec]) -> dict[TunnelId, str]:
        """As `put` with each; why, for those that were refused."""
        refused = {}
        for spec in specs:
            try:
                self.put(spec)
            except DataPlaneError as error:
                refused[spec.id] = str(error)
        return refused

    def take(self, tunnel: TunnelId) -> Counters | None:
        """Remove it and return its final counters; None when there is none."""
        peer = self._by_id.get(tunnel)
        if peer is None:
            return None
        self._remove(peer)
        return peer.counters()

    def dump(self, tunnels: Collection[TunnelId] | None) -> list[Observed]:
        """All, or those of `tunnels` that exist."""
        wanted = self._by_id.values() if tunnels is None else filter(None, map(self._by_id.get, tunnels))
        return [Observed(peer.spec, peer.counters(), peer.last_seen) for peer in wanted]

    def clear(self) -> None:
        """Remove all."""
        for peer in list(self._by_id.values()):
            self._remove(peer)

    # --- packets --------------------------------------------------------------------------------------------------

    def inward(self, packet: bytes, local: Endpoint, remote: Endpoint, now: float) -> Peer | None:
        """Judge a packet from outside. The peer when it is to be carried (`last_seen` set, not yet counted)."""
        peers = self._by_ends.get(local)
        peer = None if peers is None else peers.get(remote)
        if peer is None:
            self._stray(Refusal.UNKNOWN_ENDPOINT)
            return None
        size = len(packet)
        if size < icmp6.HEADER:
            peer.refuse(Refusal.MALFORMED)
            return None
        first, payload, _, source, source_low, destination, destination_low = _HEADER.unpack_from(packet)
        # A datagram carries its packet and nothing else: octets after the packet would be carried uncounted.
        if first >> 28 != 6 or payload + icmp6.HEADER != size:
            peer.refuse(Refusal.MALFORMED)
            return None
        reason = self._source_fault(source, source_low)
        if reason is None:
            if (
                (source_low != peer.low or source != peer.high)
                and source >> peer.shift != peer.network
                and not (peer.further and peer.routes(source))
            ):
                reason = Refusal.SPOOFED_SOURCE
            else:
                reason = self._destination_fault(destination, destination_low)
        if reason is not None:
            peer.refuse(reason)
            return None
        peer.last_seen = now
        return peer

    def outward(self, packet: bytes, now: float) -> Peer | None:
        """Judge a packet that was routed to us. The peer when it is to be sent (not yet counted)."""
        size = len(packet)
        if size < icmp6.HEADER:
            self._stray(Refusal.MALFORMED)
            return None
        first, payload, _, source, source_low, destination, destination_low = _HEADER.unpack_from(packet)
        if first >> 28 != 6 or payload + icmp6.HEADER != size:
            self._stray(Refusal.MALFORMED)
            return None
        peer = self._by_address.get(packet[24:40])
        if peer is None:
            for shift, table in self._by_network.items():
                peer = table.get(destination >> shift)
                if peer is not None:
                    break
            else:
                self._nobody(packet, destination, destination_low, now)
                return None
        reason = self._source_fault(source, source_low) or self._destination_fault(destination, destination_low)
        if reason is not None:
            peer.refuse(reason)
            return None
        if size > peer.mtu:
            peer.refuse(Refusal.TOO_BIG)
            if self._too_bigs.take(now):
                self._complain(icmp6.PACKET_TOO_BIG, 0, peer.mtu, packet)
            return None
        return peer

    def _nobody(self, packet: bytes, high: int, low: int, now: float) -> None:
        reason = self._destination_fault(high, low)
        self._stray(reason or Refusal.NO_TUNNEL)
        if reason is None and self._unreachables.take(now):
            self._complain(icmp6.DESTINATION_UNREACHABLE, icmp6.ADDRESS_UNREACHABLE, 0, packet)

    def _complain(self, kind: int, code: int, word: int, about: bytes) -> None:
        if self._error_source is not None:
            packet = icmp6.error(self._error_source, kind, code, word, about)
            if packet is not None:
                self._answer(packet)

    def _stray(self, reason: Refusal) -> None:
        self.strays[reason] = self.strays.get(reason, 0) + 1

    def _source_fault(self, high: int, low: int) -> Refusal | None:
        if high >> 61 != 1:  # outside of 2000::/3
            if high >> 54 == 0x3FA:
                return Refusal.LINK_LOCAL
            if high >> 56 == 0xFF or (high == 0 and low >> 32 in (0, 0xFFFF)):
                return Refusal.BAD_SOURCE
        return Refusal.LOOP if self._loops(high, low) else None

    def _destination_fault(self, high: int, low: int) -> Refusal | None:
        if high >> 61 != 1 and (high >> 54 == 0x3FA or high >> 56 == 0xFF or (high == 0 and low >> 32 in (0, 0xFFFF))):
            return Refusal.BAD_DESTINATION
        return Refusal.LOOP if self._loops(high, low) else None

    def _loops(self, high: int, low: int) -> bool:
        """Whether the address has one of our own outer IPv4 addresses inside: 6to4, ISATAP, Teredo, NAT64."""
        return (
            low in self._isatap
            or high >> 16 in self._sixtofour
            or (high >> 32 == _TEREDO and (high & _WORD in self._own4 or ~low & _WORD in self._own4))
            or (high == _NAT64 and low in self._own4)
        )

    # --- tables ---------------------------------------------------------------------------------------------------

    def _guard(self, address: str) -> None:
        """Learn one of our own outer addresses."""
        if address in self._guarded:
            return
        self._guarded.add(address)
        parsed = ip_address(address)
        if isinstance(parsed, IPv4Address):
            number = int(parsed)
            self._own4.add(number)
            self._sixtofour.add(0x2002 << 32 | number)
            self._isatap.update((0x0000_5EFE << 32 | number, 0x0200_5EFE << 32 | number))

    def _check(self, spec: TunnelSpec) -> None:
        limits.check(spec, self._encapsulations, self._own, self._blocks)
        holder = self._by_ends.get(spec.local, {}).get(spec.remote)
        if holder is not None and holder.spec.id != spec.id:
            raise DataPlaneError(f"tunnel {holder.spec.id} has the endpoint {spec.remote}")

    def _holder(self, peer: Peer) -> Peer | None:
        """A tunnel in the tables that has an inner address of `peer`, which is not in them."""
        holder = self._by_address.get(peer.address) or self._routed(peer.high)
        for shift, network in peer.networks:
            first = network << shift
            holder = holder or self._routed(first) or self._within(first, first | (1 << shift) - 1)
        return holder

    def _routed(self, high: int) -> Peer | None:
        """The tunnel that has a network with this high half in it."""
        for shift, table in self._by_network.items():
            peer = table.get(high >> shift)
            if peer is not None:
                return peer
        return None

    def _within(self, first: int, last: int) -> Peer | None:
        """A tunnel whose address, or the beginning of a network of it, has a high half from `first` to `last`."""
        at = bisect_left(self._network_highs, first)
        if at < len(self._network_highs) and self._network_highs[at] <= last:
            return self._routed(self._network_highs[at])
        at = bisect_left(self._address_highs, first)
        if at < len(self._address_highs) and self._address_highs[at] <= last:
            return next(peer for peer in self._by_address.values() if peer.high == self._address_highs[at])
        return None

    def _add(self, peer: Peer) -> None:
        spec = peer.spec
        self._by_id[spec.id] = peer
        self._by_ends.setdefault(spec.local, {})[spec.remote] = peer
        self._by_address[peer.address] = peer
        insort(self._address_highs, peer.high)
        for shift, network in peer.networks:
            table = self._by_network.get(shift)
            if table is None:
                self._by_network = dict(sorted({**self._by_network, shift: {}}.items()))
                table = self._by_network[shift]
            table[network] = peer
            insort(self._network_highs, network << shift)

    def _remove(self, peer: Peer) -> None:
        spec = peer.spec
        del self._by_id[spec.id]
        del self._by_ends[spec.local][spec.remote]
        if not self._by_ends[spec.local]:
            del self._by_ends[spec.local]
        del self._by_address[peer.address]
        del self._address_highs[bisect_left(self._address_highs, peer.high)]
        for shift, network in peer.networks:
            table = self._by_network[shift]
            del table[network]
            if not table:
                self._by_network = {shift: each for shift, each in self._by_network.items() if each}
            del self._network_highs[bisect_left(self._network_highs, network << shift)]


def _networks(spec: TunnelSpec) -> Iterable[IPv6Network]:
    """Prefix and routes in as few networks as hold the same addresses: a client's may lie in each other."""
    prefix = () if spec.prefix is None else (spec.prefix,)
    return collapse_addresses((*prefix, *spec.routes)) if spec.routes else prefix
