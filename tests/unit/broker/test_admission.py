# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits on newcomers: rates to the token, memory and time bounded, a word to those refused but not a conversation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.admission import FAILURE_COST, SLACK, Admission, Buckets, Gate

NOW = 1_000_000.25
HERE = Endpoint("203.0.113.5", 40001)


def gate(rate: float = 5.0, burst: int = 10, overall: float = 1e6, negotiations: int = 1000) -> Gate:
    return Gate(rate, burst, overall, negotiations)


def admitted(made: Gate, times: int, remote: Endpoint = HERE, now: float = NOW) -> int:
    return [made.newcomer(remote, 0, now) for _ in range(times)].count(Admission.WELCOME)


# --- buckets ------------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 1e6), st.integers(1, 500), st.floats(0, 1e8))
def test_a_burst_is_exactly_as_large_as_it_says(rate: float, burst: int, now: float) -> None:
    buckets = Buckets(rate, burst)
    if burst * now * 2.0**-52 > SLACK / rate:  # Rounding errors of so many steps are worth tokens at such a rate.
        return
    assert [buckets.take("a", now) for _ in range(burst + 3)] == [True] * burst + [False] * 3


@given(st.floats(0.1, 100), st.integers(1, 20), st.lists(st.floats(0, 3), max_size=60))
def test_never_more_than_burst_and_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    """Against the definition: tokens drip in and are taken out."""
    buckets, tokens, now = Buckets(rate, burst), float(burst), NOW
    for gap in gaps:
        now += gap
        tokens = min(burst, tokens + gap * rate)
        taken = buckets.take("a", now)
        if abs(tokens - 1) > 2 * SLACK:
            assert taken == (tokens >= 1)
        if taken:
            tokens = max(0.0, tokens - 1)


def test_waiting_gives_one_token_after_the_other() -> None:
    buckets = Buckets(2.0, 3)
    assert [buckets.take("a", NOW) for _ in range(4)] == [True, True, True, False]
    assert not buckets.take("a", NOW + 0.4)
    assert buckets.take("a", NOW + 0.5)
    assert not buckets.take("a", NOW + 0.6)
    assert [buckets.take("a", NOW + 100) for _ in range(4)] == [True, True, True, False]


def test_what_is_refused_costs_nothing() -> None:
    buckets = Buckets(1.0, 1)
    assert buckets.take("a", NOW)
    assert not any(buckets.take("a", NOW + 0.5) for _ in range(1000))
    assert buckets.take("a", NOW + 1.0)


def test_keys_do_not_share() -> None:
    buckets = Buckets(1.0, 1)
    assert buckets.take("a", NOW)
    assert buckets.take("b", NOW)


def test_a_debt_is_at_most_one_more_bucket() -> None:
    buckets = Buckets(1.0, 10)
    for _ in range(100):
        buckets.charge("a", NOW, 4)
    assert not buckets.take("a", NOW + 10.9)
    assert buckets.take("a", NOW + 11)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=300), st.integers(2, 20))
def test_memory_is_bounded(calls: list[tuple[int, bool]], limit: int) -> None:
    buckets = Buckets(0.001, 5, limit)
    for key, charge in calls:
        if charge:
            buckets.charge(str(key), NOW, 3)
        else:
            buckets.take(str(key), NOW)
        assert len(buckets) <= limit


def test_a_hundred_thousand_sources_take_no_more_memory_than_the_limit_and_no_time_each() -> None:
    """Forgetting must not look at all that is remembered: that would be 10**9 looks here."""
    buckets = Buckets(0.001, 5, limit=10_000)
    for number in range(100_000):
        assert buckets.take(f"198.51.{number >> 8}.{number & 255}", NOW)
    assert len(buckets) <= 10_000


def test_strangers_do_not_wash_away_who_is_heard_all_the_time() -> None:
    buckets = Buckets(0.001, 1, limit=100)
    assert buckets.take("a", NOW)
    for number in range(1000):
        if number % 20 == 0:
            buckets.charge("a", NOW, 1)
        buckets.take(str(number), NOW)
    assert not buckets.take("a", NOW)


