# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest

from ddtb6.addressing.pool import Pool, Use

LINKS = Pool("links", IPv6Network("2001:db8:0:1::/64"), Use.ACCOUNTS, 128)
HOMES = Pool("homes", IPv6Network("2001:db8:100::/40"), Use.PREFIXES, 56)


def test_prefixes_begin_with_the_block() -> None:
    assert HOMES.piece(0) == IPv6Network("2001:db8:100::/56")
    assert HOMES.piece(1) == IPv6Network("2001:db8:100:100::/56")
    assert HOMES.piece(HOMES.capacity - 1) == IPv6Network("2001:db8:1ff:ff00::/56")
    assert HOMES.capacity == 65536


def test_anycast_and_our_own_address_are_not_handed_out() -> None:
    assert LINKS.first == 2
    assert LINKS.piece(2) == IPv6Network("2001:db8:0:1::2/128")
    assert LINKS.broker_address == IPv6Address("2001:db8:0:1::1")
    assert LINKS.capacity == 2**64 - 2
    assert LINKS.piece(LINKS.first + LINKS.capacity - 1) == IPv6Network("2001:db8:0:1:ffff:ffff:ffff:ffff/128")


@pytest.mark.parametrize("index", [-1, 0, 1, 2**64])
def test_pieces_outside_of_the_pool_do_not_exist(index: int) -> None:
    with pytest.raises(IndexError, match="links"):
        LINKS.piece(index)


@pytest.mark.parametrize(
    "piece",
    [
        "2001:db8:0:1::1/128",  # reserved
        "2001:db8:0:2::/128",  # behind
        "2001:db8::/128",  # before
        "2001:db8:0:1::4/127",  # another length
    ],
)
def test_what_is_no_piece_has_no_index(piece: str) -> None:
    with pytest.raises(ValueError, match="not a piece of pool links"):
        LINKS.index(IPv6Network(piece))


@pytest.mark.parametrize(
    ("block", "use", "length", "quarantine"),
    [
        ("2001:db8::/127", Use.ACCOUNTS, 128, 0.0),  # both are reserved
        ("2001:db8::/64", Use.PREFIXES, 56, 0.0),  # smaller than one piece
        ("2001:db8::/32", Use.PREFIXES, 50, 0.0),  # two reverse zones
        ("2001:db8::/32", Use.PREFIXES, 128, 0.0),
        ("2001:db8::/64", Use.ANONYMOUS, 64, 0.0),
        ("2001:db8::/64", Use.ANONYMOUS, 128, -1.0),
        ("2001:db8::/64", Use.ANONYMOUS, 128, float("inf")),
        ("2001:db8::/64", Use.ANONYMOUS, 128, float("nan")),
    ],
)
def test_impossible_pools_are_not_made(block: str, use: Use, length: int, quarantine: float) -> None:
    with pytest.raises(ValueError, match="no such pool"):
        Pool("x", IPv6Network(block), use, length, quarantine)


def test_a_block_may_be_one_piece() -> None:
    assert Pool("one", IPv6Network("2001:db8::/48"), Use.PREFIXES, 48).capacity == 1
