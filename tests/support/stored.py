# SPDX-License-Identifier: GPL-2.0-or-later
"""A real store in a temporary directory, its clock and its thread in the test's hands."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, execute
from twisted.python.failure import Failure

from ddtb6.addressing.endpoint import Carrier, Encapsulation, Endpoint, Link
from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.ports import Opening
from ddtb6.store.store import Store, open_store

T = TypeVar("T")

QUARANTINE = 100.0
"""Seconds of every pool here."""


def pool(name: str, block: str, use: Use = Use.PREFIXES, length: int = 56, quarantine: float = QUARANTINE) -> Pool:
    return Pool(name, IPv6Network(block), use, length if use is Use.PREFIXES else 128, quarantine)


def by_name(*pools: Pool) -> dict[str, Pool]:
    return {each.name: each for each in pools}


POOLS = by_name(
    pool("links", "2001:db8:ffff:1::/64", Use.ACCOUNTS),
    pool("guests", "2001:db8:ffff:2::/126", Use.ANONYMOUS),
    pool("homes", "2001:db8:100::/54"),
    pool("sites", "2001:db8:200::/46", length=48),
)
"""Room for two guests, four homes and four sites."""


class SetClock:
    """Shows what it was set to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def epoch(self) -> float:
        return self.now


class HeldThread:
    """A thread that does nothing until it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self.jobs.append((function, done))
        return done

    def work(self) -> None:
        """Do the one job there is, and bring its result back."""
        [(function, done)] = self.jobs
        self.jobs = []
        try:
            result = function()
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)


def make_store(
    directory: Path, pools: Mapping[str, Pool] = POOLS, clock: SetClock | None = None, **options: Any
) -> Store:
    return open_store(directory / "ddtb6.sqlite", pools, clock or SetClock(), **{"in_thread": execute, **options})


def opening(
    owner: str = "user:alice", prefix: str | None = None, address: str | None = None, remote: str = "198.51.100.7"
) -> Opening:
    kind, _, name = owner.partition(":")
    return Opening(
        owner,
        name if kind == "user" else None,
        Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint(remote, 40000)),
        Encapsulation.V6UDPV4,
        "DIGEST-MD5" if kind == "user" else "ANONYMOUS",
        "test 1.0",
        address or ("links" if kind == "user" else "guests"),
        prefix,
        1280,
        180.0,
    )


def now(awaitable: Awaitable[T]) -> T:
    """The result of what needs nothing to happen any more."""
    results: list[Any] = []

    async def run() -> T:
        return await awaitable

    ensureDeferred(run()).addBoth(results.append)
    assert results, "it waits for something"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def rows(directory: Path, statement: str, *values: object) -> list[Any]:
    """What another process sees in the file."""
    connection = sqlite3.connect(directory / "ddtb6.sqlite")
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()
