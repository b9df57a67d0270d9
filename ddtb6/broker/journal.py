# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal of accounting: what must be told to somebody else about sessions, until they have acknowledged it.

Invariant: a record stands in the journal if and only if what it tells is in the store.
Not here: how records are delivered (`radius.accounting`), where they are kept (`store`).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ddtb6.broker.ports import Session
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters


class RecordKind(enum.Enum):
    """Acct-Status-Type of RFC 2866."""

    START = 1
    STOP = 2
    INTERIM = 3
    ON = 7
    OFF = 8


@dataclass(frozen=True, slots=True)
class Record:
    """One accounting record. Start and Stop are written in the transaction that opens or closes the session."""

    number: int
    """Rises; records of one session are sent in this order, the next when the one before was acknowledged."""
    kind: RecordKind
    at: float
    """Epoch seconds of the event itself."""
    session: Session | None
    """The session as it was then; None for On and Off."""
    counters: Counters
    """All of the session so far."""
    reason: EndReason | None
    """Of a Stop."""


class Journal(Protocol):
    """Accounting records not yet acknowledged. Exists only where somebody is to be told; else nothing is written."""

    async def append(self, kind: RecordKind) -> None:
        """Write an On or Off record."""

    async def waiting(self, after: int, limit: int) -> Sequence[Record]:
        """The oldest `limit` records with a number above `after`."""

    async def acknowledge(self, numbers: Collection[int]) -> None:
        """Forget records that a server has acknowledged. Unknown numbers are nothing."""

    async def backlog(self) -> int:
        """How many wait."""
