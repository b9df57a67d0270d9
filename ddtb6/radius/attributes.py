# SPDX-License-Identifier: GPL-2.0-or-later
"""RADIUS attributes: names and values to octets, and what a peer sent back to values of the right type.

pyrad keeps the dictionary (the file `dictionary` beside this module) and codes the plain types. Coded here: IPv6 types,
whose short forms pyrad 2.1 does not know, and octets, which pyrad converts when they look like a number.
Source: RFC 2865 section 5, 3162, 4818, 6911, 8044.
Invariant: whatever a peer sends, reading it gives a value or raises `Malformed`.
Not here: packets and signatures (`radius.packets`), what the attributes mean to the broker (`radius.access`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import TypeVar

from pyrad import tools
from pyrad.dictionary import Dictionary
from pyrad.packet import AuthPacket

_T = TypeVar("_T")

LONGEST = 253
"""Octets of an attribute's value."""

Value = str | int | bytes | IPv4Address | IPv6Address | IPv6Network
Attribute = tuple[str, Value]
"""A name of the dictionary and a value: text for strings and for named integers, octets for anything as it stands."""

DICTIONARY = Dictionary(str(Path(__file__).with_name("dictionary")))
CODES: dict[str, int] = {name: each.code for name, each in DICTIONARY.attributes.items()}
NAMES: dict[int, str] = {code: name for name, code in CODES.items()}


class Unencodable(ValueError):
    """A value that does not fit into its attribute, or attributes that do not fit into a packet."""


class Malformed(ValueError):
    """An attribute of a peer that is not what its type says, or comes too often; the text is a sentence for the log."""


def encode(attributes: Iterable[Attribute], secret: bytes, authenticator: bytes) -> bytes:
    """`attributes` as they stand in a packet, those of one kind together; empty ones are left out (RFC 2865 section 5).

    User-Password (octets of 1 to 128) is hidden with `secret` and the request `authenticator`. Raises Unencodable.
    """
    packet = AuthPacket(id=0, secret=secret, authenticator=authenticator, dict=DICTIONARY)
    for name, value in attributes:
        raw = _raw(packet, name, value)
        if len(raw) > LONGEST:
            raise Unencodable(f"{name} is longer than {LONGEST} octets")
        if raw:
            packet.setdefault(CODES[name], []).append(raw)
    encoded: bytes = packet.RequestPacket()[20:]
    return encoded


