# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 lease`: who holds which address and prefix. Works while the broker is stopped, too."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ddtb6.cli import output
from ddtb6.cli.reach import call
from ddtb6.config import load


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list what is held, oldest first")
    listing.add_argument("--owner", metavar="OWNER-or-USER", help="only what this user or owner holds")
    listing.add_argument("--released", action="store_true", help="list what was released instead (the last 1000)")
    release = actions.add_parser(
        "release", help="end a user's session and give up its addresses; the next log-in gets others"
    )
    release.add_argument("owner", metavar="OWNER-or-USER")
    for command in (listing, release):
        output.add_json(command)


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    if arguments.action == "list":
        answer = call(config, "lease.list", owner=arguments.owner, released=arguments.released or None)
    else:
        answer = call(config, "lease.release", owner=arguments.owner)
    if arguments.json:
        output.print_json(answer)
    elif arguments.action == "list":
        if answer:
            print_leases(answer)
        else:
            print("Nothing was released." if arguments.released else "Nothing is held.")
    else:
        for lease in answer:
            pools = [config.pools[lease["pool"]]] if lease["pool"] in config.pools else config.pools.values()
            rest = max((pool.quarantine for pool in pools), default=0.0)
            of_pool = f" of pool {lease['pool']}" if lease["pool"] else ""
            print(f"Released {lease['prefix']}{of_pool}; it rests for {output.span(rest)}.")
        print("Next: the client gets another address and prefix when it logs in again.")
    return 0


def print_leases(leases: Sequence[Any], *, owners: bool = True) -> None:
    """A table of leases as `lease.list` gives them."""
    headings = ["PREFIX", "POOL", "GRANTED"]
    rows = [[each["prefix"].removesuffix("/128"), each["pool"], output.when(each["granted"])] for each in leases]
    if any(each["released"] is not None for each in leases):
        headings.append("RELEASED")
        for row, each in zip(rows, leases, strict=True):
            row.append(output.when(each["released"]))
    if owners:
        headings.insert(1, "OWNER")
        for row, each in zip(rows, leases, strict=True):
            row.insert(1, each["owner"])
    output.print_table(headings, rows)
