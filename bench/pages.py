# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time of each page and of each list of the API with very many users, leases and live sessions behind them.

The whole web side with a real store and the data plane that carries nothing, in this process; the requests go through
the HTTP parser over a transport in memory. That is all that the reactor would be held up for.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.logins import Say
from bench.table import Row

BAR = 100.0
"""Milliseconds of processor time."""
TESTS = Path(__file__).parents[1] / "tests"


def pages(runs: int, users: int, say: Say) -> list[Row]:
    """One row for each page. The database may be in memory: nothing here waits for a disk."""
    with tempfile.TemporaryDirectory(prefix="ddtb6-bench-") as directory:
        return _pages(Path(directory), runs, users, say)


def _pages(directory: Path, runs: int, users: int, say: Say) -> list[Row]:
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    from support.stored import by_name, now, pool
    from support.virtual import World, account
    from support.web import Browser
    from support.website import PASSWORD, add_administrator, opening_of, overview_of, stand, web_of

    from ddtb6.addressing.endpoint import Endpoint
    from ddtb6.addressing.pool import Use

    pools = by_name(pool("links", "2001:db8:0:1::/64", Use.ACCOUNTS), pool("homes", "2001:db8:8000::/33"))
    world = World(directory, pools=pools)
    try:
        add_administrator(world, "root")
        web = web_of(world, lambda: overview_of(world), session_metrics=2000)
        alike = account("u", PASSWORD)
        for number in range(users):
            name = f"user{number * 7919 % users:06}"
            now(world.store.add_account(type(alike)(name, alike.digest, alike.password_hash, False, 0.0)))
            remote = Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 4000)
            session = stand(world, opening_of(name, remote, "homes"))
            if number % 10000 == 9999:
                say(f"pages: {number + 1} of {users} users have sessions")
        browser = Browser(web.site())
        assert browser.log_in("administrator", "root", PASSWORD).status == 303
        middle = f"10.{users >> 17}.{users >> 9 & 255}."
        paths = (
            "/",
            "/metrics",
            "/metrics/sessions",
            "/manage",
            "/manage/users",
            "/manage/users?search=user0",
            f"/manage/users/{session.user}",
            "/manage/sessions",
            f"/manage/sessions?from={users - 50}",
            f"/manage/sessions?sort=user&from={users // 2}",
            "/manage/sessions?sort=address",
            "/manage/sessions?sort=in",
            "/manage/sessions?search=user00",
            f"/manage/sessions?search={middle}",
            f"/manage/sessions?search={session.spec.address}",
            f"/manage/sessions/{session.id}",
            "/manage/leases",
            "/manage/leases?released=1",
            f"/manage/leases?address={session.spec.address}",
            "/manage/events",
            "/manage/journal",
            "/manage/audit",
            "/api/v1/history",
            f"/api/v1/users/{session.user}/history",
            "/api/v1/sessions?limit=1000",
            "/api/v1/users?limit=1000",
            "/api/v1/leases?limit=1000",
        )
        owner = Browser(browser.site)
        assert owner.log_in("owner", session.user, PASSWORD).status == 303
        asked = [*((browser, path) for path in paths), (owner, "/tunnel"), (owner, "/api/v1/tunnel")]
        return [_row(path, users, runs, partial(_status, who, path)) for who, path in asked]
    finally:
        world.close()


def _status(browser: Any, path: str) -> int:
    return int(browser.get(path).status)


def _row(path: str, users: int, runs: int, fetch: Callable[[], int]) -> Row:
    values = []
    assert fetch() == 200, path
    for _ in range(max(3, runs)):
        gc.collect()
        began = time.process_time()
        fetch()
        values.append((time.process_time() - began) * 1000)
    short = path if len(path) < 48 else f"{path[:47]}…"
    return Row(f"{short} with {users:,} sessions", "ms", values, bar=BAR, at_most=True)
