# SPDX-License-Identifier: GPL-2.0-or-later
"""One timer wheel for many deadlines: a second is a slot.

A key that comes up is only to be looked at: its owner knows the true deadline, and schedules it again when that has
moved later. So moving costs nothing, and a key that stands in two slots does no harm. (A reactor call per session
costs memory, and moving one earlier is linear in the number of pending calls.) Not here: who calls `due` once a
second.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Wheel(Generic[K]):
    """Keys by the second in which they come up."""

    def __init__(self, now: float) -> None:
        self._slots: dict[int, list[K]] = {}
        self._done = int(now)

    def __len__(self) -> int:
        """How often something was scheduled that has not come up."""
        return sum(map(len, self._slots.values()))

    def schedule(self, key: K, when: float) -> None:
        """`key` comes up in the first `due` after monotonic second `when`; one in the past comes up next."""
        self._slots.setdefault(max(int(when) + 1, self._done + 1), []).append(key)

    def due(self, now: float) -> Iterator[K]:
        """Take out and give every key whose second has come, once for each. Keys scheduled meanwhile come up later."""
        last = int(now)
        if last - self._done > len(self._slots):
            ready = sorted(second for second in self._slots if second <= last)
        else:
            ready = [second for second in range(self._done + 1, last + 1) if second in self._slots]
        self._done = max(self._done, last)
        for keys in [self._slots.pop(second) for second in ready]:
            yield from dict.fromkeys(keys)
