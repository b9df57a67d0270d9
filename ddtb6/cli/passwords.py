# SPDX-License-Identifier: GPL-2.0-or-later
"""Passwords given to commands of the tool: from a prompt, or from standard input where that was asked for.

Invariant: never from the command line, which every user of the machine can read.
Not here: how `ddtb6 connect` comes to its password, which runs unattended and has more ways.
"""

from __future__ import annotations

import argparse
import getpass
import sys

from ddtb6.cli.main import Failure
from ddtb6.cli.output import safe


def add_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--password-stdin", action="store_true", help="read the password from the first line of standard input"
    )


def read(arguments: argparse.Namespace, name: str, *, twice: bool) -> str:
    """The password for `name`. `twice`: it is a new one, so that a slip of the fingers must show. Raises Failure."""
    if arguments.password_stdin:
        line = sys.stdin.readline()
        if not line:
            raise Failure("standard input has no password")
        return line.rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Failure("there is no terminal to ask for the password on; use --password-stdin")
    try:
        first = getpass.getpass(f"Password for {safe(name)}: ")
        if twice and first != getpass.getpass("The same again: "):
            raise Failure("the two passwords differ; nothing was changed")
    except EOFError:
        raise Failure("no password was given; nothing was changed") from None
    return first
