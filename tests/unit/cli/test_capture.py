# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading captures: every link type, both byte orders, TCP put together, and damage of every kind."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.captures import BROKER, CLIENT, ip, pcap, tcp, udp

from ddtb6.addressing.endpoint import Carrier, Endpoint
from ddtb6.cli.capture import NotACapture, Payload, from_packet, read


def payloads(octets: bytes) -> list[Payload]:
    return list(read(io.BytesIO(octets), 3653))


ETHERNET = bytes(12) + b"\x08\x00"


@pytest.mark.parametrize(
    ("link_type", "header"),
    [
        (0, b"\x02\0\0\0"),
        (1, ETHERNET),
        (1, bytes(12) + b"\x81\x00\x00\x05\x08\x00"),
        (1, bytes(12) + b"\x88\xa8\x00\x05\x81\x00\x00\x06\x08\x00"),
        (12, b""),
        (101, b""),
        (108, b"\0\0\0\x02"),
        (113, bytes(14) + b"\x08\x00"),
        (228, b""),
        (276, b"\x08\x00" + bytes(18)),
    ],
)
def test_link_types(link_type: int, header: bytes) -> None:
    (found,) = payloads(pcap([header + udp(b"text")], link_type))
    assert found == Payload(1000 + 500e-6, Carrier.UDP, CLIENT, BROKER, b"text")


@pytest.mark.parametrize(
    ("order", "magic", "unit"),
    [(">", 0xA1B2C3D4, 1e-6), ("<", 0xA1B2C3D4, 1e-6), (">", 0xA1B23C4D, 1e-9), ("<", 0xA1B23C4D, 1e-9)],
)
def test_byte_orders_and_units(order: str, magic: int, unit: float) -> None:
    (found,) = payloads(pcap([udp(b"x")], 101, order, magic))
    assert found.time == pytest.approx(1000 + 500 * unit, abs=1e-9)


def test_ipv6_with_extension_headers() -> None:
    client, broker = Endpoint("2001:db8::7", 4001), Endpoint("2001:db8::1", 3653)
    body = struct.pack(">HHHH", 4001, 3653, 9, 0) + b"x"
    options = bytes([17, 0]) + bytes(6)
    first_fragment = bytes([17, 0, 0, 1]) + bytes(4)
    packets = [
        udp(b"x", client, broker),
        ip(0, options + body, client, broker),
        ip(44, first_fragment + body, client, broker),
    ]
    assert [each.octets for each in payloads(pcap(packets))] == [b"x"] * 3
    later_fragment = bytes([17, 0, 0, 9]) + bytes(4)
    assert payloads(pcap([ip(44, later_fragment + body, client, broker)])) == []


def test_only_the_port_and_only_the_datagram() -> None:
    padded = udp(b"x") + bytes(20)
    assert [each.octets for each in payloads(pcap([padded]))] == [b"x"]
    assert payloads(pcap([udp(b"x", CLIENT, Endpoint("192.0.2.1", 53))])) == []
    assert from_packet(udp(b"x"), 3653) == Payload(None, Carrier.UDP, CLIENT, BROKER, b"x")
    assert from_packet(udp(b"x"), 53) is None


def test_tcp_is_put_together_by_turns() -> None:
    back = {"source": BROKER, "destination": CLIENT}
    frames = [
        tcp(b"", 99, 0x02),
        tcp(b"", 499, 0x12, **back),
        tcp(b"VERSI", 100),
        tcp(b"VERSI", 100),
        tcp(b"SION=2", 103),
        tcp(b"", 500, 0x10, **back),
        tcp(b"CAPA", 500, **back),
        tcp(b"BILITY", 504, **back),
        tcp(b"AUTH", 109),
        tcp(b"", 113, 0x11),
    ]
    assert [(each.source, each.octets) for each in payloads(pcap(frames))] == [
        (CLIENT, b"VERSION=2"),
        (BROKER, b"CAPABILITY"),
        (CLIENT, b"AUTH"),
    ]


def test_tcp_sequence_numbers_wrap() -> None:
    frames = [tcp(b"", 0xFFFFFFFD, 0x02), tcp(b"abcd", 0xFFFFFFFE), tcp(b"cdef", 0)]
    assert [each.octets for each in payloads(pcap(frames))] == [b"abcdef"]


def test_one_side_that_never_stops_is_bounded() -> None:
    frames = [tcp(b"x" * 1400, 1400 * place) for place in range(400)]
    found = payloads(pcap(frames))
    assert sum(len(each.octets) for each in found) == 1400 * 400
    assert max(len(each.octets) for each in found) < 300_000


@pytest.mark.parametrize(
    ("octets", "sentence"),
    [
        (b"", "not a pcap"),
        (b"\xa1\xb2\xc3\xd4", "not a pcap"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "editcap"),
        (pcap([], 147), "link type 147"),
    ],
)
def test_what_cannot_be_read(octets: bytes, sentence: str) -> None:
    with pytest.raises(NotACapture, match=sentence):
        payloads(octets)


WHOLE = pcap([ETHERNET + udp(b"one"), ETHERNET + tcp(b"two", 1), ETHERNET + udp(b"three", BROKER, CLIENT)], 1)


@given(st.integers(0, len(WHOLE)))
def test_cut_files_give_what_is_whole(length: int) -> None:
    try:
        found = payloads(WHOLE[:length])
    except NotACapture:
        found = []
        assert length < 24
    assert [each.octets for each in found if each.carrier is Carrier.UDP] in ([], [b"one"], [b"one", b"three"])


@given(st.lists(st.tuples(st.integers(24, len(WHOLE) - 1), st.integers(0, 255)), max_size=8))
def test_damage_never_raises(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(WHOLE)
    for place, octet in changes:
        damaged[place] = octet
    assert len(payloads(bytes(damaged))) <= 40


@given(st.binary(max_size=200))
def test_any_octets_as_a_packet(octets: bytes) -> None:
    found = from_packet(octets, 3653)
    assert found is None or 3653 in (found.source.port, found.destination.port)
