# SPDX-License-Identifier: GPL-2.0-or-later
"""How long to wait before the broker is asked again.

Invariant: pure; waits are spread by chance, so that clients that lost their broker together do not return together.
Not here: what counts as a failure (`program`).
"""

from __future__ import annotations

from collections.abc import Callable

SHORTEST = 1.0
"""Seconds; doubled with every failure in a row."""
LONGEST = 300.0
"""Seconds; also the wait where somebody must change something first. As gogoCLIENT's retry_delay_max."""
SPREAD = 0.5
"""The part of a wait that is left to chance."""


class Backoff:
    """Counts failures in a row. `draw` gives numbers from 0 to 1."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._wait = SHORTEST

    def reset(self) -> None:
        """The broker gave what was asked for."""
        self._wait = SHORTEST

    def soon(self) -> float:
        """Seconds to wait after a failure that may pass by itself."""
        wait, self._wait = self._wait, min(LONGEST, self._wait * 2)
        return self._spread(wait)

    def later(self) -> float:
        """Seconds to wait after a failure that somebody must do something about."""
        return self._spread(LONGEST)

    def _spread(self, wait: float) -> float:
        return wait * (1 - SPREAD * self._draw())
