# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 connect`: the command line of the client program.

The password comes from a prompt, a file, standard input or the environment, never from the arguments, which every user
of the machine can read. Output is one event a line, or several lines of text for one, each flushed at once.
Exit codes: 0 ended by a signal, or done; 1 refused; 2 wrong usage, or this machine lacks something; 3 no answer.
Not here: what is done (`client.program`).
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import sys
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from ddtb6.addressing.endpoint import Carrier, Encapsulation
from ddtb6.cli.output import safe
from ddtb6.client.options import METRIC, PORT, Action, ClientOptions, Event, Exit, Report
from ddtb6.client.program import connect

PASSWORD_VARIABLE = "DDTB6_PASSWORD"  # noqa: S105 (its name, not its value)
MECHANISMS = ("DIGEST-MD5", "PLAIN", "ANONYMOUS")
LONGEST_NAME = 253
"""Octets of a user name, as gogoCLIENT limits them."""
LONGEST_PASSWORD = 128
"""Octets, as gogoCLIENT limits them."""

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--server", required=True, type=_server, metavar="HOST[:PORT]", help="the broker, by IPv4 or name"
    )
    parser.add_argument(
        "--user", type=_user, metavar="NAME", help="account at the broker (default: log in without one)"
    )
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--password-file", type=Path, metavar="FILE", help="read the password from its first line")
    secret.add_argument("--password-stdin", action="store_true", help="read it from the first line of standard input")
    parser.add_argument("--auth", type=str.upper, choices=MECHANISMS, help="log in by this mechanism and no other")
    parser.add_argument(
        "--allow-plain", action="store_true", help="send the password in clear where the broker offers nothing better"
    )

    parser.add_argument("--prefix-length", type=_prefix_length, metavar="BITS", help="ask for a prefix, such as 56")
    parser.add_argument("--lan", type=_device, metavar="DEVICE", help="give this network the first /64 of the prefix")
    parser.add_argument(
        "--device",
        "--interface",
        type=_device,
        default="tsp0",
        metavar="NAME",
        help="TUN device to make (default: tsp0)",
    )
    parser.add_argument("--no-default-route", action="store_true", help="route nothing but the broker into the tunnel")
    parser.add_argument(
        "--metric", type=_count, default=METRIC, help=f"of the default route (default: {METRIC}; lower ones win)"
    )
    parser.add_argument(
        "--type", choices=("v6udpv4", "v6anyv4"), default="v6udpv4", help="tunnel type to ask for (default: v6udpv4)"
    )
    parser.add_argument(
        "--keepalive", type=_count, default=30, metavar="SECONDS", help="interval to ask for; 0: none (default: 30)"
    )
    parser.add_argument("--tcp", action="store_true", help="ask over TCP only; good for --info and --delete")

    action = parser.add_mutually_exclusive_group()
    action.add_argument("--info", action="store_true", help="only show the tunnel that the account has")
    action.add_argument("--delete", action="store_true", help="only have the broker take the account's tunnel down")
    parser.add_argument("--once", action="store_true", help="end where the broker refuses, is silent, or is lost")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal, or until there is nothing to try any more."""
    try:
        options = options_of(arguments)
        password = _password(arguments) if options.user is not None else ""
    except _Usage as error:
        print(f"ddtb6 connect: {error}", file=sys.stderr)
        return Exit.USAGE
    return _react(options, password, _as_json if arguments.json else _as_text)


def options_of(arguments: argparse.Namespace) -> ClientOptions:
    """The command line as a value. Raises _Usage for options that contradict each other."""
    host, port, written = arguments.server
    user = arguments.user
    if arguments.auth is not None and (arguments.auth == "ANONYMOUS") is not (user is None):
        raise _Usage("--auth ANONYMOUS goes without --user, and the other mechanisms need it")
    if arguments.lan is not None and arguments.prefix_length is None:
        raise _Usage("--lan needs a prefix to take a network from; add --prefix-length 56 (or 64)")
    action = Action.INFO if arguments.info else Action.DELETE if arguments.delete else Action.TUNNEL
    return ClientOptions(
        server=written,
        host=host,
        port=port,
        user=user,
        action=action,
        encapsulation=Encapsulation(arguments.type),
        prefix_length=arguments.prefix_length,
        device=arguments.device,
        lan=arguments.lan,
        mechanism=arguments.auth,
        allow_plain=arguments.allow_plain,
        carriers=(Carrier.TCP,) if arguments.tcp else (Carrier.UDP, Carrier.TCP),
        keepalive=arguments.keepalive,
        default_route=not arguments.no_default_route,
        metric=arguments.metric,
        once=arguments.once,
    )


class _Usage(Exception):
    """The options cannot be followed; the message says what to change."""


def _react(options: ClientOptions, password: str, report: Report) -> int:
    codes: list[int] = []

    def main(reactor: Any) -> Deferred[Any]:
        return connect(reactor, options, password, report).addCallback(codes.append)

    try:
        react(main)
    except SystemExit as stop:
        # Without a code of ours something was raised that nobody foresaw, and the log has it.
        return codes[0] if codes else int(stop.code or Exit.OK)


def _as_text(event: Event) -> None:
    print(safe_lines(event.text), flush=True)


def _as_json(event: Event) -> None:
    print(json.dumps({"event": event.name, **event.details}), flush=True)


def safe_lines(text: str) -> str:
    """`safe` for a text of several lines."""
    return "\n".join(safe(line) for line in text.split("\n"))


# --- the password -------------------------------------------------------------------------------------------------


def _password(arguments: argparse.Namespace) -> str:
    """From the file, standard input, the environment, or the person, in this order. Raises _Usage."""
    password: str
    if arguments.password_file is not None:
        try:
            with arguments.password_file.open(encoding="utf-8") as file:
                password = file.readline()
        except (OSError, UnicodeDecodeError) as error:
            raise _Usage(f"the password cannot be read from {arguments.password_file}: {error}") from None
    elif arguments.password_stdin:
        password = sys.stdin.readline()
    elif PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
    elif sys.stdin.isatty():
        password = getpass.getpass(f"Password of {safe(arguments.user)}: ")
    else:
        raise _Usage(
            f"no terminal to ask for the password on; use --password-file, --password-stdin or {PASSWORD_VARIABLE}"
        )
    password = password.rstrip("\r\n")
    if not password:
        raise _Usage("the password is empty")
    if not _encodes(password, LONGEST_PASSWORD):
        raise _Usage(f"the password is not UTF-8 text of at most {LONGEST_PASSWORD} octets")
    return password


# --- values of options --------------------------------------------------------------------------------------------


def _server(text: str) -> tuple[str, int, str]:
    """Host, port, and the text itself."""
    host, colon, port = text.partition(":")
    if text.count(":") > 1 or text.startswith("["):
        raise argparse.ArgumentTypeError(f"{text!r} is no IPv4 address or name; tunnels run over IPv4")
    if not _HOST.fullmatch(host):
        raise argparse.ArgumentTypeError(f"{host!r} is no IPv4 address or name")
    if host.replace(".", "").isdigit():
        try:
            IPv4Address(host)
        except AddressValueError:
            raise argparse.ArgumentTypeError(f"{host!r} is no IPv4 address") from None
    if not colon:
        return host, PORT, text
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{port!r} is no port: use 1 to 65535")
    return host, int(port), text


def _user(text: str) -> str:
    if not text or not text.isprintable() or not _encodes(text, LONGEST_NAME):
        raise argparse.ArgumentTypeError(f"a user name is 1 to {LONGEST_NAME} octets of printable UTF-8 text")
    return text


def _encodes(text: str, longest: int) -> bool:
    try:
        return len(text.encode()) <= longest
    except UnicodeEncodeError:
        return False


def _device(text: str) -> str:
    if not re.fullmatch(r"[^\s/%:]{1,15}", text) or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} cannot name a device: use 1 to 15 characters, no blanks, / : or %")
    return text


def _prefix_length(text: str) -> int:
    length = _count(text)
    if not 16 <= length <= 128:
        raise argparse.ArgumentTypeError(f"no broker gives prefixes of {length} bits; 48, 56 and 64 are usual")
    return length


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)
