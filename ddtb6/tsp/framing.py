# SPDX-License-Identifier: GPL-2.0-or-later
"""The reliable-UDP header of TSP signalling, and the server's half of that reliability.

Source: RFC 5572 section 4.3; the little-endian form, polls and ECHO REQUEST are what tspc, gogoCLIENT and tsp-ruby do.
The client chooses both words; the server sends them back unchanged in front of its answer::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-------+-------------------------------------------------------+
    |  0xF  |                 Sequence Number                       |
    +-------+-------------------------------------------------------+
    |                          Timestamp                            |
    +---------------------------------------------------------------+
    |                  TSP text, possibly empty                     |
    +---------------------------------------------------------------+

Network byte order. Clients from before 2005 on little-endian machines send both words in host order instead, which
moves the 0xF nibble to the fourth octet.

Invariants: a request is never handed on twice; every datagram that is answered is answered under its own header; a
peer that has not proved that it receives gets at most `AMPLIFICATION` times what it sent, both counted on the wire and
over the whole exchange (as RFC 9000 section 8.1 does).
Not here: what the text says (`codec`), the client's retransmission, which peers have an exchange (`transport`).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import NamedTuple

HEADER_OCTETS = 8
LARGEST_DATAGRAM = 1200
"""Octets of a reply datagram, header included; what is longer is fetched by polls."""
AMPLIFICATION = 3
OVERHEAD = {4: 28, 6: 48}
"""Octets of the outer IP and UDP headers by `Endpoint.family`."""
ECHO_REQUEST = b"ECHO REQUEST"
"""Text of the probe with which clients look for the nearest broker of a list. Answered without any state."""

_NETWORK = struct.Struct(">II")
_LEGACY = struct.Struct("<II")
_SEQUENCE_MASK = 0x0FFFFFFF
_HALF_OF_SEQUENCES = 0x08000000
_BLANK = b"\0\t\n\v\f\r "


class Kind(enum.Enum):
    """What a datagram on the signalling port is."""

    SIGNALLING = "signalling"
    DATA = "data"
    OTHER = "other"
    """Neither, or shorter than `HEADER_OCTETS`."""


def classify(datagram: bytes) -> Kind:
    """Tell signalling from tunnelled IPv6 by the first nibble."""
    if len(datagram) < HEADER_OCTETS:
        return Kind.OTHER
    nibble = datagram[0] >> 4
    if nibble == 6:
        return Kind.DATA
    if nibble == 0xF or (nibble == 0 and datagram[3] >> 4 == 0xF):
        return Kind.SIGNALLING
    return Kind.OTHER


class Header(NamedTuple):
    """A header as one client sent it."""

    raw: bytes
    """The eight octets as they came; what goes in front of the answer."""
    sequence: int
    """28 bits."""
    timestamp: int
    """32 bits, in units of the client's choice."""


def unpack(datagram: bytes) -> tuple[Header, bytes]:
    """Header and text of a datagram that `classify` calls SIGNALLING."""
    layout = _NETWORK if datagram[0] >> 4 == 0xF else _LEGACY
    word, timestamp = layout.unpack_from(datagram)
    return Header(datagram[:HEADER_OCTETS], word & _SEQUENCE_MASK, timestamp), datagram[HEADER_OCTETS:]


def pack(sequence: int, timestamp: int, text: bytes) -> bytes:
    """A datagram in network byte order, for the client role; both numbers wrap at their width."""
    return _NETWORK.pack(0xF0000000 | sequence & _SEQUENCE_MASK, timestamp & 0xFFFFFFFF) + text


def echo_reply(header: Header) -> bytes:
    """The datagram that answers an `ECHO_REQUEST`."""
    return header.raw + b"200 Success\r\n"


def is_poll(text: bytes) -> bool:
    """Whether the client only asks for the next chunk: nothing there but blanks and NULs (tsp-ruby sends CR LF)."""
    return not text.strip(_BLANK)


