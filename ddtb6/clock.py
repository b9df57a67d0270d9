# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's clock. The only place that reads it; everything else is handed a `ports.Clock`."""

from __future__ import annotations

import time


class SystemClock:
    """Implements `ports.Clock`."""

    def monotonic(self) -> float:
        return time.monotonic()  # noqa: TID251

    def epoch(self) -> float:
        return time.time()  # noqa: TID251
