# SPDX-License-Identifier: GPL-2.0-or-later
"""IP packets and pcap files, made octet by octet, for tests of what reads them. Checksums are left at zero."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from ddtb6.addressing.endpoint import Endpoint

CLIENT = Endpoint("198.51.100.7", 4001)
BROKER = Endpoint("192.0.2.1", 3653)


def udp(payload: bytes, source: Endpoint = CLIENT, destination: Endpoint = BROKER) -> bytes:
    """An IP packet."""
    body = struct.pack(">HHHH", source.port, destination.port, 8 + len(payload), 0) + payload
    return ip(17, body, source, destination)


def tcp(
    payload: bytes, sequence: int, flags: int = 0x18, source: Endpoint = CLIENT, destination: Endpoint = BROKER
) -> bytes:
    body = struct.pack(">HHIIBBHHH", source.port, destination.port, sequence, 0, 0x50, flags, 1000, 0, 0) + payload
    return ip(6, body, source, destination)


def ip(protocol: int, body: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    ends = ip_address(source.address).packed + ip_address(destination.address).packed
    if source.family == 6:
        return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + ends + body
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + ends + body


def pcap(frames: list[bytes], link_type: int = 101, order: str = ">", magic: int = 0xA1B2C3D4) -> bytes:
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)
    return head + b"".join(
        struct.pack(order + "IIII", 1000 + place, 500, len(frame), len(frame)) + frame
        for place, frame in enumerate(frames)
    )
