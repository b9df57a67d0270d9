# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 token`: what scripts show to the API in place of a password. Works while the broker is stopped, too."""

from __future__ import annotations

import argparse
from typing import Any

from ddtb6.cli import output
from ddtb6.cli.reach import call
from ddtb6.config import load


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="make a token, and print it this once")
    add.add_argument("--user", metavar="NAME", help="for what this user may see; default: what an administrator may do")
    delete = actions.add_parser("delete", help="revoke a token")
    listing = actions.add_parser("list", help="list the tokens")
    for command in (add, delete):
        command.add_argument("name", metavar="NAME", help="what the token is called")
    for command in (add, delete, listing):
        output.add_json(command)


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    if arguments.action == "add":
        role = "administrator" if arguments.user is None else "owner"
        answer = call(config, "token.add", name=arguments.name, role=role, user=arguments.user)
    elif arguments.action == "delete":
        answer = call(config, "token.delete", name=arguments.name)
    else:
        answer = call(config, "token.list")
    if arguments.json:
        output.print_json(answer)
    else:
        {"add": _print_new, "delete": _print_deleted, "list": _print_list}[arguments.action](answer)
    return 0


def _print_new(answer: Any) -> None:
    print(answer["text"])
    print("It is shown this once. Scripts send it as the header `Authorization: Bearer TOKEN`.")
    print(f"Next: ddtb6 token delete {answer['token']['name']} revokes it.")


def _print_deleted(answer: Any) -> None:
    print(f"Revoked the token {answer['name']}; what used it is refused from now on.")
    print("Next: ddtb6 audit shows what was changed with it.")


def _print_list(tokens: Any) -> None:
    if not tokens:
        print("There are no tokens.\nNext: ddtb6 token add NAME")
        return
    rows = [(each["name"], each["role"], each["user"], output.when(each["created"])) for each in tokens]
    output.print_table(("TOKEN", "ROLE", "USER", "CREATED"), rows)
