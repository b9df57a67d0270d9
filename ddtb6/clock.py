# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's clock. The only place that reads it; everything else is handed a `ports.Clock`."""

from __future__ import annotations

import time


class SystemClock:
    """Implements `ports.Clock`."""

    # Not methods: a log-in asks some twenty times.
    monotonic = staticmethod(time.monotonic)  # noqa: TID251
    epoch = staticmethod(time.time)  # noqa: TID251
