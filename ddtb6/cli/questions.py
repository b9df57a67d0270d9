# SPDX-License-Identifier: GPL-2.0-or-later
"""The questions of `ddtb6 setup`: what is asked, what is proposed, what counts as an answer.

Not here: what follows from the answers (`cli.plan`), what is done with them (`cli.setup`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from ddtb6.addressing.pool import Pool
from ddtb6.cli import plan
from ddtb6.cli.main import Failure
from ddtb6.cli.plan import Answers, Machine, PlanError

NOWHERE = (IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255"))
LINK_LOCAL, MULTICAST = IPv6Network("fe80::/10"), IPv6Network("ff00::/8")


class Question(NamedTuple):
    """Something to be known."""

    key: str
    option: str
    text: str
    """As it is asked, and as help of the option."""
    parse: Callable[[str, Mapping[str, Any]], Any]
    """From text and the answers so far. Raises ValueError with a sentence."""
    propose: Callable[[Machine, Mapping[str, Any]], str]
    """From the machine and the answers so far; empty: there is nothing to propose."""
    needed: Callable[[Mapping[str, Any]], bool] = lambda answers: True


def _outer(text: str, answers: Mapping[str, Any]) -> str:
    try:
        address = IPv4Address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IPv4 address such as 192.0.2.1') from None
    if address in NOWHERE or address.is_multicast:
        raise ValueError(f'"{text}" is no address that clients could send to')
    return str(address)


def _block(text: str, answers: Mapping[str, Any]) -> IPv6Network:
    try:
        block = IPv6Network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is not an IPv6 block such as 2001:db8:1::/48') from None
    if block.network_address != IPv6Address(text.partition("/")[0]):
        raise ValueError(f'"{text}" is an address; the block that it is in would be {block}')
    if block.overlaps(LINK_LOCAL) or block.overlaps(MULTICAST):
        raise ValueError(f'"{text}" is nothing that could be routed to this machine; such as 2001:db8:1::/48 could')
    if "/" not in text or not 16 <= block.prefixlen <= plan.SMALLEST:
        raise ValueError(f'"{text}" needs a length of 16 to {plan.SMALLEST}, such as 2001:db8:1::/48')
    return block


def _length(text: str, answers: Mapping[str, Any]) -> int:
    if not text.removeprefix("/").isdecimal():
        raise ValueError(f'"{text}" is not a length such as 56, or 0')
    length = int(text.removeprefix("/"))
    plan.carve(answers["block"], length, anonymous=False)
    return length


def yes_or_no(text: str, answers: Mapping[str, Any] | None = None) -> bool:
    """Raises ValueError."""
    if text.lower() not in ("y", "yes", "n", "no"):
        raise ValueError("answer yes or no")
    return text.lower().startswith("y")


def _users(text: str, answers: Mapping[str, Any]) -> str:
    if text.lower() not in plan.USERS:
        raise ValueError(f"answer {', '.join(plan.USERS[:-1])} or {plan.USERS[-1]}")
    return text.lower()


def _server(text: str, answers: Mapping[str, Any]) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(f'"{text}" is not a numeric IPv4 or IPv6 address; names are not looked up') from None


def _file(text: str, answers: Mapping[str, Any]) -> Path:
    if not text.startswith("/"):
        raise ValueError(f'"{text}" is not a path that begins with /')
    return Path(text)


def _asks_radius(answers: Mapping[str, Any]) -> bool:
    return bool(answers["users"] != "local")


QUESTIONS = (
    Question(
        "outer",
        "--address",
        "IPv4 address at which clients reach this broker",
        _outer,
        lambda machine, _: machine.outer[0] if machine.outer else "",
    ),
    Question(
        "block",
        "--block",
        "IPv6 block that is routed to this machine, for all clients together; a /48 is good",
        _block,
        lambda machine, _: str(min(machine.routed, key=lambda each: each.prefixlen)) if machine.routed else "",
    ),
    Question(
        "length",
        "--prefix-length",
        "length of the prefix that an account gets for its home: 48, 52, 56, 60 or 64; 0: an address only",
        _length,
        lambda _, answers: str(plan.proposed_length(answers["block"])),
    ),
    Question(
        "anonymous",
        "--anonymous",
        "whether clients without account may have one address each: yes or no",
        yes_or_no,
        lambda machine, answers: "no",
    ),
    Question(
        "users",
        "--users",
        "where accounts are: local (ddtb6 user add), radius, or both",
        _users,
        lambda machine, answers: "local",
    ),
    Question("radius_server", "--radius-server", "address of the RADIUS server", _server, lambda *_: "", _asks_radius),
    Question(
        "radius_secret_file",
        "--radius-secret-file",
        "file that has the secret shared with it in the first line",
        _file,
        lambda *_: "/etc/ddtb6/radius.secret",
        _asks_radius,
    ),
)


def find_out(given: Mapping[str, str | None], machine: Machine, asks: bool) -> tuple[Answers, list[Pool]]:
    """The answers, from options by key, proposals and the operator, and the pools that follow.

    Raises Failure; EOFError where nobody answers.
    """
    taken = [network for network, _ in machine.on_link]
    found: dict[str, Any] = {}
    for question in QUESTIONS:
        if question.needed(found):
            found[question.key] = _answer(question, given[question.key], machine, found, asks)
    answers = Answers(**found)
    try:
        return answers, plan.carve(answers.block, answers.length, anonymous=answers.anonymous, taken=taken)
    except PlanError as error:
        raise Failure(str(error)) from None


def _answer(question: Question, given: str | None, machine: Machine, found: Mapping[str, Any], asks: bool) -> Any:
    proposal = question.propose(machine, found)
    if given is None and not asks:
        if not proposal:
            raise Failure(f"{question.option} is needed: {question.text}")
        given = proposal
    if given is not None:
        try:
            return question.parse(given, found)
        except ValueError as error:
            raise Failure(f"{question.option}: {error}") from None
    print(f"{question.text[0].upper()}{question.text[1:]}.")
    while True:
        text = input(f"  {question.option.removeprefix('--')}{f' [{proposal}]' if proposal else ''}: ").strip()
        try:
            return question.parse(text or proposal, found)
        except ValueError as error:
            print(f"  {error}.")
