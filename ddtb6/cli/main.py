# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6`: finds the command, runs it, and turns what went wrong into a sentence and an exit code.

A command is a module with ``configure(parser)`` and ``run(arguments) -> exit code``; only the chosen one is imported,
so that the tool starts fast. `arguments.config` is the path of the configuration file.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddtb6 import __version__

DEFAULT_CONFIG = Path("/etc/ddtb6/ddtb6.toml")

COMMANDS: Mapping[str, tuple[str, str]] = {
    "setup": ("ddtb6.cli.setup", "first steps: asks what it must know, and writes the configuration"),
    "user": ("ddtb6.cli.accounts", "accounts: add, passwd, list, show, assign, disable, enable, delete"),
    "admin": ("ddtb6.cli.admins", "administrators, who manage the broker on its pages: add, passwd, list, delete"),
    "token": ("ddtb6.cli.tokens", "tokens for scripts that use the API: add, list, delete"),
    "audit": ("ddtb6.cli.audit", "who changed what, when, and from where"),
    "session": ("ddtb6.cli.sessions", "live sessions: list, show, kill"),
    "lease": ("ddtb6.cli.leases", "who holds which address and prefix: list, release"),
    "whois": ("ddtb6.cli.whois", "who held an address at a given time, and from where"),
    "status": ("ddtb6.cli.status", "what the running broker is doing"),
    "check": ("ddtb6.cli.check", "read the configuration, and say what is wrong with it"),
    "doctor": ("ddtb6.cli.doctor", "what on this machine would stop the broker from working, and the remedy"),
    "radius": ("ddtb6.cli.radius", "the RADIUS servers: test a log-in"),
    "backup": ("ddtb6.cli.backup", "copy the database into a file, while the broker runs or not"),
    "restore": ("ddtb6.cli.backup", "put such a copy in the place of the database, while the broker is stopped"),
    "decode": ("ddtb6.cli.decode", "a capture or hex of TSP as readable text"),
    "connect": ("ddtb6.cli.connect", "be a client: bring up a tunnel to a broker"),
}
"""Command to module and summary."""

OPTIONS = ("--config", "-c")


class Failure(Exception):
    """A command failed; the message is what the person is told, and the exit code is 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser(words).parse_args(words)
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: wrong usage, or --help
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:
        # The reader of a pipe such as `| head` went away; nothing may be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    # Imported late: `ddtb6 --help` and wrong usage need none of it.
    from ddtb6.broker.ports import StoreError
    from ddtb6.config import ConfigError
    from ddtb6.web.control_client import NotPermitted
    from ddtb6.web.verbs import ControlError

    module: Any = importlib.import_module(COMMANDS[arguments.command][0])
    try:
        code: int = module.run(arguments)
    except ConfigError as error:
        for problem in error.problems:
            # What is wrong with the file as such names it itself.
            where = f"{arguments.config}: " if str(arguments.config) not in str(problem) else ""
            print(f"ddtb6: {where}{problem}", file=sys.stderr)
        return 1
    except (ControlError, NotPermitted, StoreError, Failure) as error:
        print(f"ddtb6: {error}", file=sys.stderr)
        return 1
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for `words`: complete for the command that stands in them, names only for the others."""
    parser = argparse.ArgumentParser(
        prog="ddtb6",
        description="IPv6 tunnel broker: the operator's tool. The daemon itself is `twistd -n ddtb6`, on Debian "
        "`twistd3 -n ddtb6`.",
    )
    default = Path(os.environ.get("DDTB6_CONFIG", DEFAULT_CONFIG))
    parser.add_argument("--version", action="version", version=f"ddtb6 {__version__}")
    parser.add_argument(
        *OPTIONS,
        type=Path,
        default=default,
        metavar="FILE",
        help="configuration (default: $DDTB6_CONFIG, else /etc/ddtb6/ddtb6.toml)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    before = ["", *words]
    chosen = next(
        (word for last, word in zip(before, words, strict=False) if word in COMMANDS and last not in OPTIONS), None
    )
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            importlib.import_module(module).configure(command)
    return parser
