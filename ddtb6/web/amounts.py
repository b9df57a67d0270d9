# SPDX-License-Identifier: GPL-2.0-or-later
"""Times and amounts as people read them, on pages and in the tool. Times are shown in UTC, with a Z."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from ipaddress import IPv6Network

from ddtb6.broker.views import PoolView


def when(epoch: float | None) -> str:
    """Epoch seconds as ``2026-01-31 23:59:59Z``."""
    if epoch is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, OSError, ValueError):
        return f"@{epoch:.0f}"


def moment(text: str) -> float:
    """Epoch seconds of ISO 8601 (UTC where it has no offset), or of epoch seconds. Raises ValueError."""
    try:
        epoch = float(text)
    except ValueError:
        try:
            read = datetime.fromisoformat(text.strip())
            return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise ValueError(f'"{text}" is neither ISO 8601 such as 2026-01-31T23:59:59Z nor epoch seconds') from None
    if not math.isfinite(epoch):
        raise ValueError(f'"{text}" is not a time')
    return epoch


def span(seconds: float | None) -> str:
    """Seconds as ``42 s``, ``3 min``, ``5 h 10 min`` or ``2 d 3 h``: the two largest units from the hour on."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    large, small = (whole // 3600, whole % 3600 // 60) if whole < 86400 else (whole // 86400, whole % 86400 // 3600)
    units = ("h", "min") if whole < 86400 else ("d", "h")
    return f"{large} {units[0]} {small} {units[1]}" if small else f"{large} {units[0]}"


def octets(count: int) -> str:
    """A number of octets as ``999 B``, ``1.5 kB`` and so on, by thousands."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.1f} {unit}"


def inner(prefix: IPv6Network) -> str:
    """A prefix, or a single address without its length."""
    return str(prefix).removesuffix("/128")


def grouped(number: int) -> str:
    """``1 234``, with narrow blanks; whole powers of two beyond counting as ``2^64``."""
    if number >= 10**9:
        return f"2^{number.bit_length() - 1 if number.bit_count() == 1 else number.bit_length()}"
    return f"{number:,}".replace(",", "\u202f")


def fullness(pool: PoolView) -> str:
    """The part of a pool that nobody can get now, 0 to 1."""
    return f"{min(1.0, (pool.held + pool.resting) / max(1, pool.capacity)):.3f}"


def days_left(pool: PoolView) -> str:
    """When a pool is full at its present rate, to be read."""
    days = pool.days_left
    if pool.held + pool.resting >= pool.capacity:
        return "full"
    if days is None or days > 3650:
        return "not in sight" if days is None else "more than 10 years"
    return "less than a day" if days < 1 else f"{days:.0f} {'day' if round(days) == 1 else 'days'}"
