# SPDX-License-Identifier: GPL-2.0-or-later
"""What a management verb is: its arguments with their checks, who calls it, and how it fails.

Each argument also has its JSON schema and is read from the text of a query, so that every front (control socket, pages,
API and its description) takes the same.
Not here: the verbs (`accounts`, `tunnels`, `staff`), the table of them (`control`).
"""

from __future__ import annotations

import difflib
import enum
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Protocol, TypeVar

from ddtb6.broker.search import Sort
from ddtb6.tunnel.spec import TunnelId

T = TypeVar("T")

TEXT_LIMIT = 300
"""Characters of any text."""
LIMIT = 1000
"""Rows of any list."""
SECRETS = frozenset({"password", "old_password"})
"""Arguments that are never written down."""


class Kind(enum.Enum):
    """What sort of failure a `ControlError` is; the value stands in JSON."""

    REQUEST = "request"
    """The verb or an argument is wrong."""
    MISSING = "missing"
    """What was named does not exist."""
    CONFLICT = "conflict"
    """It exists already, or what is wanted does not fit what there is."""
    STOPPED = "stopped"
    """The verb needs a running broker."""
    FAILED = "failed"
    """Something broke; the daemon's log has the reason."""


STATUS: Mapping[Kind, int] = {
    Kind.REQUEST: 400,
    Kind.MISSING: 404,
    Kind.CONFLICT: 409,
    Kind.STOPPED: 503,
    Kind.FAILED: 500,
}
"""What HTTP calls them."""


class ControlError(Exception):
    """A verb was not carried out; the message is a sentence for the operator."""

    def __init__(self, sentence: str, kind: Kind) -> None:
        super().__init__(sentence)
        self.kind = kind


def stopped() -> ControlError:
    return ControlError("the broker is not running", Kind.STOPPED)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who calls a verb."""

    who: str
    """``administrator:NAME``, ``token:NAME``, ``user:NAME``, or ``local:NAME`` of an account of this machine."""
    source: str = ""
    """Numeric address that they come from; empty on this machine."""
    session: object = field(default=None, repr=False)
    """Their browser's `visitors.Session`, which goes on when a change ends the others of its name."""


class InThread(Protocol):
    """Runs a slow function off the reactor's thread, or at once where there is no reactor."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


# --- arguments ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Argument:
    """How an argument is taken."""

    check: Callable[[Any], Any]
    """What JSON brought, converted. Raises ValueError with what it must be."""
    schema: Mapping[str, Any]
    """JSON schema."""
    read: Callable[[str], object] = str
    """What JSON would have brought, from the text of a query. Raises ValueError, or leaves what `check` refuses."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be text")
    if len(value) > TEXT_LIMIT:
        raise ValueError(f"is longer than {TEXT_LIMIT} characters")
    if "\0" in value or any("\ud800" <= each <= "\udfff" for each in value):
        raise ValueError("holds what is no character")
    return value


