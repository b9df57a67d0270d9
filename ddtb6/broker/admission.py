# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may begin a negotiation: limits applied before any state exists.

Source: RFC 5572 section 8; a broken client alone makes 1,900 sessions a second (gogoCLIENT on a wrong Content-length).
Invariant: memory is bounded whatever the number of sources.
Not here: the kernel's own rate limit (`firewall`), limits on what a negotiation may ask for (`broker`).
"""

from __future__ import annotations

import enum

from ddtb6.addressing.endpoint import Endpoint, source_of

MAX_SOURCES = 65536
"""Sources remembered at once; about 10 MB. Those that have not been heard for longest are forgotten first."""
SLACK = 0.01
"""Part of a token that may be missing: times are floating-point numbers, and bursts are whole ones."""
FAILURE_COST = 4.0
"""A failed log-in counts as so many further negotiations of its source."""
OWNER_RATE = 5.0
"""Tunnels a second that one owner may be granted on average; some clients ask 19 times a second when confused."""
OWNER_BURST = 100


class Admission(enum.Enum):
    """The answer to a newcomer."""

    WELCOME = "welcome"
    BUSY = "busy"
    """Answer 530, and keep nothing."""
    SILENCE = "silence"
    """Not even that: this source has had its answers."""


class Buckets:
    """Token buckets by key, kept as one number each: the time at which the bucket will be full again (GCRA).

    Keys stand in two generations, so that forgetting takes no time however many strangers come.
    """

    def __init__(self, rate: float, burst: float, limit: int = MAX_SOURCES) -> None:
        """`rate` tokens a second, at most `burst` saved up; at most `limit` keys, and the last half of those."""
        self._interval = 1.0 / rate
        self._tolerance = burst * self._interval
        self._slack = SLACK * self._interval
        self._generation = max(1, limit // 2)
        self._young: dict[str, float] = {}
        self._old: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def take(self, key: str, now: float, cost: float = 1.0) -> bool:
        """Take `cost` tokens of `key`'s if they are there."""
        full_at = self._full_at(key, now) + cost * self._interval
        if full_at - now > self._tolerance + self._slack:
            return False
        self._set(key, full_at)
        return True

    def charge(self, key: str, now: float, cost: float) -> None:
        """Take `cost` tokens whether they are there or not; never deeper in debt than one full bucket."""
        full_at = self._full_at(key, now) + cost * self._interval
        self._set(key, min(full_at, now + 2 * self._tolerance))

    def _full_at(self, key: str, now: float) -> float:
        known = self._young.get(key)
        if known is None:
            known = self._old.get(key, now)
        return max(known, now)

    def _set(self, key: str, full_at: float) -> None:
        self._old.pop(key, None)
        self._young[key] = full_at
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, {}


class Gate:
    """Decides for each newcomer; one for all transports."""

    def __init__(self, per_source_rate: float, per_source_burst: int, overall_rate: float, negotiations: int) -> None:
        """Rates are new negotiations a second; `negotiations` is how many may be under way at once.

        Over all sources as many may also come at once: all clients of a broker that was away. One that is told 530
        stays away for half a minute.
        """
        self._sources = Buckets(per_source_rate, per_source_burst)
        self._overall = Buckets(overall_rate, max(overall_rate, negotiations, 1.0))
        self._owners = Buckets(OWNER_RATE, OWNER_BURST)
        self._answers = Buckets(1.0, 3)
        self._refused_overall = Buckets(max(overall_rate / 10, 1.0), max(overall_rate / 10, 1.0))
        self._negotiations = negotiations

    def newcomer(self, remote: Endpoint, under_way: int, now: float) -> Admission:
        """May `remote` begin, with `under_way` negotiations there already?"""
        source = source_of(remote)
        if self._sources.take(source, now) and under_way < self._negotiations and self._overall.take("", now):
            return Admission.WELCOME
        if self._answers.take(source, now) and self._refused_overall.take("", now):
            return Admission.BUSY
        return Admission.SILENCE

    def failed(self, remote: Endpoint, now: float) -> None:
        """A log-in from `remote` failed."""
        self._sources.charge(source_of(remote), now, FAILURE_COST)

    def another_tunnel(self, owner: str, now: float) -> bool:
        """May `owner`, who has logged in, be granted one more? Each grant is written to the disk."""
        return self._owners.take(owner, now)

    def echo(self, remote: Endpoint, now: float) -> bool:
        """May an ECHO REQUEST be answered? Shares the sources' tokens."""
        return self._sources.take(source_of(remote), now)
