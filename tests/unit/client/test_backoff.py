# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ddtb6.client.backoff import LONGEST, Backoff


def test_waits_double_up_to_the_longest_and_begin_again_after_success() -> None:
    backoff = Backoff(lambda: 0.0)
    assert [backoff.soon() for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    backoff.reset()
    assert backoff.soon() == 1
    assert backoff.later() == LONGEST
    assert backoff.soon() == 2


@given(st.floats(0, 1))
def test_chance_takes_up_to_half_of_a_wait(drawn: float) -> None:
    backoff = Backoff(lambda: drawn)
    assert 0.5 <= backoff.soon() <= 1.0
    assert LONGEST / 2 <= backoff.later() <= LONGEST