def prefix_octets(prefix: IPv6Network) -> bytes:
    """The shortest form of RFC 3162 section 2.3."""
    length = prefix.prefixlen
    return bytes((0, length)) + prefix.network_address.packed[: (length + 7) // 8]


def clip(text: str, limit: int = LONGEST) -> str:
    """`text`, cut where it has more than `limit` octets of UTF-8."""
    octets = text.encode()
    return text if len(octets) <= limit else octets[:limit].decode(errors="ignore")


def _raw(packet: AuthPacket, name: str, value: Value) -> bytes:
    if name == "User-Password":
        if not isinstance(value, bytes) or not 1 <= len(value) <= 128:
            raise Unencodable("User-Password must have 1 to 128 octets")
        hidden: bytes = packet.PwCrypt(value)
        return hidden
    match value:
        case bytes():
            return value
        case IPv4Address() | IPv6Address():
            return value.packed
        case IPv6Network():
            return prefix_octets(value)
    kind = DICTIONARY.attributes[name]
    if isinstance(value, str) and kind.type == "string":
        return value.encode()
    if kind.values.HasForward(value):
        named: bytes = kind.values.GetForward(value)
        return named
    try:
        encoded: bytes = tools.EncodeAttr(kind.type, value)
    except (TypeError, ValueError, struct.error):
        raise Unencodable(f"{name} cannot be {value!r}") from None
    return encoded


class Received:
    """The attributes of a packet that a peer sent, by name; what the dictionary does not know is only counted."""

    __slots__ = ("_by_code",)

    def __init__(self, attributes: Iterable[tuple[int, bytes]] = ()) -> None:
        """Of (code, octets), in the order of the packet."""
        self._by_code: dict[int, list[bytes]] = {}
        for code, raw in attributes:
            self._by_code.setdefault(code, []).append(raw)

    def __contains__(self, name: str) -> bool:
        return CODES[name] in self._by_code

    def __repr__(self) -> str:
        return f"Received({', '.join(self.names())})"

    def names(self) -> Sequence[str]:
        """Each attribute once, in order; ``Attr-N`` for those that the dictionary does not know."""
        return [NAMES.get(code, f"Attr-{code}") for code in self._by_code]

    def octets(self, name: str) -> tuple[bytes, ...]:
        """All of that name, as they came."""
        return tuple(self._by_code.get(CODES[name], ()))

    def texts(self, name: str) -> tuple[str, ...]:
        """All of that name. Raises Malformed for what is empty or not UTF-8."""
        texts = []
        for raw in self.octets(name):
            text = tools.DecodeAttr("string", raw)
            if not text or not isinstance(text, str):
                raise Malformed(f"{name} is empty or not UTF-8")
            texts.append(text)
        return tuple(texts)

    def text(self, name: str) -> str | None:
        """The only one. Raises Malformed, also for a second one."""
        return self._only(name, self.texts(name))

    def integer(self, name: str) -> int | None:
        """The only one, of 32 bits without a sign (a date is one, too). Raises Malformed, also for a second one."""
        raw = self._only(name, self.octets(name))
        if raw is None:
            return None
        try:
            number: int = tools.DecodeAttr("integer", raw)
        except (ValueError, struct.error):
            raise Malformed(f"{name} has {len(raw)} octets instead of 4") from None
        return number

    def address4(self, name: str) -> IPv4Address | None:
        """The only one. Raises Malformed, also for a second one."""
        raw = self._only(name, self.octets(name))
        if raw is None:
            return None
        if len(raw) != 4:
            raise Malformed(f"{name} has {len(raw)} octets instead of 4")
        return IPv4Address(raw)

    def addresses(self, name: str) -> tuple[IPv6Address, ...]:
        """All of that name. Raises Malformed."""
        if any(len(raw) != 16 for raw in self.octets(name)):
            raise Malformed(f"{name} has not 16 octets")
        return tuple(IPv6Address(raw) for raw in self.octets(name))

    def address(self, name: str) -> IPv6Address | None:
        """The only one. Raises Malformed, also for a second one."""
        return self._only(name, self.addresses(name))

    def prefixes(self, name: str) -> tuple[IPv6Network, ...]:
        """All of that name, whatever number of octets their prefix has (RFC 3162 section 2.3). Raises Malformed."""
        return tuple(_prefix(name, raw) for raw in self.octets(name))

    def interface_id(self, name: str) -> int | None:
        """The only one, as a number of 64 bits. Raises Malformed, also for a second one."""
        raw = self._only(name, self.octets(name))
        if raw is None:
            return None
        if len(raw) != 8:
            raise Malformed(f"{name} has {len(raw)} octets instead of 8")
        return int.from_bytes(raw)

    @staticmethod
    def _only(name: str, values: Sequence[_T]) -> _T | None:
        if len(values) > 1:
            raise Malformed(f"{name} comes {len(values)} times")
        return values[0] if values else None


def _prefix(name: str, raw: bytes) -> IPv6Network:
    if not 2 <= len(raw) <= 18:
        raise Malformed(f"{name} has {len(raw)} octets instead of 2 to 18")
    length, given = raw[1], raw[2:]
    if length > 128:
        raise Malformed(f"{name} has the length {length}")
    if len(given) * 8 < length:
        raise Malformed(f"{name} of length {length} has only {len(given)} octets")
    try:
        return IPv6Network((given.ljust(16, b"\0"), length))
    except ValueError:
        raise Malformed(f"{name} has bits set after its length of {length}") from None
