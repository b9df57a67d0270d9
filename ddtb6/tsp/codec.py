# SPDX-License-Identifier: GPL-2.0-or-later
"""TSP text to messages and back, for either role: whole UDP texts, and fragments of a TCP stream.

Source: RFC 5572 sections 4.4 to 4.6. Line ends are what clients make of them: gogoCLIENT puts a NUL after that of
AUTHENTICATE, the Java client writes CR BS, tspc 2.1 ends VERSION with nothing.
Invariants: what a broker reads becomes a message or `Malformed`, never an exception; a stream is held up to a bound,
and the same octets give the same messages however they were cut.
Not here: the XML (`document`), the UDP header and chunks (`framing`), whose turn it is (`negotiation`).
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import NamedTuple

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.tsp import document
from ddtb6.tsp.messages import (
    Authenticate,
    Capability,
    Malformed,
    Request,
    SaslResponse,
    Version,
)
from ddtb6.tsp.status import AuthenticationFailed, InvalidRequest, TspError, UnsupportedVersion

LONGEST_LINE = 1024
"""Octets of a VERSION, AUTHENTICATE or Content-length line."""
LONGEST_SASL_LINE = 2048
"""Octets; gogoCLIENT's longest DIGEST-MD5 response is 1,364."""
LARGEST_REPLY = 65536
"""Octets of a framed reply that a client waits for."""

_BLANK = bytes(range(0x21))
_VERSION = re.compile(rb"VERSION=([0-9]{1,4}\.[0-9]{1,4}(?:\.[0-9]{1,4})?)", re.IGNORECASE)
_AUTHENTICATE = re.compile(rb"AUTHENTICATE[ \t]+([A-Z0-9_-]{1,20})", re.IGNORECASE)
_CONTENT_LENGTH = re.compile(rb"Content-length[ \t]*:[ \t]*([0-9]{1,9})[ \t]*\r?\n", re.IGNORECASE)
_END_OF_VERSION = re.compile(rb"[\r\n\0]")
_END_OF_LINE = re.compile(rb"\r?\n|\r\x08")
_ENDS_OF_SASL = (b"\r\n", b"\n", b"\r\n\0", b"\n\0", b"\r\b", b"\r\b\0")
_STATUS = re.compile(rb"([0-9]{3,4})(?:[ \t]+([^\r\n\0]*))?(?:\r?\n|\Z)")


# --- a broker reads a UDP text ------------------------------------------------------------------------------------


def read_version(text: bytes) -> Version | Malformed:
    """A VERSION line, its end optional. Malformed with 302 when it is one that cannot be read, so clients fall back."""
    line = text[: LONGEST_LINE + 1].strip(_BLANK)
    version = _version(line)
    if version is not None:
        return version
    return Malformed(UnsupportedVersion() if line[:8].upper() == b"VERSION=" else InvalidRequest())


@lru_cache(maxsize=64)
def _version(line: bytes) -> Version | None:
    """Remembered: all clients of a version say the same, and every session keeps it."""
    match = _VERSION.fullmatch(line)
    return None if match is None else Version(match[1].decode("ascii"))


def read_authenticate(text: bytes) -> Authenticate | Malformed:
    """An AUTHENTICATE line. Malformed with 300 when what it names is no mechanism."""
    line = text[: LONGEST_LINE + 1].strip(_BLANK)
    match = _AUTHENTICATE.fullmatch(line)
    if match is not None:
        return Authenticate(match[1].decode("ascii").upper())
    return Malformed(AuthenticationFailed() if line[:13].upper() == b"AUTHENTICATE " else InvalidRequest())


def read_sasl(text: bytes) -> SaslResponse | Malformed:
    """A SASL response without its line end, and nothing else of it: PLAIN begins with NUL, passwords end in blanks.

    Malformed with 300, the only failure that clients survive in the middle of SASL, when it is too long.
    """
    if len(text) > LONGEST_SASL_LINE:
        return Malformed(AuthenticationFailed())
    for end in _ENDS_OF_SASL:
        if text.endswith(end):
            return SaslResponse(text[: -len(end)])
    return SaslResponse(text)


