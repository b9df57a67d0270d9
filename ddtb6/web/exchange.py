# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked and what is answered, as values: handlers of pages and of the API map one to the other.

Invariants: text that came from outside is bounded by the size of a request (`web.http`); whatever was sent, reading it
here raises `Refused` or nothing; a header of an answer holds no line end.
Not here: who asks (`visitors`), which handler answers (`routes`), HTTP itself (`http`, `serve`).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
FORM = "application/x-www-form-urlencoded"
NO_STORE = "no-store"
FIELDS = 200
"""Fields of a form or query; more are refused."""


def _nothing() -> Mapping[str, str]:
    return _NOTHING


_NOTHING: Mapping[str, str] = MappingProxyType({})


class Refused(Exception):
    """A request cannot be answered as asked; the message is a sentence for who asked."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the navigation."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    method: str
    path: str
    """As it was sent, percent-encoded."""
    query: Mapping[str, str] = field(default_factory=_nothing)
    """First value of each name."""
    flaw: str = ""
    """Why the request cannot be answered at all, as a sentence."""
    headers: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    """Names in lower case; of a header that came several times, the last."""
    body: bytes = field(default=b"", repr=False)
    oversized: bool = False
    """Some of the body is missing."""
    source: str = ""
    """Numeric address of who asks, as trusted proxies tell it."""
    secure: bool = False
    """It came by TLS, here or at a trusted proxy."""
    host: str = ""
    """Name and port that the browser used."""
    values: Mapping[str, str] = field(default_factory=_nothing)
    """The named parts of the route's path, decoded."""
    menu: tuple[Entry, ...] = ()
    """The navigation as this visitor gets it."""

    def form(self) -> Mapping[str, str]:
        """The fields of a submitted form, first value of each; empty where the body is none. Raises Refused."""
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            return _NOTHING
        return fields(self.body)

    def json(self) -> Any:
        """The value of a JSON body; an empty body is an empty object. Raises Refused."""
        try:
            return json.loads(self.body or b"{}")
        except (ValueError, RecursionError):
            raise Refused(400, "The body is not JSON.") from None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    body: bytes = b""
    content_type: str = HTML
    status: int = 200
    cache: str = NO_STORE
    """Cache-Control."""
    headers: tuple[tuple[str, str], ...] = ()


class Sink(Protocol):
    """Where the pieces of a body without an end go."""

    def __call__(self, octets: bytes, /) -> None:
        """Write a piece."""

    @property
    def stalled(self) -> bool:
        """The other end does not read as fast as is written."""

    def end(self) -> None:
        """The body is complete."""

    def abort(self) -> None:
        """Hang up, whatever was not sent."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer without an end, such as server-sent events."""

    begin: Callable[[Sink], Callable[[], None]]
    """Called with where to write; returns what is called once the other end is gone, or it has ended."""
    content_type: str = "text/event-stream; charset=utf-8"


Reply = Answer | Stream
Answering = Reply | Awaitable[Reply]


def fields(octets: bytes) -> Mapping[str, str]:
    """What stands in a query or a submitted form. Octets that are no UTF-8 become U+FFFD. Raises Refused."""
    try:
        pairs = parse_qsl(octets.decode("latin-1"), keep_blank_values=True, max_num_fields=FIELDS, encoding="utf-8")
    except ValueError:
        raise Refused(400, f"There are more than {FIELDS} fields.") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def segments(path: str) -> tuple[str, ...] | None:
    """The parts of a path between its slashes, decoded; None where they are no text."""
    if not path.startswith("/"):
        return None
    try:
        return tuple(unquote_to_bytes(each).decode() for each in path[1:].split("/"))
    except UnicodeDecodeError:
        return None


def text(words: str, status: int = 200) -> Answer:
    """Plain text, a line end added."""
    return Answer(f"{words}\n".encode(), TEXT, status)


def json_answer(value: object, status: int = 200, content_type: str = "application/json") -> Answer:
    """A JSON-able value."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
    return Answer(body, content_type, status)


def see_other(path: str, *headers: tuple[str, str]) -> Answer:
    """Go on with GET at `path` of this site, which must be `is_local`."""
    assert is_local(path), path
    return Answer(b"", TEXT, 303, headers=(("Location", path), *headers))


def is_local(path: str) -> bool:
    """Whether a redirect to `path` stays on this site and is one header line."""
    plain = path.isascii() and path.isprintable() and " " not in path and "\\" not in path
    return plain and path.startswith("/") and not path.startswith("//") and len(path) <= 1000
