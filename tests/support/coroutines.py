# SPDX-License-Identifier: GPL-2.0-or-later
"""Test methods that are coroutines, for trial's TestCase: that of Twisted 22.4 takes them for done at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

Case = TypeVar("Case")


def awaited(test: Callable[[Case], Coroutine[Any, Any, None]]) -> Callable[[Case], Deferred[None]]:
    """`test` as a method that returns a Deferred."""

    @functools.wraps(test)
    def run(case: Case) -> Deferred[None]:
        return Deferred.fromCoroutine(test(case))

    del run.__wrapped__  # Or it would be taken for a coroutine function all the same.
    return run
