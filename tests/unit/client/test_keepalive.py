# SPDX-License-Identifier: GPL-2.0-or-later
"""Echoes and losses under a clock that is a number."""

from __future__ import annotations

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from ddtb6.client.keepalive import FIRST, KeepaliveClock

CLIENT = IPv6Address("2001:db8:0:1::2")
BROKER = IPv6Address("2001:db8:0:1::1")
COOKIE = bytes.fromhex("7bc5006b000000002fac0b0000000000")


def clock(interval: float = 30.0, identifier: int = 0x0E5C) -> KeepaliveClock:
    return KeepaliveClock(CLIENT, BROKER, interval, identifier, COOKIE, 0.0, lambda: 1.0)


def reply_to(request: bytes) -> bytes:
    return request[:8] + request[24:40] + request[8:24] + bytes((129, 0)) + b"\0\0" + request[44:]


def test_the_echo_is_the_one_captured_from_gogoc_but_for_the_flow_label() -> None:
    packet = clock().expired(30.0)
    assert packet == bytes.fromhex("6000000000183a40") + CLIENT.packed + BROKER.packed + bytes.fromhex(
        "80005efd0e5c00007bc5006b000000002fac0b0000000000"
    )


def test_the_first_echo_leaves_soon_and_the_next_ones_keep_the_interval() -> None:
    keepalive = clock()
    assert keepalive.deadline == FIRST
    request = keepalive.expired(3.0)
    assert request is not None
    assert keepalive.deadline == 8.0
    assert keepalive.heard(reply_to(request), 3.1)
    assert keepalive.deadline == 33.1
    assert keepalive.expired(33.1) is not None


def test_the_interval_is_drawn_between_three_quarters_and_the_whole() -> None:
    keepalive = KeepaliveClock(CLIENT, BROKER, 40.0, 1, COOKIE, 0.0, lambda: 0.0)
    request = keepalive.expired(40.0)
    assert request is not None
    keepalive.heard(reply_to(request), 40.0)
    assert keepalive.deadline == 70.0


def test_three_losses_in_a_row_are_the_end() -> None:
    keepalive = clock()
    assert [keepalive.expired(now) is not None for now in (30.0, 35.0, 40.0, 45.0)] == [True, True, True, False]
    assert keepalive.lost
    assert keepalive.deadline is None


def test_a_reply_forgives_earlier_losses() -> None:
    keepalive = clock()
    for now in (30.0, 35.0):
        request = keepalive.expired(now)
    request = keepalive.expired(40.0)
    assert request is not None
    assert keepalive.heard(reply_to(request), 41.0)
    for now in (71.0, 76.0, 81.0):
        assert keepalive.expired(now) is not None
    assert not keepalive.lost


def test_identifiers_beyond_16_bits_are_cut_and_their_replies_are_known() -> None:
    keepalive = clock(identifier=0x1_2345)
    request = keepalive.expired(30.0)
    assert request is not None
    assert request[44:46] == b"\x23\x45"
    assert keepalive.heard(reply_to(request), 30.1)


def test_a_late_or_foreign_reply_is_no_sign_of_life() -> None:
    keepalive = clock()
    first = keepalive.expired(30.0)
    second = keepalive.expired(35.0)
    assert first is not None
    assert second is not None
    assert not keepalive.heard(reply_to(first), 35.1)
    assert not keepalive.heard(second, 35.1)
    assert not keepalive.heard(reply_to(second)[:-1] + b"\xff", 35.1)
    assert keepalive.heard(reply_to(second), 35.1)
    assert not keepalive.heard(reply_to(second), 35.2)


def test_intervals_that_make_no_sense_are_bent_into_range() -> None:
    for asked, kept in ((0.01, 1.0), (10**9, 86400.0)):
        keepalive = clock(interval=asked)
        assert keepalive.deadline == min(FIRST, kept)
        request = keepalive.expired(3.0)
        assert request is not None
        assert keepalive.heard(reply_to(request), 3.0)
        assert keepalive.deadline == 3.0 + kept


@given(st.binary(max_size=80))
def test_garbage_is_no_sign_of_life(packet: bytes) -> None:
    keepalive = clock()
    keepalive.expired(30.0)
    assert not keepalive.heard(packet, 30.0)
