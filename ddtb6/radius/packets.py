# SPDX-License-Identifier: GPL-2.0-or-later
"""RADIUS packets: requests as octets, replies and dynamic authorization requests verified before they are read.

Source: RFC 2865 section 3, 2866 section 3 and 4.1, 2869 section 5.14 (Message-Authenticator, put first as a defence
against CVE-2024-3596), 5176 section 3.5, 5997 section 3. Signatures are made and checked here over the octets as they
are on the wire: pyrad 2.1 makes none, and its own splitting of packets never ends on a vendor attribute of length 0.
Invariants: whatever is given to `read_reply` and `read_request` gives a value or raises `Refused`; nothing is read out
of a packet before its signatures hold.
Not here: attribute values (`radius.attributes`), who is asked and how long is waited (`radius.peer`).
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from ddtb6.radius.attributes import Attribute, Received, Unencodable, encode

LARGEST = 4096
"""Octets of a packet."""

_HEADER = struct.Struct("!BBH16s")
_MESSAGE_AUTHENTICATOR = 80
_UNSIGNED = bytes((_MESSAGE_AUTHENTICATOR, 18)) + bytes(16)
_NOTHING = bytes(16)


class Code(enum.IntEnum):
    """What a packet is."""

    ACCESS_REQUEST = 1
    ACCESS_ACCEPT = 2
    ACCESS_REJECT = 3
    ACCOUNTING_REQUEST = 4
    ACCOUNTING_RESPONSE = 5
    ACCESS_CHALLENGE = 11
    STATUS_SERVER = 12
    DISCONNECT_REQUEST = 40
    DISCONNECT_ACK = 41
    DISCONNECT_NAK = 42
    COA_REQUEST = 43
    COA_ACK = 44
    COA_NAK = 45


_REPLIES = {
    Code.ACCESS_REQUEST: {Code.ACCESS_ACCEPT, Code.ACCESS_REJECT, Code.ACCESS_CHALLENGE},
    Code.ACCOUNTING_REQUEST: {Code.ACCOUNTING_RESPONSE},
    # RFC 5997 section 3: the code depends on the port; a refusal proves life as well.
    Code.STATUS_SERVER: {Code.ACCESS_ACCEPT, Code.ACCESS_REJECT, Code.ACCOUNTING_RESPONSE},
    Code.DISCONNECT_REQUEST: {Code.DISCONNECT_ACK, Code.DISCONNECT_NAK},
    Code.COA_REQUEST: {Code.COA_ACK, Code.COA_NAK},
}
_RANDOM_AUTHENTICATOR = {Code.ACCESS_REQUEST, Code.STATUS_SERVER}


class Fault(enum.Enum):
    """Why a datagram was dropped; the values are stable, they stand in counters."""

    MALFORMED = "malformed"
    """Lengths that contradict each other, a truncated attribute, a second Message-Authenticator."""
    WRONG_SOURCE = "wrong-source"
    """Not from the address and port that was asked, or not from a client that is known."""
    NOT_EXPECTED = "not-expected"
    """No request of that identifier waits for an answer."""
    WRONG_CODE = "wrong-code"
    """Not an answer to the request, or not a request that is served."""
    WRONG_AUTHENTICATOR = "wrong-authenticator"
    """The authenticator was not made with the shared secret."""
    WRONG_MESSAGE_AUTHENTICATOR = "wrong-message-authenticator"
    UNSIGNED = "unsigned"
    """No Message-Authenticator where there must be one."""


class Refused(Exception):
    """A datagram that is to be dropped."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was sent."""

    code: Code
    identifier: int
    authenticator: bytes
    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose signatures hold."""

    code: Code
    attributes: Received
    signed: bool
    """It has a Message-Authenticator."""
    server: str = ""
    """The name of the server that gave it."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request of somebody else, whose signatures hold."""

    code: Code
    identifier: int
    authenticator: bytes
    attributes: Received
    signed: bool
    """It has a Message-Authenticator; then so has the answer."""


# --- requests of ours ---------------------------------------------------------------------------------------------


def make_request(
    code: Code, identifier: int, secret: bytes, attributes: Iterable[Attribute], random: bytes = _NOTHING
) -> Request:
    """A request, signed. `identifier` is 0 to 255.

    Access-Request and Status-Server begin with a Message-Authenticator, and their authenticator is `random`: 16
    unpredictable octets. Those of the others are computed. Raises Unencodable.
    """
    if code in _RANDOM_AUTHENTICATOR:
        body = _UNSIGNED + encode(attributes, secret, random)
        head = _head(code, identifier, body)
        body = _signed(head, random, body, 0, secret)
        return Request(code, identifier, random, head + random + body)
    body = encode(attributes, secret, _NOTHING)
    head = _head(code, identifier, body)
    authenticator = _md5(head + _NOTHING + body + secret)
    return Request(code, identifier, authenticator, head + authenticator + body)


