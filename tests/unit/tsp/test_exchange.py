# SPDX-License-Identifier: GPL-2.0-or-later
"""Repetitions of the client role under a clock that is a number."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from ddtb6.tsp.exchange import ClientExchange


def header(datagram: bytes) -> tuple[int, int]:
    sequence, timestamp = struct.unpack_from("!II", datagram)
    return sequence, timestamp


def sent_until_given_up(exchange: ClientExchange, text: bytes, now: float) -> tuple[list[float], float]:
    """When each copy left, and when the exchange gave up."""
    times = [now]
    exchange.request(text, now)
    while True:
        assert exchange.deadline is not None
        now = exchange.deadline
        if exchange.expired(now) is None:
            assert exchange.deadline is None
            return times, now
        times.append(now)


def test_first_datagram_is_the_one_that_gogoc_sends() -> None:
    exchange = ClientExchange(began=100.0)
    assert exchange.request(b"VERSION=2.0.2\r\n", 100.554) == bytes.fromhex(
        "f00000f00000022a56455253494f4e3d322e302e320d0a"
    )


def test_unheard_it_asks_three_times_and_gives_up_at_six_seconds() -> None:
    assert sent_until_given_up(ClientExchange(0.0), b"x", 0.0) == ([0.0, 2.0, 4.0], 6.0)


def test_once_heard_it_asks_eight_times_and_doubles_from_the_fourth_on() -> None:
    exchange = ClientExchange(0.0)
    assert exchange.reply(exchange.request(b"x", 0.0), 0.0) == b"x"
    assert sent_until_given_up(exchange, b"y", 0.0) == ([0.0, 2.0, 4.0, 6.0, 10.0, 18.0, 34.0, 64.0], 94.0)


def test_sequence_rises_by_request_not_by_copy_and_carries() -> None:
    exchange = ClientExchange(0.0)
    first = exchange.request(b"x", 0.0)
    second = exchange.expired(2.0)
    assert second is not None
    assert (header(first), header(second)) == ((0xF00000F0, 0), (0xF00000F0, 2000))
    sequences = [header(exchange.request(b"", 3.0))[0] for _ in range(16)]
    assert sequences[:2] == [0xF00000F1, 0xF00000F2]
    assert sequences[-2:] == [0xF00000FF, 0xF0000100]


def test_a_late_reply_to_the_first_copy_counts() -> None:
    exchange = ClientExchange(0.0)
    first = exchange.request(b"x", 0.0)
    exchange.expired(2.0)
    assert exchange.reply(first[:8] + b"answer", 2.5) == b"answer"
    assert exchange.deadline is None


def test_a_bare_header_is_an_empty_reply() -> None:
    exchange = ClientExchange(0.0)
    assert exchange.reply(exchange.request(b"x", 0.0)[:8], 0.1) == b""


def test_a_reply_to_an_earlier_request_is_dropped_and_the_wait_goes_on() -> None:
    exchange = ClientExchange(0.0)
    first = exchange.request(b"x", 0.0)
    exchange.reply(first, 0.1)
    exchange.request(b"y", 0.1)
    assert exchange.reply(first[:8] + b"again", 0.2) is None
    assert exchange.deadline == 2.1


def test_a_second_reply_to_the_same_request_is_dropped() -> None:
    exchange = ClientExchange(0.0)
    first = exchange.request(b"x", 0.0)
    assert exchange.reply(first, 0.1) == b"x"
    assert exchange.reply(first, 0.2) is None


def test_slow_paths_get_longer_waits() -> None:
    exchange = ClientExchange(0.0)
    now = 0.0
    for _ in range(5):
        datagram = exchange.request(b"x", now)
        now += 1.9
        assert exchange.reply(datagram, now) == b"x"
    exchange.request(b"y", now)
    assert exchange.deadline is not None
    assert 2.0 < exchange.deadline - now < 30.0


@given(st.binary(max_size=64))
def test_garbage_neither_raises_nor_answers(garbage: bytes) -> None:
    exchange = ClientExchange(0.0)
    request = exchange.request(b"x", 0.0)
    if garbage[:4] != request[:4] or len(garbage) < 8:
        assert exchange.reply(garbage, 1.0) is None
        assert exchange.deadline == 2.0
