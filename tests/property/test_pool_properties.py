# SPDX-License-Identifier: GPL-2.0-or-later
"""Index and piece are inverse, pieces never overlap, and none lies outside of its block."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.addressing.pool import DELEGATED_LENGTHS, Pool, Use


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    use = draw(st.sampled_from(Use))
    length = draw(st.sampled_from(DELEGATED_LENGTHS)) if use is Use.PREFIXES else 128
    size = draw(st.integers(3, length if use is Use.PREFIXES else 126))
    address = draw(st.integers(0, 2**size - 1)) << (128 - size)
    return Pool("any", IPv6Network((address, size)), use, length)


@given(pools(), st.data())
def test_index_and_piece_are_inverse(pool: Pool, data: st.DataObject) -> None:
    index = data.draw(st.integers(pool.first, pool.first + pool.capacity - 1))
    piece = pool.piece(index)
    assert piece.subnet_of(pool.block)
    assert piece.prefixlen == pool.length
    assert pool.index(piece) == index


@given(pools(), st.data())
def test_different_pieces_do_not_overlap(pool: Pool, data: st.DataObject) -> None:
    indices = st.integers(pool.first, pool.first + pool.capacity - 1)
    one, other = data.draw(indices), data.draw(indices)
    assert pool.piece(one).overlaps(pool.piece(other)) == (one == other)


@given(pools(), st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_what_has_an_index_is_a_piece(pool: Pool, address: int, length: int) -> None:
    network = IPv6Network((address >> (128 - length) << (128 - length), length))
    try:
        index = pool.index(network)
    except ValueError:
        return
    assert pool.piece(index) == network


@given(pools())
def test_reserved_addresses_have_no_index(pool: Pool) -> None:
    for offset in range(pool.first):
        with pytest.raises(ValueError, match="not a piece"):
            pool.index(IPv6Network((int(pool.block.network_address) + offset, 128)))
