# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions and their records as values, and a journal in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv6Address, IPv6Network
from itertools import islice
from typing import Any

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.broker.journal import Record, RecordKind
from ddtb6.broker.ports import NO_TERMS, Session, StoreError, Terms
from ddtb6.radius.nas import Nas
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

NOTHING = Counters()
NAS = Nas("broker.example", port_id="ddtb6")


def session(number: int = 1, user: str | None = "alice", terms: Terms = NO_TERMS, **spec: Any) -> Session:
    """One that began at epoch second 1000."""
    described: dict[str, Any] = {
        "encapsulation": Encapsulation.V6UDPV4,
        "local": Endpoint("192.0.2.1", 3653),
        "remote": Endpoint("198.51.100.7", 40000 + number % 20000),
        "address": IPv6Address("2001:db8:0:1::") + number,
        "prefix": IPv6Network((int(IPv6Address("2001:db8:1000::")) + (number << 72), 56)),
        "mtu": 1280,
    }
    return Session(
        id=TunnelId(number),
        owner=f"user:{user}" if user else f"anonymous:{number}",
        user=user,
        spec=TunnelSpec(id=TunnelId(number), **described | spec),
        mechanism="DIGEST-MD5" if user else "ANONYMOUS",
        client_version="2.0.1",
        idle_limit=180.0,
        started=1000.0,
        carried=Counters(),
        terms=terms,
    )


class MemoryJournal:
    """Implements `broker.journal.Journal` at once; raises StoreError while `broken`."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        self.last = 0
        self.broken = False
        self.writes: list[int] = []
        """How many records each `acknowledge` had."""
        self.most_read = 0

    def add(
        self,
        kind: RecordKind,
        of: Session | None = None,
        at: float = 1000.0,
        counters: Counters = NOTHING,
        reason: EndReason | None = None,
    ) -> Record:
        self.last += 1
        self.records[self.last] = Record(self.last, kind, at, of, counters, reason)
        return self.records[self.last]

    async def append(self, kind: RecordKind) -> None:
        self._check()
        self.add(kind)

    async def waiting(self, after: int, limit: int) -> Sequence[Record]:
        self._check()
        there = (number for number in range(after + 1, self.last + 1) if number in self.records)
        found = [self.records[number] for number in islice(there, limit)]
        self.most_read = max(self.most_read, len(found))
        return found

    async def acknowledge(self, numbers: Collection[int]) -> None:
        self._check()
        self.writes.append(len(numbers))
        for number in numbers:
            self.records.pop(number, None)

    async def backlog(self) -> int:
        self._check()
        return len(self.records)

    def _check(self) -> None:
        if self.broken:
            raise StoreError("The disk is full.")
