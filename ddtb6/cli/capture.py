# SPDX-License-Identifier: GPL-2.0-or-later
"""What a packet capture says about a port: payloads of UDP and TCP, in order, with their ends.

Source: the classic pcap format (RFC drafts of the opsawg, "PCAP Capture File Format"); link types 0, 1, 12, 101, 108,
113, 228, 229 and 276, which is what tcpdump writes on Linux and the BSDs.
Invariant: damaged and cut packets are left out, never raised; a damaged file ends where the damage is.
Not here: pcapng, IP fragments other than the first, what the payloads mean (`cli.decode`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import BinaryIO

from ddtb6.addressing.endpoint import Carrier, Endpoint

LARGEST_RECORD = 1 << 20
"""Octets of a packet in a file; tcpdump writes at most 262,144."""
LARGEST_TURN = 1 << 18
"""Octets of one side's TCP speech that are put together."""

_MAGICS = {
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
}
PCAPNG = b"\x0a\x0d\x0d\x0a"

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN_TAGS = (0x8100, 0x88A8)
_UDP, _TCP = 17, 6
_SKIPPED_HEADERS = (0, 43, 60)
_FRAGMENT = 44
_FIN, _SYN, _RST = 0x01, 0x02, 0x04


class NotACapture(Exception):
    """The file is no capture that can be read; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What one UDP datagram carried, or one side of a TCP connection said before the other side spoke."""

    time: float | None
    """Epoch seconds; of the first octet."""
    carrier: Carrier
    source: Endpoint
    destination: Endpoint
    octets: bytes


@dataclass(frozen=True, slots=True)
class _Segment:
    payload: Payload
    sequence: int = 0
    flags: int = 0


def is_capture(start: bytes) -> bool:
    """Whether a file that begins with `start` is a capture, be it one that we can read."""
    return start[:4] in _MAGICS or start[:4] == PCAPNG


def read(file: BinaryIO, port: int) -> Iterator[Payload]:
    """Payloads from or to `port`. Raises NotACapture, before the first."""
    head = file.read(24)
    if head[:4] == PCAPNG:
        raise NotACapture("this is pcapng; make it classic with: editcap -F pcap IN OUT")
    if head[:4] not in _MAGICS or len(head) < 24:
        raise NotACapture("this is not a pcap file")
    order, unit = _MAGICS[head[:4]]
    link_type = struct.unpack(order + "I", head[20:24])[0] & 0x0FFFFFFF
    if link_type not in _LINKS:
        raise NotACapture(f"captures of link type {link_type} cannot be read; capture with tcpdump -i any")
    return _in_turns(_segments(file, struct.Struct(order + "IIII"), unit, link_type, port))


def from_packet(packet: bytes, port: int) -> Payload | None:
    """The payload of one bare IP packet, when it is UDP or TCP from or to `port`."""
    segment = _from_ip(packet, None)
    return segment.payload if segment and _touches(segment, port) else None


def _segments(file: BinaryIO, record: struct.Struct, unit: float, link_type: int, port: int) -> Iterator[_Segment]:
    while len(head := file.read(record.size)) == record.size:
        seconds, fraction, kept, _ = record.unpack(head)
        if kept > LARGEST_RECORD:
            return
        frame = file.read(kept)
        if len(frame) < kept:
            return
        packet = _inside_link(frame, link_type)
        segment = _from_ip(packet, seconds + fraction * unit) if packet else None
        if segment and _touches(segment, port):
            yield segment


def _touches(segment: _Segment, port: int) -> bool:
    return port in (segment.payload.source.port, segment.payload.destination.port)


# --- layers -------------------------------------------------------------------------------------------------------

# Link type to the place of the EtherType and the length of the header; None: an IP packet after that many octets.
_LINKS: dict[int, tuple[int | None, int]] = {
    0: (None, 4),  # BSD loopback
    1: (12, 14),  # Ethernet
    12: (None, 0),  # raw IP
    101: (None, 0),  # raw IP
    108: (None, 4),  # OpenBSD loopback
    113: (14, 16),  # Linux cooked
    228: (None, 0),  # IPv4
    229: (None, 0),  # IPv6
    276: (0, 20),  # Linux cooked, version 2
}


