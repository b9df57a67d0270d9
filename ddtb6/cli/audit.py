# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 audit`: who changed what, when, and from where. Works while the broker is stopped, too."""

from __future__ import annotations

import argparse

from ddtb6.cli import output
from ddtb6.cli.reach import call
from ddtb6.config import load


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, metavar="N", help="at most this many entries (default: 100)")
    parser.add_argument("--before", type=int, metavar="NUMBER", help="only entries below this number")
    output.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    answer = call(config, "audit.list", limit=arguments.limit, before=arguments.before)
    if arguments.json:
        output.print_json(answer)
        return 0
    if not answer:
        print("Nothing was changed yet.")
        return 0
    rows = [
        (
            each["number"],
            output.when(each["at"]),
            each["who"],
            each["source"],
            each["action"],
            ", ".join(f"{name} {value}" for name, value in each["subject"].items()),
            each["failed"] or "done",
        )
        for each in answer
    ]
    output.print_table(("NUMBER", "WHEN", "WHO", "FROM", "WHAT", "OF", "OUTCOME"), rows)
    return 0
