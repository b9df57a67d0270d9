# SPDX-License-Identifier: GPL-2.0-or-later
"""Attributes: what is sent, octet by octet, and typed reading of whatever comes."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.radius.attributes import CODES, NAMES, Malformed, Received, Unencodable, Value, clip, encode

SECRET = b"xyzzy5461"


def encoded(name: str, value: Value) -> bytes:
    """The octets of the value alone."""
    octets = encode([(name, value)], SECRET, bytes(16))
    if octets:
        assert octets[:2] == bytes((CODES[name], len(octets)))
    return octets[2:]


def received(name: str, *raw: bytes) -> Received:
    return Received((CODES[name], each) for each in raw)


@pytest.mark.parametrize(
    ("name", "value", "octets"),
    [
        ("User-Name", "zoë", b"zo\xc3\xab"),
        ("User-Name", b"\xff", b"\xff"),
        ("Service-Type", "Call-Check", b"\0\0\0\x0a"),
        ("Service-Type", 17, b"\0\0\0\x11"),
        ("Acct-Input-Octets", 0xFFFF_FFFF, b"\xff\xff\xff\xff"),
        ("Event-Timestamp", 1_800_000_000, b"\x6b\x49\xd2\x00"),
        ("NAS-IP-Address", IPv4Address("192.0.2.1"), b"\xc0\x00\x02\x01"),
        ("NAS-IPv6-Address", IPv6Address("2001:db8::1"), IPv6Address("2001:db8::1").packed),
        ("Framed-IPv6-Prefix", IPv6Network("2001:db8:1::/48"), b"\x00\x30\x20\x01\x0d\xb8\x00\x01"),
        ("Framed-IPv6-Prefix", IPv6Network("2001:db8::/33"), b"\x00\x21\x20\x01\x0d\xb8\x00"),
        ("Framed-IPv6-Prefix", IPv6Network("::/0"), b"\x00\x00"),
        ("Class", b"0x41", b"0x41"),
        ("Class", b"65", b"65"),
        ("Framed-Interface-Id", bytes(7) + b"\x01", bytes(7) + b"\x01"),
        ("Reply-Message", "", b""),
        ("Class", b"", b""),
    ],
)
def test_what_is_sent(name: str, value: Value, octets: bytes) -> None:
    assert encoded(name, value) == octets


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("User-Name", "é" * 127, "User-Name is longer than 253 octets"),
        ("Class", bytes(254), "Class is longer than 253 octets"),
        ("User-Password", b"", "User-Password must have 1 to 128 octets"),
        ("User-Password", b"x" * 129, "User-Password must have 1 to 128 octets"),
        ("User-Password", "text", "User-Password must have 1 to 128 octets"),
        ("NAS-Port", 1 << 32, "NAS-Port cannot be 4294967296"),
        ("NAS-Port", -1, "NAS-Port cannot be -1"),
        ("Service-Type", "Nonsense", "Service-Type cannot be 'Nonsense'"),
        ("Event-Timestamp", "today", "Event-Timestamp cannot be 'today'"),
    ],
)
def test_what_cannot_be_sent(name: str, value: Value, sentence: str) -> None:
    with pytest.raises(Unencodable, match=sentence):
        encoded(name, value)


def test_order_is_kept_within_a_name() -> None:
    octets = encode([("Class", b"b"), ("Filter-Id", "x"), ("Class", b"a")], SECRET, bytes(16))
    assert octets == b"\x19\x03b\x19\x03a\x0b\x03x"


def test_passwords_are_hidden_in_blocks_of_16() -> None:
    for length in (1, 15, 16, 17, 128):
        hidden = encoded("User-Password", b"p" * length)
        assert len(hidden) == (length + 15) // 16 * 16
        assert b"pp" not in hidden


def test_clip() -> None:
    assert clip("é" * 127) == "é" * 126
    assert clip("é" * 126) == "é" * 126
    assert clip("abc", 2) == "ab"


def test_dictionary_names_each_number_once() -> None:
    assert len(NAMES) == len(CODES)
    assert (CODES["Framed-IPv6-Address"], CODES["Digest-HA1"], NAMES[207]) == (168, 121, "Draft-Digest-Attributes")


# --- reading ------------------------------------------------------------------------------------------------------


def test_reading() -> None:
    some = Received(
        [(25, b"b"), (1, "zoë".encode()), (25, b"a"), (27, b"\0\0\x0e\x10"), (200, b""), (96, bytes(7) + b"\7")]
    )
    assert some.names() == ["Class", "User-Name", "Session-Timeout", "Attr-200", "Framed-Interface-Id"]
    assert some.octets("Class") == (b"b", b"a")
    assert some.text("User-Name") == "zoë"
    assert some.integer("Session-Timeout") == 3600
    assert some.interface_id("Framed-Interface-Id") == 7
    assert "Class" in some
    assert "State" not in some
    assert (some.text("Filter-Id"), some.integer("Idle-Timeout"), some.address("Framed-IPv6-Address")) == (None,) * 3
    assert (some.texts("Filter-Id"), some.prefixes("Framed-IPv6-Prefix")) == ((), ())
    assert "zoë" not in repr(some)
    assert received("NAS-IP-Address", b"\xc0\0\2\1").address4("NAS-IP-Address") == IPv4Address("192.0.2.1")


@pytest.mark.parametrize(
    ("raw", "prefix"),
    [
        (b"\x00\x40" + IPv6Address("2001:db8:1:2::").packed, "2001:db8:1:2::/64"),
        (b"\x00\x40" + IPv6Address("2001:db8:1:2::").packed[:8], "2001:db8:1:2::/64"),
        (b"\x00\x30" + IPv6Address("2001:db8:1::").packed[:6], "2001:db8:1::/48"),
        (b"\x00\x2f" + IPv6Address("2001:db8:2::").packed[:6], "2001:db8:2::/47"),
        (b"\x07\x80" + IPv6Address("2001:db8::1").packed, "2001:db8::1/128"),
        (b"\x00\x00", "::/0"),
    ],
)
def test_prefixes_of_every_length(raw: bytes, prefix: str) -> None:
    assert received("Framed-IPv6-Prefix", raw).prefixes("Framed-IPv6-Prefix") == (IPv6Network(prefix),)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "has 0 octets instead of 2 to 18"),
        (b"\x00", "has 1 octets"),
        (b"\x00\x40" + bytes(17), "has 19 octets"),
        (b"\x00\x81" + bytes(16), "has the length 129"),
        (b"\x00\x40" + bytes(7), "of length 64 has only 7 octets"),
        (b"\x00\x2f" + IPv6Address("2001:db8:1::").packed[:6], "has bits set after its length of 47"),
        (b"\x00\x40" + IPv6Address("2001:db8::1").packed, "has bits set after its length of 64"),
    ],
)
def test_prefixes_that_are_none(raw: bytes, sentence: str) -> None:
    with pytest.raises(Malformed, match=f"Framed-IPv6-Prefix {sentence}"):
        received("Framed-IPv6-Prefix", raw).prefixes("Framed-IPv6-Prefix")


def test_what_is_malformed() -> None:
    for raw in (b"", b"\0\0\0", b"\0\0\0\0\0"):
        with pytest.raises(Malformed, match=f"Session-Timeout has {len(raw)} octets instead of 4"):
            received("Session-Timeout", raw).integer("Session-Timeout")
    for raw in (b"", b"\xff"):
        with pytest.raises(Malformed, match="Filter-Id is empty or not UTF-8"):
            received("Filter-Id", b"fine", raw).texts("Filter-Id")
    with pytest.raises(Malformed, match="Framed-Interface-Id has 7 octets instead of 8"):
        received("Framed-Interface-Id", bytes(7)).interface_id("Framed-Interface-Id")
    with pytest.raises(Malformed, match="Framed-IPv6-Address has not 16 octets"):
        received("Framed-IPv6-Address", bytes(16), bytes(17)).addresses("Framed-IPv6-Address")
    with pytest.raises(Malformed, match="NAS-IP-Address has 16 octets"):
        received("NAS-IP-Address", bytes(16)).address4("NAS-IP-Address")
    with pytest.raises(Malformed, match="User-Name comes 2 times"):
        received("User-Name", b"a", b"a").text("User-Name")
    with pytest.raises(Malformed, match="Session-Timeout comes 2 times"):
        received("Session-Timeout", bytes(4), bytes(4)).integer("Session-Timeout")


@given(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.binary(max_size=253)), max_size=8))
def test_reading_gives_a_value_or_malformed(attributes: list[tuple[int, bytes]]) -> None:
    some = Received(attributes)
    for name in {name for name in some.names() if name in CODES}:
        for read in (
            some.text,
            some.texts,
            some.integer,
            some.address4,
            some.address,
            some.addresses,
            some.prefixes,
            some.interface_id,
        ):
            with contextlib.suppress(Malformed):
                assert read(name) is not None
