# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages of the kernel module utun: peers to octets and back. Pure.

Source: kmod/utun/utun.yaml, which a test holds this against; the manual is in kmod/utun/uapi/utun.h. Host byte order,
outer addresses and ports in network byte order. A peer is written exactly as the module writes it back, so what the
module has is compared with what was asked for octet by octet.
Not here: sending them (`dataplane.genetlink`), what to do with them (`dataplane.utun`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Network

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.dataplane.genetlink import NESTED, attributes
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

NAME, VERSION = "utun", 1
DEV_GET, SOCKET_ADD, SOCKET_DEL, PEER_ADD, PEER_SET, PEER_DEL, PEER_FLUSH, PEER_GET, EVENT = range(1, 10)
A_IFINDEX, A_FD, A_PEER, A_PEERS, A_SOCKETS, A_GENERATION, A_DROPS, A_EVENT, A_INNER = range(1, 10)
ID, TRANSPORT, LOCAL4, LOCAL_PORT, REMOTE4, REMOTE_PORT, MTU, FLAGS, PREFIX = range(1, 10)
RX_PACKETS, RX_BYTES, TX_PACKETS, TX_BYTES, LAST_RX, PEER_DROPS, PAD = range(10, 17)
UDP, SIXINFOUR = 1, 2
REASONS = (
    *(Refusal.MALFORMED, Refusal.SPOOFED_SOURCE, Refusal.BAD_SOURCE, Refusal.BAD_DESTINATION, Refusal.LINK_LOCAL),
    *(Refusal.TOO_BIG, Refusal.LOOP, Refusal.NOT_SENT, Refusal.UNKNOWN_ENDPOINT, Refusal.NO_TUNNEL),
)
"""Enum drop, from 1 on."""
IDS_MAX = 128
"""Peers named by one message."""

_TRANSPORT_OF = {Encapsulation.V6UDPV4: UDP, Encapsulation.V6V4: SIXINFOUR}
_ENCAPSULATION_OF = {number: encapsulation for encapsulation, number in _TRANSPORT_OF.items()}

_U32_ATTRIBUTE = struct.Struct("=HHI")
_NEST = struct.Struct("=HH")
_ENDS = struct.Struct("=HHI HHB3x HH4s HH4s")
"""Id, transport, local and remote address."""
_PORTS = struct.Struct("=HH2s2x HH2s2x")
_TERMS = struct.Struct("=HHH2x HHI")
"""MTU, flags."""
_PREFIX = struct.Struct("=HH16sB3x")
_COUNTERS = struct.Struct("=HHQ HHQ HHQ HHQ")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_SUMS = (RX_PACKETS, RX_BYTES, TX_PACKETS, TX_BYTES)
_COUNTERS_HEAD = struct.pack("=HH", 12, RX_PACKETS)
_NOTHING: Mapping[Refusal, int] = {}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a peer has carried."""

    counters: Counters
    silent_for: float | None
    """Seconds since the last packet from it; None before the first."""


def u32(kind: int, value: int) -> bytes:
    """One attribute."""
    return _U32_ATTRIBUTE.pack(8, kind, value)


def peer(inside: bytes) -> bytes:
    """A_PEER with these attributes."""
    return _NEST.pack(4 + len(inside), A_PEER | NESTED) + inside


def named(tunnel: int) -> bytes:
    """A_PEER that names a peer and nothing else."""
    return _NEST.pack(12, A_PEER | NESTED) + _U32_ATTRIBUTE.pack(8, ID, tunnel)


def terms(spec: TunnelSpec) -> bytes:
    """All that a peer is made with: the attributes of an A_PEER, in the order in which the module writes them.

    Both ends are IPv4 addresses. Raises OSError where one is not.
    """
    transport = _TRANSPORT_OF[spec.encapsulation]
    local, remote = spec.local, spec.remote
    return b"".join(
        (
            _ENDS.pack(
                *(8, ID, spec.id, 5, TRANSPORT, transport),
                *(8, LOCAL4, _packed(local.address), 8, REMOTE4, socket.inet_aton(remote.address)),
            ),
            _PORTS.pack(6, LOCAL_PORT, local.port.to_bytes(2, "big"), 6, REMOTE_PORT, remote.port.to_bytes(2, "big"))
            if transport == UDP
            else b"",
            _TERMS.pack(6, MTU, spec.mtu, 8, FLAGS, 0),
            *(_PREFIX.pack(24, PREFIX, *each) for each in _prefixes(spec)),
        )
    )


def traffic(body: bytes, at: int, end: int) -> Traffic | None:
    """What follows the `terms` of a peer in `body`; None when they end elsewhere."""
    if body[at : at + 4] != _COUNTERS_HEAD or at + _COUNTERS.size > end:
        return _slowly(body, at, end)
    _, _, packets_in, _, _, octets_in, _, _, packets_out, _, _, octets_out = _COUNTERS.unpack_from(body, at)
    at += _COUNTERS.size
    silent_for, refused = _rest(body, at, end) if at < end else (None, _NOTHING)
    return Traffic(Counters(packets_in, octets_in, packets_out, octets_out, refused), silent_for)


def _slowly(body: bytes, at: int, end: int) -> Traffic | None:
    """As `traffic`, for machines whose kernel pads 64-bit numbers."""
    found = list(attributes(body, at, end))
    sums = {kind: _U64.unpack_from(body, start)[0] for kind, start, stop in found if stop - start == 8}
    if any(kind < RX_PACKETS for kind, _, _ in found) or not all(each in sums for each in _SUMS):
        return None
    packets_in, octets_in, packets_out, octets_out = (sums[each] for each in _SUMS)
    silent_for, refused = _rest(body, at, end)
    return Traffic(Counters(packets_in, octets_in, packets_out, octets_out, refused), silent_for)


def _rest(body: bytes, at: int, end: int) -> tuple[float | None, Mapping[Refusal, int]]:
    silent_for: float | None = None
    refused: Mapping[Refusal, int] = _NOTHING
    for kind, start, stop in attributes(body, at, end):
        if kind == LAST_RX:
            silent_for = _U64.unpack_from(body, start)[0] / 1000
        elif kind == PEER_DROPS:
            refused = drops(body, start, stop)
    return silent_for, refused


def drops(body: bytes, at: int, end: int) -> dict[Refusal, int]:
    """Counts by reason; numbers that a newer module may have more of are left out."""
    return {
        REASONS[kind - 1]: _U64.unpack_from(body, start)[0]
        for kind, start, stop in attributes(body, at, end)
        if 0 < kind <= len(REASONS) and stop - start == 8
    }


def peers(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the attributes of each A_PEER in an answer begin and end."""
    return ((at, end) for kind, at, end in attributes(body) if kind == A_PEER)


def number(body: bytes, at: int) -> TunnelId:
    """The id of a peer whose attributes begin at `at`; the module writes it first."""
    return TunnelId(_U32.unpack_from(body, at + 4)[0])


def read(body: bytes, at: int, end: int) -> tuple[TunnelSpec, int]:
    """A peer as the module has it, and where its terms end.

    The module knows prefixes, and not what each is for: the first is taken for the address, the second for the
    delegated prefix and those after it for routes. That is how `terms` writes them, unless there are routes only.
    """
    found: dict[int, bytes] = {}
    prefixes: list[IPv6Network] = []
    past = at
    for kind, start, stop in attributes(body, at, end):
        if kind >= RX_PACKETS:
            break
        if kind == PREFIX:
            prefixes.append(IPv6Network((body[start : start + 16], body[start + 16])))
        else:
            found[kind] = body[start:stop]
        past = stop + 3 & ~3
    address, *networks = prefixes
    spec = TunnelSpec(
        TunnelId(_U32.unpack(found[ID])[0]),
        _ENCAPSULATION_OF[found[TRANSPORT][0]],
        _endpoint(found[LOCAL4], found.get(LOCAL_PORT)),
        _endpoint(found[REMOTE4], found.get(REMOTE_PORT)),
        address.network_address,
        networks[0] if networks else None,
        _U16.unpack(found[MTU])[0],
        tuple(networks[1:]),
    )
    return spec, past


def _endpoint(address: bytes, port: bytes | None) -> Endpoint:
    return Endpoint(socket.inet_ntoa(address), int.from_bytes(port or b"", "big"))


def _prefixes(spec: TunnelSpec) -> Iterator[tuple[bytes, int]]:
    """Each once, as the module keeps them."""
    yield spec.address.packed, 128
    if spec.prefix is not None:
        yield spec.prefix.network_address.packed, spec.prefix.prefixlen
    if spec.routes:
        written = set() if spec.prefix is None else {spec.prefix}
        for network in spec.routes:
            if network not in written:
                written.add(network)
                yield network.network_address.packed, network.prefixlen


@lru_cache(maxsize=64)
def _packed(address: str) -> bytes:
    """Our own addresses, which are few."""
    return socket.inet_aton(address)