def _inside_link(frame: bytes, link_type: int) -> bytes | None:
    """The IP packet in a frame."""
    place, length = _LINKS[link_type]
    if place is None:
        return frame[length:]
    if len(frame) < length:
        return None
    kind = int.from_bytes(frame[place : place + 2], "big")
    while kind in _VLAN_TAGS and link_type == 1:
        kind = int.from_bytes(frame[length + 2 : length + 4], "big")
        length += 4
    return frame[length:] if kind in (_IPV4, _IPV6) else None


def _from_ip(packet: bytes, time: float | None) -> _Segment | None:
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        length = (packet[0] & 15) * 4
        total = int.from_bytes(packet[2:4], "big") or len(packet)  # 0: segmentation was left to the card
        if length < 20 or int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return None
        ends = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
        return _from_transport(packet[9], packet[length:total], *ends, time)
    if version == 6 and len(packet) >= 40:
        total = 40 + int.from_bytes(packet[4:6], "big")
        protocol, body = packet[6], packet[40 : total if total > 40 else None]
        while protocol in _SKIPPED_HEADERS and len(body) >= 8:
            protocol, body = body[0], body[(body[1] + 1) * 8 :]
        if protocol == _FRAGMENT and len(body) >= 8 and not int.from_bytes(body[2:4], "big") & 0xFFF8:
            protocol, body = body[0], body[8:]
        ends = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
        return _from_transport(protocol, body, *ends, time)
    return None


def _from_transport(protocol: int, body: bytes, source: str, destination: str, time: float | None) -> _Segment | None:
    if protocol not in (_UDP, _TCP) or len(body) < (8 if protocol == _UDP else 20):
        return None
    ports = struct.unpack_from(">HH", body)
    ends = Endpoint(source, ports[0]), Endpoint(destination, ports[1])
    if protocol == _UDP:
        length = int.from_bytes(body[4:6], "big") or len(body)
        return _Segment(Payload(time, Carrier.UDP, *ends, body[8:length]))
    offset = (body[12] >> 4) * 4
    if offset < 20:
        return None
    return _Segment(Payload(time, Carrier.TCP, *ends, body[offset:]), struct.unpack_from(">I", body, 4)[0], body[13])


# --- TCP ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Turn:
    """What one side of a connection has said since the other side spoke."""

    first: Payload
    octets: bytearray = field(default_factory=bytearray)

    def payload(self) -> Payload:
        return Payload(
            self.first.time, self.first.carrier, self.first.source, self.first.destination, bytes(self.octets)
        )


def _in_turns(segments: Iterator[_Segment]) -> Iterator[Payload]:
    """UDP as it comes; TCP put together by turns, without what is sent again. What comes out of order is left out."""
    turns: dict[frozenset[Endpoint], _Turn] = {}
    expected: dict[tuple[Endpoint, Endpoint], int] = {}
    for segment in segments:
        payload = segment.payload
        if payload.carrier is Carrier.UDP:
            yield payload
            continue
        connection, direction = frozenset((payload.source, payload.destination)), (payload.source, payload.destination)
        turn = turns.get(connection)
        if segment.flags & _SYN:
            expected[direction] = segment.sequence + 1 & 0xFFFFFFFF
        octets = payload.octets
        overlap = expected.get(direction, segment.sequence) - segment.sequence & 0xFFFFFFFF
        if octets and not segment.flags & _SYN and overlap < 1 << 31:
            octets = octets[overlap:]
        if octets and not segment.flags & _SYN:
            if turn is not None and (turn.first.source != payload.source or len(turn.octets) > LARGEST_TURN):
                yield turn.payload()
                turn = None
            if turn is None:
                turn = turns[connection] = _Turn(payload)
            turn.octets += octets
            expected[direction] = segment.sequence + len(payload.octets) & 0xFFFFFFFF
        if segment.flags & (_FIN | _RST) and turn is not None:
            yield turn.payload()
            del turns[connection]
    for turn in turns.values():
        yield turn.payload()