# --- the gate -----------------------------------------------------------------------------------------------------


def test_one_source_gets_its_burst_then_three_words_then_silence() -> None:
    made = gate(burst=10)
    verdicts = [made.newcomer(HERE, 0, NOW) for _ in range(20)]
    assert verdicts == [Admission.WELCOME] * 10 + [Admission.BUSY] * 3 + [Admission.SILENCE] * 7
    assert made.newcomer(HERE._replace(address="203.0.113.6"), 0, NOW) is Admission.WELCOME


def test_a_source_is_an_address_whatever_the_port_and_a_64_of_ipv6() -> None:
    made = gate(burst=1)
    assert made.newcomer(Endpoint("192.0.2.7", 1), 0, NOW) is Admission.WELCOME
    assert made.newcomer(Endpoint("192.0.2.7", 2), 0, NOW) is Admission.BUSY
    assert made.newcomer(Endpoint("2001:db8::1", 1), 0, NOW) is Admission.WELCOME
    assert made.newcomer(Endpoint("2001:db8::ffff:1", 1), 0, NOW) is Admission.BUSY
    assert made.newcomer(Endpoint("2001:db8:0:1::1", 1), 0, NOW) is Admission.WELCOME
    assert made.newcomer(Endpoint("fe80::1%3", 1), 0, NOW) is Admission.WELCOME


def test_too_many_under_way_is_busy() -> None:
    made = gate(negotiations=2)
    assert made.newcomer(HERE, 1, NOW) is Admission.WELCOME
    assert made.newcomer(HERE, 2, NOW) is Admission.BUSY


def test_the_overall_rate_holds_over_all_sources_and_so_do_the_refusals() -> None:
    made = gate(overall=20, negotiations=20)
    verdicts = [made.newcomer(Endpoint(f"192.0.2.{number}", 1), 0, NOW) for number in range(100)]
    assert [verdicts.count(each) for each in Admission] == [20, 2, 78]
    later = [made.newcomer(Endpoint(f"198.51.100.{number}", 1), 0, NOW + 0.5) for number in range(100)]
    assert later.count(Admission.WELCOME) == 10


@pytest.mark.parametrize("overall", [0.001, 0.5, 1.0])
def test_the_smallest_overall_rate_lets_somebody_in(overall: float) -> None:
    assert gate(overall=overall).newcomer(HERE, 0, NOW) is Admission.WELCOME


def test_a_failed_log_in_costs_further_ones() -> None:
    made = gate(rate=1.0, burst=10)
    assert admitted(made, 1) == 1
    made.failed(HERE, NOW)
    assert admitted(made, 20) == 10 - 1 - FAILURE_COST


def test_guessing_passwords_settles_at_a_fifth_of_the_rate() -> None:
    made, guesses = gate(rate=5.0, burst=10), 0
    for tick in range(1000):
        if made.newcomer(HERE, 0, NOW + tick / 10) is Admission.WELCOME:
            guesses += 1
            made.failed(HERE, NOW + tick / 10)
    assert 5 * 100 / (1 + FAILURE_COST) <= guesses <= 5 * 100 / (1 + FAILURE_COST) + 10


def test_echoes_take_from_the_same_purse() -> None:
    made = gate(burst=3)
    assert [made.echo(HERE, NOW) for _ in range(4)] == [True, True, True, False]
    assert made.newcomer(HERE, 0, NOW) is Admission.BUSY


def test_an_owner_is_granted_at_a_rate_of_its_own() -> None:
    made = gate()
    granted = [made.another_tunnel("user:alice", NOW) for _ in range(1000)].count(True)
    assert 1 < granted < 1000
    assert made.another_tunnel("user:bob", NOW)
    assert made.another_tunnel("user:alice", NOW + 2)