def read_reply(datagram: bytes, request: Request, secret: bytes, server: str = "") -> Reply:
    """The answer to `request` in `datagram`. Raises Refused."""
    head, authenticator, body = _parts(datagram)
    attributes, signature_at = _split(body)
    if head[1] != request.identifier:
        raise Refused(Fault.NOT_EXPECTED)
    if head[0] not in _REPLIES[request.code]:
        raise Refused(Fault.WRONG_CODE)
    if not hmac.compare_digest(_md5(head + request.authenticator + body + secret), authenticator):
        raise Refused(Fault.WRONG_AUTHENTICATOR)
    if signature_at is not None:
        try:
            _check_signature(head, request.authenticator, body, signature_at, secret)
        except Refused:
            if request.code is not Code.ACCOUNTING_REQUEST:
                raise
            # RFC 2869 is silent about accounting; FreeRADIUS signs those answers over an authenticator of zeros.
            _check_signature(head, _NOTHING, body, signature_at, secret)
    return Reply(Code(head[0]), Received(attributes), signature_at is not None, server)


# --- requests of others -------------------------------------------------------------------------------------------


def read_request(datagram: bytes, secret: bytes) -> Incoming:
    """The Disconnect-Request, CoA-Request or Accounting-Request in `datagram`. Raises Refused."""
    head, authenticator, body = _parts(datagram)
    attributes, signature_at = _split(body)
    if head[0] not in (Code.DISCONNECT_REQUEST, Code.COA_REQUEST, Code.ACCOUNTING_REQUEST):
        raise Refused(Fault.WRONG_CODE)
    if not hmac.compare_digest(_md5(head + _NOTHING + body + secret), authenticator):
        raise Refused(Fault.WRONG_AUTHENTICATOR)
    if signature_at is not None:
        _check_signature(head, _NOTHING, body, signature_at, secret)
    return Incoming(Code(head[0]), head[1], authenticator, Received(attributes), signature_at is not None)


def make_reply(code: Code, request: Incoming, secret: bytes, attributes: Iterable[Attribute] = ()) -> bytes:
    """The answer to `request` as a datagram, its Proxy-State attributes included. Raises Unencodable."""
    proxies = [("Proxy-State", each) for each in request.attributes.octets("Proxy-State")]
    body = encode([*attributes, *proxies], secret, _NOTHING)
    if request.signed:
        body = _UNSIGNED + body
    head = _head(code, request.identifier, body)
    if request.signed:
        body = _signed(head, request.authenticator, body, 0, secret)
    return head + _md5(head + request.authenticator + body + secret) + body


# --- octets -------------------------------------------------------------------------------------------------------


def _head(code: Code, identifier: int, body: bytes) -> bytes:
    length = _HEADER.size + len(body)
    if length > LARGEST:
        raise Unencodable(f"a packet of {length} octets; {LARGEST} are possible")
    return struct.pack("!BBH", code, identifier, length)


def _parts(datagram: bytes) -> tuple[bytes, bytes, bytes]:
    """Code, identifier and length; authenticator; attributes. What follows the length is padding (RFC 2865)."""
    if len(datagram) < _HEADER.size:
        raise Refused(Fault.MALFORMED)
    length = datagram[2] << 8 | datagram[3]
    if not _HEADER.size <= length <= min(len(datagram), LARGEST):
        raise Refused(Fault.MALFORMED)
    return datagram[:4], datagram[4:20], datagram[20:length]


def _split(body: bytes) -> tuple[list[tuple[int, bytes]], int | None]:
    """The attributes, and where the Message-Authenticator begins, if there is one."""
    attributes: list[tuple[int, bytes]] = []
    signature_at = None
    at, end = 0, len(body)
    while at < end:
        length = body[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:
            raise Refused(Fault.MALFORMED)
        if body[at] == _MESSAGE_AUTHENTICATOR:
            if signature_at is not None or length != len(_UNSIGNED):
                raise Refused(Fault.MALFORMED)
            signature_at = at
        attributes.append((body[at], body[at + 2 : at + length]))
        at += length
    return attributes, signature_at


def _signed(head: bytes, authenticator: bytes, body: bytes, at: int, secret: bytes) -> bytes:
    """`body` with the Message-Authenticator at offset `at` filled in."""
    empty = body[: at + 2] + _NOTHING + body[at + 18 :]
    return body[: at + 2] + hmac.digest(secret, head + authenticator + empty, "md5") + body[at + 18 :]


def _check_signature(head: bytes, authenticator: bytes, body: bytes, at: int, secret: bytes) -> None:
    if not hmac.compare_digest(_signed(head, authenticator, body, at, secret), body):
        raise Refused(Fault.WRONG_MESSAGE_AUTHENTICATOR)


def _md5(octets: bytes) -> bytes:
    return hashlib.md5(octets, usedforsecurity=False).digest()
