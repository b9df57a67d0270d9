# SPDX-License-Identifier: GPL-2.0-or-later
"""The timer wheel against a list that is looked through from end to end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ddtb6.broker.wheel import Wheel

times = st.floats(0, 300, allow_nan=False)


@given(
    times,
    st.lists(
        st.one_of(
            st.tuples(st.just("schedule"), st.integers(0, 9), st.floats(-100, 400)),
            st.tuples(st.just("due"), st.just(0), st.floats(0, 90)),
        ),
        max_size=60,
    ),
)
def test_any_use(start: float, calls: list[tuple[str, int, float]]) -> None:
    now, wheel = start, Wheel[int](start)
    naive: set[tuple[int, int]] = set()  # key and the second from which on it is due
    looked = int(now)
    for name, key, amount in calls:
        if name == "schedule":
            wheel.schedule(key, now + amount)
            naive.add((key, max(int(now + amount) + 1, looked + 1)))
        else:
            now += amount
            came = list(wheel.due(now))
            due = {each for each in naive if each[1] <= int(now)}
            naive -= due
            looked = int(now)
            assert sorted(came) == sorted(each[0] for each in due)
            seconds = {each: sorted(second for k, second in due if k == each) for each in came}
            order = [seconds[each].pop(0) for each in came]
            assert order == sorted(order), "earlier ones first"


@given(times, st.floats(0, 100))
def test_a_key_comes_up_after_its_time_and_within_a_second_of_looking_on_time(start: float, wait: float) -> None:
    wheel = Wheel[str](start)
    wheel.schedule("a", start + wait)
    now = start
    while not list(wheel.due(now)):
        now += 1
        assert now <= start + wait + 2
    assert int(now) > start + wait - 1
    assert now >= start + wait or int(now) == int(start + wait) + 1


def test_what_is_scheduled_while_looking_comes_up_later() -> None:
    wheel = Wheel[str](0.0)
    wheel.schedule("a", 1.0)
    rounds = 0
    for now in range(10):
        for key in wheel.due(now):
            rounds += 1
            wheel.schedule(key, 0.0)
    assert rounds == 8
    assert len(wheel) == 1


def test_a_clock_that_jumps_a_year_costs_as_much_as_there_are_keys() -> None:
    wheel = Wheel[int](0.0)
    for key in range(10):
        wheel.schedule(key, key * 1e6)
    assert list(wheel.due(3.2e7)) == list(range(10))
    assert list(wheel.due(3.2e10)) == []


def test_a_clock_that_goes_backwards_gives_nothing_twice() -> None:
    wheel = Wheel[str](100.0)
    wheel.schedule("a", 100.0)
    assert list(wheel.due(102.0)) == ["a"]
    assert list(wheel.due(50.0)) == []
    wheel.schedule("b", 50.0)
    assert list(wheel.due(60.0)) == []
    assert list(wheel.due(103.0)) == ["b"]
