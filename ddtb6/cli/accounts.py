# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 user`: accounts. Works while the broker is stopped, too."""

from __future__ import annotations

import argparse
from typing import Any

from ddtb6.cli import output, passwords
from ddtb6.cli.leases import print_leases
from ddtb6.cli.reach import call
from ddtb6.config import Config, load

ASSIGNED = (
    ("address", "ADDRESS", "this inner address"),
    ("prefix", "PREFIX", "this prefix, where the client asks for one"),
    ("address-pool", "POOL", "an address of this pool"),
    ("prefix-pool", "POOL", "a prefix of this pool"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, summary in (
        ("add", "add an account; asks for its password"),
        ("passwd", "give an account another password"),
        ("list", "list the accounts"),
        ("show", "show an account, what it holds, and its last sessions"),
        ("assign", "choose what an account gets; what is left out, the pools decide as for all"),
        ("disable", "let an account log in no more, and end its session; it keeps its addresses"),
        ("enable", "let a disabled account log in again"),
        ("delete", "remove an account, end its session and release what it holds"),
    ):
        command = actions.add_parser(action, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if action != "list":
            command.add_argument("name", metavar="NAME")
        if action in ("add", "passwd"):
            passwords.add_option(command)
        if action == "assign":
            for option, kind, meaning in ASSIGNED:
                command.add_argument(f"--{option}", metavar=kind, help=meaning)
        output.add_json(command)


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    given: dict[str, Any] = {}
    if arguments.action != "list":
        given["name"] = arguments.name
    if arguments.action in ("add", "passwd"):
        given["password"] = passwords.read(arguments, arguments.name, twice=True)
    if arguments.action == "assign":
        given |= {option.replace("-", "_"): vars(arguments)[option.replace("-", "_")] for option, _, _ in ASSIGNED}
    answer = call(config, f"user.{arguments.action}", **given)
    if arguments.json:
        output.print_json(answer)
    else:
        _PRINTERS[arguments.action](answer, config)
    return 0


# --- what people read ---------------------------------------------------------------------------------------------


def _added(account: Any, config: Config) -> None:
    print(f"Added user {account['name']}. It can log in with {' or '.join(account['mechanisms'])}.")
    print(f"Next: ddtb6 connect --server THIS-HOST --user {account['name']}, on the client.")


def _changed(account: Any, config: Config) -> None:
    print(f"Changed the password of {account['name']}. A session that is up stays up.")
    print(f"Next: put it into the client as well; ddtb6 user show {account['name']} shows when it comes back.")


def _listed(accounts: Any, config: Config) -> None:
    if not accounts:
        print("There are no accounts yet.\nNext: ddtb6 user add NAME")
        return
    rows = [
        (each["name"], _state(each), output.when(each["created"]), ", ".join(each["mechanisms"])) for each in accounts
    ]
    output.print_table(("USER", "STATE", "CREATED", "LOG-IN BY"), rows)


def _shown(answer: Any, config: Config) -> None:
    account = answer["account"]
    output.print_facts(
        [
            ("User", account["name"]),
            ("State", _state(account)),
            ("Created", output.when(account["created"])),
            *((name.capitalize().replace("_", " "), value) for name, value in account["assigned"].items()),
            ("Log-in by", ", ".join(account["mechanisms"]) or "nothing; set a password with ddtb6 user passwd"),
        ]
    )
    print()
    if answer["leases"]:
        print_leases(answer["leases"], owners=False)
    else:
        print("It holds no address or prefix; its first log-in grants them.")
    sessions = [(each, "live") for each in answer["live"]]
    sessions += [(each, output.when(each["ended"]) or "not closed") for each in answer["past"]]
    if sessions:
        print()
        output.print_table(
            ("SESSION", "FROM", "STARTED", "ENDED", "WHY", "IN", "OUT"),
            [
                (
                    each["id"],
                    each["remote"],
                    output.when(each["started"]),
                    ended,
                    each.get("reason"),
                    output.octets(each["counters"]["octets_in"]),
                    output.octets(each["counters"]["octets_out"]),
                )
                for each, ended in sessions
            ],
        )


def _assigned(account: Any, config: Config) -> None:
    name = account["name"]
    chosen = [f"{key.replace('_', ' ')} {value}" for key, value in account["assigned"].items() if value]
    print(f"User {name} gets {', '.join(chosen) or 'what the pools give'}, from its next log-in on.")
    print(f"Next: ddtb6 user show {name} shows its session; ddtb6 session kill ID makes the client log in again.")


def _disabled(answer: Any, config: Config) -> None:
    name = answer["account"]["name"]
    print(f"Disabled user {name}{' and ended its session' if answer['disconnected'] else ''}. It keeps its addresses.")
    print(f"Next: ddtb6 user enable {name} lets it in again, ddtb6 user delete {name} removes it.")


def _enabled(answer: Any, config: Config) -> None:
    name = answer["account"]["name"]
    print(f"Enabled user {name}. Its client comes back by itself.")
    print(f"Next: ddtb6 user show {name} shows whether it has.")


def _deleted(answer: Any, config: Config) -> None:
    name = answer["account"]["name"]
    print(f"Deleted user {name}{' and ended its session' if answer['disconnected'] else ''}.")
    for lease in answer["released"]:
        rest = config.pools[lease["pool"]].quarantine if lease["pool"] in config.pools else 0
        print(f"Released {lease['prefix']} of pool {lease['pool']}; it rests for {output.span(rest)}.")
    print("Next: ddtb6 whois ADDRESS --at TIME still answers for the past.")


def _state(account: Any) -> str:
    return "disabled" if account["disabled"] else "enabled"


_PRINTERS = {
    "add": _added,
    "passwd": _changed,
    "list": _listed,
    "show": _shown,
    "assign": _assigned,
    "disable": _disabled,
    "enable": _enabled,
    "delete": _deleted,
}
