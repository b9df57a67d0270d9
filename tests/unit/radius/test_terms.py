# SPDX-License-Identifier: GPL-2.0-or-later
"""What an Access-Accept grants, and what in it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.broker.ports import Terms
from ddtb6.radius.attributes import CODES, NAMES, Attribute, Malformed, Received, encode
from ddtb6.radius.terms import read_terms

A64, B64 = IPv6Network("2001:db8:a::/64"), IPv6Network("2001:db8:b::/64")
HOST = IPv6Network("2001:db8:a::9/128")
ADDRESS = IPv6Address("2001:db8:a::9")
SEVEN, NINE = bytes(7) + b"\7", bytes(7) + b"\x09"


def accept(*attributes: Attribute) -> Received:
    """Through the wire's octets and back."""
    octets, split = encode(attributes, b"", bytes(16)), []
    while octets:
        split.append((octets[0], octets[2 : octets[1]]))
        octets = octets[octets[1] :]
    return Received(split)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ([], {}),
        ([("Framed-IPv6-Address", ADDRESS)], {"address": ADDRESS}),
        ([("Framed-IPv6-Prefix", HOST)], {"address": ADDRESS}),
        ([("Framed-IPv6-Prefix", HOST), ("Framed-IPv6-Address", ADDRESS)], {"address": ADDRESS}),
        ([("Framed-IPv6-Prefix", A64), ("Framed-IPv6-Address", ADDRESS)], {"address": ADDRESS}),
        ([("Framed-IPv6-Prefix", A64), ("Framed-Interface-Id", NINE)], {"address": ADDRESS}),
        ([("Framed-IPv6-Address", ADDRESS), ("Framed-Interface-Id", NINE)], {"address": ADDRESS}),
        ([("Framed-IPv6-Prefix", A64)], {"address": IPv6Address("2001:db8:a::2")}),
        ([("Framed-Interface-Id", SEVEN)], {"interface_id": 7}),
        ([("Delegated-IPv6-Prefix", A64)], {"prefix": A64}),
        ([("Delegated-IPv6-Prefix", A64), ("Delegated-IPv6-Prefix", B64)], {"prefix": A64, "routes": (B64,)}),
        (
            [("Framed-IPv6-Route", "2001:db8:b::/64 :: 1"), ("Framed-IPv6-Route", "2001:db8:a::/64")],
            {"routes": (B64, A64)},
        ),
        ([("Framed-IPv6-Pool", "links")], {"address_pool": "links"}),
        ([("Stateful-IPv6-Address-Pool", "links")], {"address_pool": "links"}),
        ([("Framed-IPv6-Pool", "links"), ("Stateful-IPv6-Address-Pool", "links")], {"address_pool": "links"}),
        ([("Delegated-IPv6-Prefix-Pool", "home")], {"prefix_pool": "home"}),
        (
            [("DNS-Server-IPv6-Address", ADDRESS), ("DNS-Server-IPv6-Address", IPv6Address("::53"))],
            {"resolver": ADDRESS},
        ),
        ([("Session-Timeout", 3600)], {"session_limit": 3600.0}),
        ([("Session-Timeout", 0)], {"session_limit": 0.0}),
        ([("Idle-Timeout", 300)], {"idle_limit": 300.0}),
        ([("Idle-Timeout", 0)], {"idle_limit": 0.0}),
        ([("Acct-Interim-Interval", 600)], {"interim_interval": 600.0}),
        ([("Acct-Interim-Interval", 59)], {"interim_interval": 60.0}),
        ([("Acct-Interim-Interval", 0)], {"interim_interval": 0.0}),
        ([("Port-Limit", 0)], {"tunnels": 0}),
        ([("Class", b"b"), ("Class", b"\xff\0"), ("Class", b"a")], {"account_class": (b"b", b"\xff\0", b"a")}),
        ([("Filter-Id", "gold"), ("Filter-Id", "night")], {"filter_ids": ("gold", "night")}),
        ([("User-Name", "alice@isp")], {"billed_as": "alice@isp"}),
        ([("Framed-Protocol", "PPP"), ("Reply-Message", "hello"), ("State", b"s"), ("Framed-MTU", 1280)], {}),
    ],
)
def test_what_is_granted(attributes: Sequence[Attribute], expected: dict[str, Any]) -> None:
    assert read_terms(accept(*attributes)) == Terms(by_radius=True, **expected)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ([("Framed-IPv6-Prefix", A64), ("Framed-IPv6-Prefix", B64)], "comes more than once; a tunnel has one address"),
        ([("Framed-IPv6-Prefix", IPv6Network("2001:db8::/56"))], "is 2001:db8::/56; it must be a /64 or a /128"),
        (
            [("Framed-IPv6-Prefix", B64), ("Framed-IPv6-Address", ADDRESS)],
            "2001:db8:a::9 is outside of Framed-IPv6-Prefix",
        ),
        ([("Framed-IPv6-Address", ADDRESS), ("Framed-Interface-Id", SEVEN)], "another one than that of 2001:db8:a::9"),
        ([("Framed-IPv6-Prefix", HOST), ("Framed-Interface-Id", SEVEN)], "another one than that of 2001:db8:a::9"),
        ([("Framed-IPv6-Address", ADDRESS)] * 2, "Framed-IPv6-Address comes 2 times"),
        ([("Framed-Interface-Id", bytes(8))], "Framed-Interface-Id is 0"),
        ([("Framed-Interface-Id", b"\7")], "Framed-Interface-Id has 1 octets instead of 8"),
        ([("Framed-IPv6-Pool", "a"), ("Stateful-IPv6-Address-Pool", "b")], "name different pools"),
        ([("Framed-IPv6-Route", "192.0.2.0/24 192.0.2.1 1")], "Framed-IPv6-Route does not begin with a prefix"),
        ([("Framed-IPv6-Route", "2001:db8:9:: :: 1")], "Framed-IPv6-Route does not begin with a prefix"),
        ([("Framed-IPv6-Route", "2001:db8:9::1/48")], "Framed-IPv6-Route does not begin with a prefix"),
        ([("Framed-IPv6-Route", "  ")], "Framed-IPv6-Route does not begin with a prefix"),
        ([("Session-Timeout", b"\0\0\1")], "Session-Timeout has 3 octets instead of 4"),
        ([("Session-Timeout", 1), ("Session-Timeout", 2)], "Session-Timeout comes 2 times"),
        ([("Delegated-IPv6-Prefix", b"\0\x81")], "Delegated-IPv6-Prefix has the length 129"),
        ([("DNS-Server-IPv6-Address", b"\0\0\1")], "DNS-Server-IPv6-Address has not 16 octets"),
        ([("Filter-Id", b"\xff")], "Filter-Id is empty or not UTF-8"),
        ([("User-Name", "a\nb")], "User-Name holds control characters"),
        ([("User-Name", b"\xff")], "User-Name is empty or not UTF-8"),
    ],
)
def test_what_is_refused(attributes: Sequence[Attribute], sentence: str) -> None:
    with pytest.raises(Malformed, match=sentence):
        read_terms(accept(*attributes))


def test_the_configuration_may_decide_on_interim_records() -> None:
    assert read_terms(accept(("Acct-Interim-Interval", 600)), obey_interim=False).interim_interval is None


def test_an_empty_class_is_none() -> None:
    """It could not be sent back: RFC 2865 has no attribute without a value."""
    assert read_terms(Received([(CODES["Class"], b""), (CODES["Class"], b"a")])).account_class == (b"a",)


@given(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.binary(max_size=40)), max_size=6))
def test_any_accept_gives_terms_or_malformed(attributes: list[tuple[int, bytes]]) -> None:
    try:
        terms = read_terms(Received(attributes))
    except Malformed as error:
        assert str(error)  # noqa: PT017
    else:
        assert terms.by_radius
