# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 whois`: who held an address or prefix at a given second, and from where. Works while the broker is stopped."""

from __future__ import annotations

import argparse
from typing import Any

from ddtb6.cli import output
from ddtb6.cli.reach import call
from ddtb6.config import load
from ddtb6.web.amounts import moment


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="an IPv6 address, of a client or in its prefix")
    parser.add_argument(
        "--at",
        type=_moment,
        metavar="TIME",
        help="ISO 8601 such as 2026-01-31T23:59:59+01:00 (without an offset: UTC), or epoch seconds; default: now",
    )
    output.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    answer = call(load(arguments.config), "whois", address=arguments.address.strip("[]"), at=arguments.at)
    if arguments.json:
        output.print_json(answer)
    else:
        _print(answer)
    return 0


def _moment(text: str) -> float:
    try:
        return moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _print(answer: Any) -> None:
    lease, sessions = answer["lease"], answer["sessions"]
    output.print_facts(
        [
            ("Held by", lease["owner"]),
            ("As", lease["prefix"].removesuffix("/128") + (f" of pool {lease['pool']}" if lease["pool"] else "")),
            ("Granted", output.when(lease["granted"])),
            ("Released", output.when(lease["released"])),
        ]
    )
    if not sessions:
        print("No session carried it at that time.")
        return
    print()
    output.print_table(
        ("SESSION", "FROM", "STARTED", "ENDED", "LOG-IN BY", "CLIENT"),
        [
            (
                each["id"],
                each["remote"],
                output.when(each["started"]),
                output.when(each["ended"]) or "not ended",
                each["mechanism"],
                each["client_version"],
            )
            for each in sessions
        ],
    )
