# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 session`: the live sessions of the running broker."""

from __future__ import annotations

import argparse
from typing import Any

from ddtb6.cli import output
from ddtb6.cli.reach import call
from ddtb6.clock import SystemClock
from ddtb6.config import load


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list live sessions, oldest first")
    listing.add_argument("--user", metavar="NAME", help="only those of this user")
    listing.add_argument("--limit", type=int, metavar="N", help="at most this many (default: 1000)")
    show = actions.add_parser("show", help="show everything about a session")
    kill = actions.add_parser("kill", help="end a session; its client will probably come back")
    for command in (show, kill):
        command.add_argument("id", type=int, metavar="ID")
    for command in (listing, show, kill):
        output.add_json(command)


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    if arguments.action == "list":
        answer = call(config, "session.list", user=arguments.user, limit=arguments.limit)
    else:
        answer = call(config, f"session.{arguments.action}", id=arguments.id)
    if arguments.json:
        output.print_json(answer)
    else:
        {"list": _print_list, "show": _print_session, "kill": _print_end}[arguments.action](answer)
    return 0


def _print_list(answer: Any) -> None:
    sessions = answer["sessions"]
    if not sessions:
        print("There are no live sessions.")
        return
    now = SystemClock().epoch()
    output.print_table(
        ("ID", "USER", "FROM", "HOLDS", "UP FOR", "SILENT", "IN", "OUT"),
        [
            (
                each["id"],
                each["user"] or "(anonymous)",
                each["remote"],
                each["prefix"] or each["address"],
                output.span(now - each["started"]),
                output.span(each["silent_for"]) or "always",
                output.octets(each["counters"]["octets_in"]),
                output.octets(each["counters"]["octets_out"]),
            )
            for each in sessions
        ],
    )
    if len(sessions) < answer["total"]:
        print(f"These are {len(sessions)} of {answer['total']}; --limit {answer['total']} shows all.")


def _print_session(each: Any) -> None:
    counters = each["counters"]
    output.print_facts(
        [
            ("Session", each["id"]),
            ("User", each["user"] or "(anonymous)"),
            ("Owner", each["owner"]),
            ("Client", each["remote"] + _NAT[each["nat"]]),
            ("Broker's end", each["local"]),
            ("Address", each["address"]),
            ("Prefix", each["prefix"] or "none"),
            ("Logged in by", each["mechanism"]),
            ("Client version", each["client_version"]),
            ("In accounting", each["accounted_as"]),
            ("Started", output.when(each["started"])),
            ("State", "established" if each["established"] else "offered, nothing heard yet"),
            ("Last packet", f"{output.span(each['silent_for'])} ago" if each["silent_for"] is not None else "none yet"),
            ("From the client", f"{counters['packets_in']} packets, {output.octets(counters['octets_in'])}"),
            ("To the client", f"{counters['packets_out']} packets, {output.octets(counters['octets_out'])}"),
            *((f"Refused {reason}", count) for reason, count in counters["refused"].items()),
        ]
    )


_NAT = {True: ", behind a NAT", False: "", None: ", perhaps behind a NAT (unknown since the broker was restarted)"}


def _print_end(each: Any) -> None:
    print(f"Ended session {each['id']} of {output.safe(each['user'] or each['owner'])}, {each['remote']}.")
    if each["user"]:
        print(f"Next: ddtb6 user disable {each['user']}, if it shall not come back.")
    else:
        print("Next: ddtb6 session list shows whether it came back.")
