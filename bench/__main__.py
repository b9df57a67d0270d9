# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m bench [PART ...]`: measure, and print one table. Progress goes to standard error.

Everything runs in network namespaces of this machine, which needs root; without, log-ins are measured over the
loopback with a data plane that carries nothing, and the rest is left out. The exit status is 1 only when something
could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

from bench import forwarding, logins, pages, radius, reconnect
from bench.clients import Crowd
from bench.servers import PROCESSORS, WORLD, Daemon, Here, Place
from bench.table import Row, table
from tests.support.netns import Lab

PARTS = ("start", "logins", "radius", "reconnect", "pages", "forwarding")
STATE = "/var/tmp"
"""A real file system: /tmp may be memory, where a sync costs nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure ddtb6.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure, of {', '.join(PARTS)}; default all")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--runs", type=int, default=5, help="runs of what is measured several times (default 5)")
    parser.add_argument("--each", type=int, default=4000, help="log-ins in a run (default 4000)")
    parser.add_argument("--clients", type=int, default=50000, help="clients that come back at once (default 50000)")
    parser.add_argument("--profile", type=Path, help="profile the daemon into this file while clients log in, and end")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    os.sched_setaffinity(0, {WORLD})
    if arguments.profile:
        _profile(arguments.profile.absolute(), arguments.each)
        return 0
    rows, failed = _measure(arguments.parts or PARTS, arguments)
    print(json.dumps([row.plain() for row in rows], indent=1) if arguments.json else f"{_machine()}\n\n{table(rows)}")
    return 1 if failed else 0


def _measure(parts: list[str] | tuple[str, ...], arguments: argparse.Namespace) -> tuple[list[Row], bool]:
    """The figures, and whether there is a part that has none because it failed."""
    rows: list[Row] = []
    failed = False
    root = os.geteuid() == 0
    runs, each = arguments.runs, arguments.each
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"bench: {time.monotonic() - began:4.0f} s  {text}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        place: Place = stack.enter_context(Lab()).namespace("bench") if root else Here()
        plane = "tun" if root else "memory"

        def directory() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddtb6-bench-", dir=STATE)))

        def measure(part: str) -> list[Row]:
            if part == "start":
                return logins.start_up(place, directory(), plane, runs, say)
            if part == "logins":
                planes = dict.fromkeys(("memory", plane))
                return [row for kind in planes for row in logins.log_ins(place, directory(), kind, runs, each, say)]
            if part == "radius":
                if radius.available():
                    return radius.radius(directory(), max(1, runs // 2), each, say)
                say("radius is left out: freeradius is not installed")
                return []
            if part == "reconnect":
                return reconnect.reconnect(place, directory(), plane, arguments.clients, say)
            if part == "pages":
                return pages.pages(runs, arguments.clients, say)
            if root:
                return forwarding.forwarding(directory(), max(1, runs // 2), say)
            say(f"{part} is left out: it makes network namespaces, which needs root")
            return []

        for part in parts:
            try:
                rows += measure(part)
            except Exception:
                say(f"{part} could not be measured:\n{traceback.format_exc()}")
                failed = True
    return rows, failed


def _profile(target: Path, each: int) -> None:
    users = [f"user{number:06}" for number in range(each)]
    with tempfile.TemporaryDirectory(prefix="ddtb6-bench-", dir=STATE) as name, Lab() as lab:
        place = lab.namespace("bench")
        with (
            Daemon(place, Path(name), "memory", ("127.0.0.1", 3653), users=users, profile=target) as daemon,
            Crowd(place, daemon.address, users) as crowd,
        ):
            crowd.log_in(range(each), logins.AT_ONCE)
    print(f"python -m pstats {target}")


def _machine() -> str:
    return (
        f"Python {platform.python_version()} of {sys.base_prefix}; Linux {platform.release()}; {len(PROCESSORS)} "
        f"processors, one for what is measured and one for its clients; load {os.getloadavg()[0]:.1f}.\n"
        "A figure is the median of its runs, the spread their extremes; the baseline is of the same run."
    )


if __name__ == "__main__":
    sys.exit(main())