def _password(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be text")
    return value


def _owner(value: object) -> str:
    text = _text(value)
    return text if ":" in text else f"user:{text}"


def _whole(value: object, low: int, high: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(what)
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _moment(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or abs(value) > 1e12:
        raise ValueError("must be epoch seconds")
    return float(value)


def _address(value: object) -> IPv6Address:
    try:
        address = IPv6Address(_text(value))
    except ValueError:
        raise ValueError("must be an IPv6 address") from None
    if address.scope_id is not None:
        raise ValueError("must be an IPv6 address without a scope")
    return address


def _prefix(value: object) -> IPv6Network:
    try:
        prefix = IPv6Network(_text(value))
    except ValueError:
        raise ValueError("must be an IPv6 prefix, such as 2001:db8:1::/48") from None
    if prefix.network_address.scope_id is not None:
        raise ValueError("must be an IPv6 prefix without a scope")
    return prefix


def _number(text: str) -> object:
    # A number too long to convert is none that a check would take.
    return int(text) if len(text) <= 20 and text.strip().removeprefix("-").isdecimal() else text


def _decimal(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def among(choices: tuple[str, ...], make: Callable[[str], Any] = str) -> Argument:
    """One of several words."""

    def check(value: object) -> Any:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return make(str(value))

    return Argument(check, {"type": "string", "enum": list(choices)})


_PLAIN_TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": TEXT_LIMIT, "pattern": r"^[^\x00]*$"}
TEXT = Argument(_text, _PLAIN_TEXT)
NEW_NAME = Argument(_text, {"type": "string", "pattern": "^[\\w.@-]{1,64}$"})
PASSWORD = Argument(
    _password,
    {"type": "string", "minLength": 1, "maxLength": 128, "format": "password", "pattern": "^[^\\x00-\\x1f\\x7f]+$"},
)
OWNER = Argument(_owner, {**_PLAIN_TEXT, "description": "An owner, such as user:NAME, or the name of a user."})
ID = Argument(
    lambda value: TunnelId(_whole(value, 1, (1 << 32) - 1, "must be a session id")),
    {"type": "integer", "minimum": 1, "maximum": (1 << 32) - 1},
    _number,
)
COUNT = Argument(
    lambda value: _whole(value, 1, 1_000_000, "must be a whole number above 0"),
    {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    _number,
)
ROWS = Argument(
    lambda value: _whole(value, 1, LIMIT, f"must be a whole number from 1 to {LIMIT}"),
    {"type": "integer", "minimum": 1, "maximum": LIMIT},
    _number,
)
NUMBER = Argument(
    lambda value: _whole(value, 1, 1 << 53, "must be a number of an entry"),
    {"type": "integer", "minimum": 1, "maximum": 1 << 53},
    _number,
)
OFFSET = Argument(
    lambda value: _whole(value, 0, 10_000_000, "must be a whole number"),
    {"type": "integer", "minimum": 0, "maximum": 10_000_000},
    _number,
)
FLAG = Argument(_flag, {"type": "boolean"}, lambda text: {"true": True, "false": False}.get(text, text))
MOMENT = Argument(
    _moment,
    {"type": "number", "minimum": -1e12, "maximum": 1e12, "description": "Seconds since 1970 UTC."},
    _decimal,
)
ADDRESS = Argument(_address, {"type": "string", "format": "ipv6"})
PREFIX = Argument(_prefix, {"type": "string", "format": "ipv6-prefix", "examples": ["2001:db8:1::/48"]})
SORT = among(tuple(each.value for each in Sort), Sort)


# --- verbs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb and its arguments."""

    run: Callable[[Any], Callable[..., Awaitable[Any]]]
    """Takes the `Control` and gives the function, whose documentation and return type describe it everywhere."""
    needed: Mapping[str, Argument] = field(default_factory=dict)
    optional: Mapping[str, Argument] = field(default_factory=dict)
    changes: bool = False
    """It changes something, and stands in the audit log."""
    live: bool = False
    """It needs a running broker."""

    @property
    def arguments(self) -> Mapping[str, Argument]:
        return {**self.needed, **self.optional}

    def check(self, verb: str, arguments: object) -> dict[str, Any]:
        """The arguments converted. Raises ControlError."""
        if not isinstance(arguments, dict):
            raise ControlError("the arguments must be a JSON object", Kind.REQUEST)
        known = self.arguments
        for name in arguments:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean {close[0]}?" if close else ""
                raise ControlError(f'{verb} has no argument "{name[:40]}"{meant}', Kind.REQUEST)
        for name in self.needed:
            if name not in arguments:
                raise ControlError(f"{verb} needs the argument {name}", Kind.REQUEST)
        checked = {}
        for name, value in arguments.items():
            try:
                checked[name] = known[name].check(value)
            except ValueError as error:
                raise ControlError(f"{name} {error}", Kind.REQUEST) from None
        return checked