def read_command(text: bytes) -> Request:
    """Content-length and a document. The number only has to be possible: the datagram says where the document ends."""
    text = text.lstrip(_BLANK)
    match = _CONTENT_LENGTH.match(text)
    if match is None or int(match[1]) > document.LARGEST_DOCUMENT:
        return Malformed(InvalidRequest())
    return _read_document(text[match.end() :])


def _read_document(xml: bytes) -> Request:
    try:
        return document.read_request(xml)
    except TspError as error:
        # A copy without traceback: that would keep the document alive.
        return Malformed(type(error)(error.detail))


# --- a broker reads a TCP stream ----------------------------------------------------------------------------------


class Phase(enum.Enum):
    """What the client is expected to send next."""

    __hash__ = object.__hash__  # Enum's own is a Python function; members are looked up for every datagram.

    VERSION = "version"
    AUTHENTICATE = "authenticate"
    SASL_LINE = "sasl-line"
    COMMAND = "command"


class StreamReader:
    """Messages out of a TCP stream.

    Which message comes next depends on the negotiation, so each is asked for by its phase. When more octets come than
    any message has, or the framing is lost, one `Malformed` with 500 is the last message.
    """

    CAPACITY = document.LARGEST_DOCUMENT + LONGEST_LINE

    __slots__ = ("_buffer", "_lost", "_overflown")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._overflown = False
        self._lost = False

    def feed(self, data: bytes) -> None:
        """Take what arrived. What exceeds `CAPACITY` is not kept."""
        if self._lost or self._overflown:
            return
        room = self.CAPACITY - len(self._buffer)
        self._overflown = len(data) > room
        self._buffer += data[:room]

    def next(self, phase: Phase, *, idle: bool = False) -> Request | None:
        """The next message, or None until more octets are there.

        `idle` says that nothing came for a while (some 200 ms): a VERSION without line end is complete then.
        """
        if self._lost:
            return None
        if phase is Phase.VERSION:
            message = self._next_version(idle)
        elif phase is Phase.AUTHENTICATE:
            message = self._next_authenticate()
        elif phase is Phase.SASL_LINE:
            message = self._next_sasl()
        else:
            message = self._next_command()
        if message is None and self._overflown:
            return self._lose()
        return message

    def _lose(self) -> Malformed:
        self._lost = True
        self._buffer.clear()
        return Malformed(InvalidRequest())

    def _take(self, octets: int) -> bytes:
        taken = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        return taken

    def _skip_blank(self) -> None:
        buffer = self._buffer
        if buffer and buffer[0] < 0x21:
            del buffer[: len(buffer) - len(buffer.lstrip(_BLANK))]

    def _line(self, end: re.Pattern[bytes], longest: int) -> bytes | Malformed | None:
        """The next line with its end."""
        match = end.search(self._buffer, 0, longest)
        if match is not None:
            return self._take(match.end())
        return self._lose() if len(self._buffer) >= longest else None

    def _next_version(self, idle: bool) -> Request | None:
        self._skip_blank()
        line = self._line(_END_OF_VERSION, LONGEST_LINE)
        if line is None and idle and _VERSION.fullmatch(self._buffer):
            line = self._take(len(self._buffer))
        return read_version(line) if isinstance(line, bytes) else line

    def _next_authenticate(self) -> Request | None:
        self._skip_blank()
        line = self._line(_END_OF_LINE, LONGEST_LINE)
        return read_authenticate(line) if isinstance(line, bytes) else line

    def _next_sasl(self) -> Request | None:
        while True:
            line = self._line(_END_OF_LINE, LONGEST_SASL_LINE)
            if not isinstance(line, bytes):
                return line
            # The NUL that gogoCLIENT puts after AUTHENTICATE's line end stands in front of this line. PLAIN has two
            # NULs of its own, the other mechanisms none.
            if line[0] == 0 and line.count(0) != 2:
                line = line[1:]
            response = read_sasl(line)
            if response != SaslResponse(b""):
                return response

    def _next_command(self) -> Request | None:
        self._skip_blank()
        buffer = self._buffer
        end = buffer.find(b"\n", 0, LONGEST_LINE) + 1
        if not end:
            return self._lose() if len(buffer) >= LONGEST_LINE else None
        match = _CONTENT_LENGTH.match(buffer, 0, end)
        if match is None or int(match[1]) > document.LARGEST_DOCUMENT:
            return self._lose()
        # tsp-ruby counts a line end that it may not send: up to two octets less will do where the document ends there.
        complete = end + int(match[1])
        for stop in (complete - 2, complete - 1, complete):
            if len(buffer) < stop:
                return None
            if stop == complete or buffer[end:stop].rstrip(_BLANK).endswith(b"</tunnel>"):
                break
        return _read_document(self._take(stop)[end:])


