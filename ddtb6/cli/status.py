# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 status`: what the running broker is doing; the status page in a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ddtb6.cli import output
from ddtb6.cli.reach import call
from ddtb6.clock import SystemClock
from ddtb6.config import load


def configure(parser: argparse.ArgumentParser) -> None:
    output.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    answer = call(load(arguments.config), "overview")
    if arguments.json:
        output.print_json(answer)
    else:
        _print(answer)
    return 0


def _print(view: Any) -> None:
    activity = view["activity"]
    output.print_facts(
        [
            ("Version", view["version"]),
            ("Up since", f"{output.when(view['started'])} ({output.span(SystemClock().epoch() - view['started'])})"),
            ("Listening", ", ".join(view["listening"]) or "nowhere"),
            ("Data plane", f"{view['data_plane']}: {view['data_plane_reason']}"),
            ("Firewall", view["firewall"]),
            ("Tunnel types", ", ".join(view["encapsulations"]) or "none"),
            ("Log-in by", ", ".join(view["mechanisms"]) or "nothing"),
            ("Sessions", f"{activity['sessions']} live, {view['negotiations']} logging in"),
            ("Reconciled", reconciled(view.get("reconciled"))),
            ("Log-ins", _counts(activity["logins"])),
            ("Refused", _counts(activity["refusals"])),
            ("Ended", _counts(activity["ended"])),
            ("Stray packets", _counts(activity["strays"])),
        ]
    )
    print()
    if view["aaa"] is not None:
        _print_aaa(view["aaa"])
    output.print_table(
        ("POOL", "FOR", "BLOCK", "PIECES", "HELD", "RESTING", "FREE"),
        [
            (
                pool["name"],
                pool["use"],
                pool["block"],
                f"/{pool['length']}",
                pool["held"],
                pool["resting"],
                _free(pool["capacity"] - pool["held"] - pool["resting"]),
            )
            for pool in activity["pools"]
        ],
    )


def _print_aaa(aaa: Any) -> None:
    if aaa["servers"]:
        output.print_table(
            ("AAA SERVER", "FOR", "AT", "STATE", "LAST ANSWER", "TAKES", "GIVEN UP", "DROPPED"),
            [
                (
                    server["name"],
                    server["purpose"],
                    server["endpoint"],
                    _state(server),
                    "none" if server["answered_ago"] is None else f"{output.span(server['answered_ago'])} ago",
                    "" if server["round_trip"] is None else f"{server['round_trip'] * 1000:.1f} ms",
                    server["unanswered"],
                    _counts(server["dropped"]),
                )
                for server in aaa["servers"]
            ],
        )
        print()
    facts: list[tuple[str, object]] = []
    if (accounting := aaa["accounting"]) is not None:
        waiting = f"{accounting['waiting']} records wait"
        if accounting["oldest"] is not None:
            waiting += f", the oldest since {output.when(accounting['oldest'])}"
        facts.append(("Accounting", f"{accounting['delivered']} records delivered, {waiting}"))
        if accounting["outage_since"] is not None:
            since = f"none since {output.when(accounting['outage_since'])}: {accounting['last_error']}"
            facts.append(("Acknowledged", since))
    if aaa["requests"]:
        facts.append(("Disconnect, CoA", _counts(aaa["requests"])))
    if facts:
        output.print_facts(facts)
        print()


def _state(server: Any) -> str:
    if not server["alive"]:
        return "does not answer"
    return "not asked yet" if server["answered_ago"] is None else "answers"


def reconciled(what: Any) -> str:
    """What was done to make the data plane match the store, in words."""
    if what is None:
        return "not yet"
    said = f"{what['kept']} tunnels kept, {what['raised']} raised, {what['lowered']} lowered"
    if what["closed"]:
        said += f", {what['closed']} superseded sessions closed"
    return f"{said} ({output.when(what['at'])})"


def _free(count: int) -> int | str:
    return count if count < 10**9 else "plenty"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name}: {count}" for name, count in ordered) or "none"
