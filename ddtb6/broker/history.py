# SPDX-License-Identifier: GPL-2.0-or-later
"""What was carried and measured in the past, for plots: values, who tells of it, and the store that keeps it.

Invariant: a span of time of which nothing is known has no point; it is not zero.
Not here: how it is recorded (`broker.recording`), how it is drawn (`web.plot`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ddtb6.broker.ports import Session
from ddtb6.tunnel.spec import Counters

HOUR, DAY, WEEK = 3600, 86400, 7 * 86400
FINE, COARSE = 600, 3 * 3600
"""Seconds that a point of a tunnel's day and of its week stands for."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What was counted within one `FINE` span."""

    number: int
    """Which span: its epoch second divided by `FINE`."""
    octets_in: float
    octets_out: float
    """Octets, not a rate."""
    least: float = 0.0
    """Seconds of the fastest echo; of no meaning where none was answered, as those below."""
    total: float = 0.0
    """Seconds of all answered ones together."""
    most: float = 0.0
    sent: int = 0
    answered: int = 0


@dataclass(frozen=True, slots=True)
class TunnelPoint:
    """What one tunnel did in one span of time."""

    at: float
    """Epoch seconds of its begin."""
    octets_in: float
    """Octets a second from the client."""
    octets_out: float
    """Octets a second to it."""
    least: float | None
    """Seconds of the fastest echo; None where there was none."""
    mean: float | None
    most: float | None
    sent: int
    """Echo requests sent to it."""
    answered: int
    """Those that were answered in time."""


@dataclass(frozen=True, slots=True)
class TunnelSeries:
    """Points of one tunnel at one distance."""

    step: int
    """Seconds that a point stands for."""
    points: Sequence[TunnelPoint]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class TunnelHistory:
    """The past of an owner's tunnel, whatever sessions it was made of."""

    day: TunnelSeries
    """The last day."""
    week: TunnelSeries
    """The last week, in longer steps."""


@dataclass(slots=True)
class Span:
    """What the broker as a whole did in one span of time, as amounts."""

    at: int
    """Epoch seconds of its begin."""
    known: float = 0.0
    """Seconds of it that the amounts are of."""
    octets_in: float = 0.0
    """From clients."""
    octets_out: float = 0.0
    """To clients."""
    packets_in: float = 0.0
    packets_out: float = 0.0
    logins: float = 0.0
    refusals: float = 0.0
    sessions: float = 0.0
    """Seconds that tunnels stood, all together."""


@dataclass(frozen=True, slots=True)
class Point:
    """What the broker as a whole did in one span of time."""

    at: float
    """Epoch seconds of its begin."""
    octets_in: float
    """Octets a second from clients."""
    octets_out: float
    """Octets a second to clients."""
    packets_in: float
    """Packets a second."""
    packets_out: float
    logins: float
    """Log-ins an hour."""
    refusals: float
    """Refused negotiations and requests an hour."""
    sessions: float
    """Tunnels that stood, on average."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points at one distance."""

    step: int
    """Seconds that a point stands for."""
    points: Sequence[Point]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class History:
    """The past of the broker as a whole; holds no user data."""

    hour: Series
    """The last hour."""
    day: Series
    week: Series


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the store has of the past of the broker as a whole."""

    spans: Mapping[int, Sequence[Span]] = field(default_factory=dict)
    """By their length in seconds, oldest first."""
    until: float | None = None
    """Epoch second up to which they tell; None: nothing is there."""


class Meter(Protocol):
    """Is told what tunnels carry."""

    def moved(self, session: Session, before: Counters, after: Counters) -> None:
        """A session had carried `before` when it was last told of, and has carried `after`."""

    def settled(self) -> None:
        """All that live sessions have carried by now has been told."""


class PastStore(Protocol):
    """Keeps the past. Writes are durable when their awaitable fires; any method may raise StoreError."""

    async def past(self) -> Recorded:
        """All of the broker's spans."""

    async def write_past(self, spans: Mapping[int, Sequence[Span]], until: float, before: Mapping[int, int]) -> None:
        """Put spans in the place of those of the same length and begin, and forget what began `before`, by length."""

    async def ring(self, owner: str) -> bytes | None:
        """What `broker.ring` has written for an owner."""

    async def add_cells(self, cells: Mapping[str, Sequence[Cell]]) -> None:
        """Add to owners' rings."""