# --- a broker writes ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def write_capability(capability: Capability) -> bytes:
    """The CAPABILITY line: upper case and single blanks, which is all that old clients read."""
    tokens = [f"TUNNEL={each.value}" for each in capability.encapsulations]
    tokens += [f"AUTH={each}" for each in capability.mechanisms]
    return " ".join(["CAPABILITY", *tokens]).upper().encode("ascii") + b"\r\n"


def write_status(line: str) -> bytes:
    """A status line, such as `status.SUCCESS` or `TspError.line`, with its line end."""
    return line.encode("ascii", "replace") + b"\r\n"


def framed(payload: bytes) -> bytes:
    """A reply of the command phase: status line and document behind their exact length.

    A number too small makes gogoCLIENT reconnect a thousand times a second.
    """
    return b"Content-length: %d\r\n%b" % (len(payload), payload)


# --- a client writes ----------------------------------------------------------------------------------------------


def write_version(version: str) -> bytes:
    """The VERSION line for a version such as ``2.0.2``."""
    return f"VERSION={version}\r\n".encode("ascii")


def write_authenticate(mechanism: str) -> bytes:
    """The AUTHENTICATE line, without gogoCLIENT's NUL: every broker takes the line as the RFC has it."""
    return f"AUTHENTICATE {mechanism}\r\n".encode("ascii")


# --- a client reads -----------------------------------------------------------------------------------------------


def read_capability(text: bytes) -> Capability:
    """A CAPABILITY line in any case; unknown tokens are passed over. Raises InvalidRequest."""
    line = re.split(rb"[\r\n\0]", text[:LONGEST_LINE], maxsplit=1)[0]
    keyword, *tokens = line.decode("ascii", "replace").upper().split() or [""]
    if keyword != "CAPABILITY":
        raise InvalidRequest("Not a capability line")
    known = {each.value.upper(): each for each in Encapsulation}
    offered = [token.partition("=") for token in tokens]
    return Capability(
        encapsulations=tuple(known[value] for key, _, value in offered if key == "TUNNEL" and value in known),
        mechanisms=tuple(value for key, _, value in offered if key == "AUTH" and value),
    )


def read_status(text: bytes) -> tuple[int, str, bytes]:
    """Code, text after it, and what follows the line. Raises InvalidRequest.

    The text is for people: at most a line of printable characters.
    """
    match = _STATUS.match(text)
    if match is None:
        raise InvalidRequest("Not a status line")
    words = (match[2] or b"")[:LONGEST_LINE].decode("utf-8", "replace").strip()
    return int(match[1]), "".join(each if each.isprintable() else "?" for each in words), text[match.end() :]


class Framed(NamedTuple):
    """As much of a framed reply as is there."""

    payload: bytes
    missing: int
    """Octets still to come: on UDP the client polls for them and appends what it gets; 0: complete."""


def read_framed(text: bytes) -> Framed:
    """A reply of the command phase; what follows its end is left out. Raises InvalidRequest."""
    match = _CONTENT_LENGTH.match(text)
    if match is None or int(match[1]) > LARGEST_REPLY:
        raise InvalidRequest("Not a framed reply")
    length = int(match[1])
    payload = text[match.end() : match.end() + length]
    return Framed(payload, length - len(payload))
