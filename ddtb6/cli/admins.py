# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 admin`: who may manage the broker on its pages. Works while the broker is stopped, too."""

from __future__ import annotations

import argparse
from typing import Any

from ddtb6.cli import output, passwords
from ddtb6.cli.reach import call
from ddtb6.config import load


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, summary in (
        ("add", "add an administrator; asks for the password"),
        ("passwd", "give an administrator another password; ends their sessions"),
        ("list", "list the administrators"),
        ("delete", "remove an administrator; ends their sessions"),
    ):
        command = actions.add_parser(action, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if action != "list":
            command.add_argument("name", metavar="NAME")
        if action in ("add", "passwd"):
            passwords.add_option(command)
        output.add_json(command)


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    given: dict[str, Any] = {}
    if arguments.action != "list":
        given["name"] = arguments.name
    if arguments.action in ("add", "passwd"):
        given["password"] = passwords.read(arguments, arguments.name, twice=True)
    answer = call(config, f"admin.{arguments.action}", **given)
    if arguments.json:
        output.print_json(answer)
    elif arguments.action == "list":
        _print_list(answer)
    else:
        _print_change(arguments.action, answer["name"], config.web.listen)
    return 0


def _print_list(administrators: Any) -> None:
    if not administrators:
        print("There are no administrators yet.\nNext: ddtb6 admin add NAME")
        return
    output.print_table(
        ("ADMINISTRATOR", "CREATED"), [(each["name"], output.when(each["created"])) for each in administrators]
    )


def _print_change(action: str, name: str, listen: str) -> None:
    done = {"add": "Added administrator", "passwd": "Changed the password of", "delete": "Deleted administrator"}
    print(f"{done[action]} {name}.")
    if action == "delete":
        print("Next: ddtb6 admin list shows who is left.")
    elif listen:
        print(f"Next: log in at /login of the pages; they are served at {listen}.")
    else:
        print("Next: set web.listen in the configuration, which serves no pages now.")
