# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery of accounting records: signatures of what is being built."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ddtb6.broker.journal import Journal
from ddtb6.broker.ports import Clock
from ddtb6.radius.exchange import RadiusClient
from ddtb6.radius.nas import Nas


@dataclass(frozen=True, slots=True)
class AccountingState:
    """How delivery does, for people."""

    waiting: int
    delivered: int
    in_flight: int
    oldest: float | None
    """Epoch seconds of the oldest record's event; None: none waits."""
    outage_since: float | None
    """Epoch seconds since which no server acknowledges anything; None: all is well."""
    last_error: str


class AccountingDeliverer:
    """One for the process. Order of stopping: listeners, broker, this, its client, the store."""

    def __init__(
        self,
        reactor: Any,
        clock: Clock,
        journal: Journal,
        client: RadiusClient,
        nas: Nas,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Starts nothing."""

    async def start(self, resumed: int) -> None:
        """To be called after the broker has started and before anybody can log in, with the number of live sessions."""

    def poke(self) -> None:
        """Something was written into the journal; without it, that is noticed within a second."""

    async def stop(self, staying: int) -> None:
        """Deliver what can be within a few seconds; the rest stays in the journal. `staying`: sessions that live on."""

    def state(self) -> AccountingState: ...
