# SPDX-License-Identifier: GPL-2.0-or-later
"""ICMPv6 messages that a router answers with, as bytes; and how many of them a second.

Source: RFC 4443, section 2.4 for what may be answered at all.
Invariants: an error is at most 1280 octets, and never answers an error, a redirect, a multicast or a source that is not
one host.
Not here: when to answer (`dataplane.peers`, `dataplane.memory`).
"""

from __future__ import annotations

from collections.abc import Callable

from ddtb6.broker.planes import ECHO_IDENTIFIER

ICMP6 = 58
DESTINATION_UNREACHABLE, PACKET_TOO_BIG, TIME_EXCEEDED = 1, 2, 3
ECHO_REQUEST, ECHO_REPLY, REDIRECT = 128, 129, 137
ADDRESS_UNREACHABLE = 3
"""Code of DESTINATION_UNREACHABLE."""

HEADER = 40
"""Octets of an IPv6 header."""
SMALLEST_MTU = 1280
"""RFC 8200 section 5; also the most that an error message may fill."""

_IDENTIFIER = ECHO_IDENTIFIER.to_bytes(2, "big")
_FRAGMENT = 44
_EXTENSIONS = frozenset((0, 43, 60, _FRAGMENT))
"""Hop-by-hop, routing, destination options, fragment: what may stand before the upper layer."""
_EXTENSIONS_FOLLOWED = 8


def checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """Of an ICMPv6 message whose checksum field is zero; RFC 8200 section 8.1. Addresses are 16 octets."""
    pseudo = source + destination + len(body).to_bytes(4, "big") + bytes((0, 0, 0, ICMP6))
    # 2**16 is 1 modulo 2**16 - 1, so the remainder of the whole number is the one's complement sum of its words.
    return 0xFFFF - int.from_bytes(pseudo + body + bytes(len(body) % 2), "big") % 0xFFFF


def message(source: bytes, destination: bytes, kind: int, code: int, rest: bytes) -> bytes:
    """A whole packet, hop limit 64; `rest` is everything after the checksum field."""
    total = checksum(source, destination, bytes((kind, code, 0, 0)) + rest)
    head = b"\x60\0\0\0" + (4 + len(rest)).to_bytes(2, "big") + bytes((ICMP6, 64))
    return head + source + destination + bytes((kind, code)) + total.to_bytes(2, "big") + rest


def error(source: bytes, kind: int, code: int, word: int, about: bytes) -> bytes | None:
    """The error from `source` to the sender of the packet `about`; None when RFC 4443 section 2.4(e) forbids it.

    `word` is the message's 32-bit field: the MTU of PACKET_TOO_BIG, else 0. `about` has a whole IPv6 header.
    """
    asker = about[8:24]
    if about[24] == 0xFF and kind != PACKET_TOO_BIG:
        return None
    # Sources that are multicast, link-local, unspecified, loopback or v4-mapped cannot be answered from here.
    if asker[0] == 0xFF or (asker[0] == 0xFE and asker[1] & 0xC0 == 0x80) or asker[:10] == bytes(10):
        return None
    if _is_error(about):
        return None
    return message(source, asker, kind, code, word.to_bytes(4, "big") + about[: SMALLEST_MTU - HEADER - 8])


def echo_reply(request: bytes) -> bytes | None:
    """The reply to a packet that is an echo request; None when it is anything else. Checksums are not judged."""
    if request[6] != ICMP6 or len(request) < HEADER + 8 or request[HEADER] != ECHO_REQUEST:
        return None
    return message(request[24:40], request[8:24], ECHO_REPLY, 0, request[HEADER + 4 :])


def heard(packet: bytes, listener: Callable[[bytes, bytes], bool]) -> bool:
    """Whether `packet`, which has a whole IPv6 header, is an echo reply that `listener` takes."""
    return (
        len(packet) >= HEADER + 8
        and packet[HEADER] == ECHO_REPLY
        and packet[HEADER + 4 : HEADER + 6] == _IDENTIFIER
        and listener(packet[8:24], packet[HEADER + 4 :])
    )


def deaf(source: bytes, rest: bytes) -> bool:
    """The listener where nobody listens."""
    return False


def _is_error(packet: bytes) -> bool:
    following, at = packet[6], HEADER
    for _ in range(_EXTENSIONS_FOLLOWED):
        if following not in _EXTENSIONS or at + 8 > len(packet):
            break
        size = 8 if following == _FRAGMENT else 8 + 8 * packet[at + 1]
        if following == _FRAGMENT and int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF8:
            return True  # not the first fragment: what it is cannot be seen, and one answer to the first is enough
        following, at = packet[at], at + size
    if following != ICMP6:
        return following in _EXTENSIONS
    return at >= len(packet) or packet[at] < 128 or packet[at] == REDIRECT


class RateLimit:
    """A token bucket: `burst` at once, `rate` a second after that; RFC 4443 section 2.4(f)."""

    __slots__ = ("_burst", "_filled", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = self._tokens = float(burst)
        self._filled = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may go at `now` (monotonic seconds)."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