@dataclass(frozen=True, slots=True)
class Fresh:
    """A request not seen before; `Exchange.reply` is owed for it, once."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Nothing new; this datagram goes back at once."""

    datagram: bytes


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing is sent now."""


Arrival = Fresh | Answer | Silent

_SILENT = Silent()


class Exchange:
    """Requests and answers of one UDP peer over one negotiation, lock-step as RFC 5572 has it.

    One request is worked on at a time. While it is, its copies only bring the header that the answer will carry, polls
    get a bare header, and another request is dropped: the client that wants it sends it again.

    `overhead` is the outer header of this path in octets, from `OVERHEAD`. Set `proven` once the client has shown that
    it receives (it returned a nonce); until then replies are also cut to the amplification limit.
    """

    __slots__ = (
        "_allowance",
        "_chunk",
        "_header",
        "_opening",
        "_overhead",
        "_payload",
        "_polled",
        "_queue",
        "_sequence",
        "_text",
        "proven",
    )

    def __init__(self, overhead: int = OVERHEAD[4], *, proven: bool = False) -> None:
        self.proven = proven
        self._overhead = overhead
        self._opening: Header | None = None  # of the request that began the exchange, until there is a second
        self._sequence = -1  # of the latest request; -1 before the first
        self._text = 0  # hash of its text, all that telling copies apart needs
        self._payload = b""  # what it was answered with
        self._header: bytes | None = None  # of its newest copy while it is worked on, else None
        self._allowance = 0  # octets on the wire that may still be sent while it has not proved that it receives
        self._polled = -1  # sequence of the latest poll since then; -1 for none
        self._chunk = b""  # what that was answered with
        self._queue: tuple[bytes, ...] = ()  # what polls will fetch

    @property
    def owing(self) -> bool:
        """Whether a request waits for `reply`."""
        return self._header is not None

    def receive(self, header: Header, text: bytes, octets: int) -> Arrival:
        """Judge one signalling datagram of `octets` octets."""
        self._allowance += AMPLIFICATION * (octets + self._overhead)
        # 4.3: a retransmission keeps its sequence. Some clients never count on, so the text must be the same, too.
        if header.sequence == self._sequence and hash(text) == self._text:
            if self._header is not None:
                self._header = header.raw
                return _SILENT
            return self._again(header, self._payload)
        poll = is_poll(text)
        if poll and header.sequence == self._polled:
            return self._again(header, self._chunk)
        newest = self._polled if self._polled >= 0 else self._sequence
        if newest >= 0 and (header.sequence - newest) & _SEQUENCE_MASK >= _HALF_OF_SEQUENCES:
            return _SILENT
        if poll:
            return self._answer_poll(header)
        if self._header is not None:
            return _SILENT
        self._opening = header if self._sequence < 0 else None
        self._sequence = header.sequence
        self._text = hash(text)
        self._payload = b""
        self._header = header.raw
        self._polled = -1
        self._chunk = b""
        self._queue = ()
        return Fresh(text)

    def reply(self, payload: bytes) -> bytes:
        """The datagram that answers the request in progress; an empty payload acknowledges with a bare header.

        What does not fit is left for polls, in front of every `followup`.
        """
        header = self._header
        assert header is not None, "a reply answers a Fresh arrival, and only once"
        self._header = None
        self._payload = self._first_of((payload, *self._queue))
        return header + self._payload

    def followup(self, payload: bytes) -> None:
        """Queue what the client will fetch by a poll of its own."""
        self._queue += (payload,)

    def opens_again(self, header: Header, text: bytes) -> bool:
        """Whether this VERSION line is of a client that starts over on the same NAT mapping.

        Clients restart at the sequence they began with, so a copy of the line that began this exchange is told by
        state: nothing came after it, sequence and text are the same, and its clock did not go backwards. False for any
        other text, and before the first request.
        """
        if self._sequence < 0 or text[:8].upper() != b"VERSION=":
            return False
        return (
            self._opening is None
            or header.sequence != self._sequence
            or header.timestamp < self._opening.timestamp
            or hash(text) != self._text
        )

    def _again(self, header: Header, payload: bytes) -> Arrival:
        """The answer to a copy, unless the peer has had its share."""
        if len(payload) > self._room():
            return _SILENT
        self._spend(payload)
        return Answer(header.raw + payload)

    def _answer_poll(self, header: Header) -> Answer:
        self._polled = header.sequence
        self._chunk = b""
        if self._sequence >= 0:
            self._opening = None
        if self._header is None and self._queue:
            self._chunk = self._first_of(self._queue)
        else:
            self._spend(b"")
        return Answer(header.raw + self._chunk)

    def _first_of(self, pieces: tuple[bytes, ...]) -> bytes:
        """As much of the first piece as may be sent now; the rest of all becomes the queue."""
        room = self._room()
        piece, *rest = pieces
        if len(piece) > room:
            rest.insert(0, piece[room:])
        self._queue = tuple(rest)
        self._spend(piece[:room])
        return piece[:room]

    def _room(self) -> int:
        """Octets of payload that may be sent now. The datagram just received is worth 72 at least."""
        room = LARGEST_DATAGRAM - HEADER_OCTETS
        if self.proven:
            return room
        return min(room, self._allowance - self._overhead - HEADER_OCTETS)

    def _spend(self, payload: bytes) -> None:
        self._allowance -= self._overhead + HEADER_OCTETS + len(payload)
