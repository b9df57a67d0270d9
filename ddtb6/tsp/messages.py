# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything either side of a TSP conversation can say, as values.

Source: RFC 5572 sections 4.4 to 4.7; the shapes that deployed clients send and read.
Not here: bytes (`codec`), XML (`document`), what they lead to (`negotiation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.tsp.status import TspError

# --- client to broker ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """``VERSION=2.0.2``. Opens a negotiation."""

    text: str
    """Dotted decimal, such as ``2.0.2``."""

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(map(int, self.text.split(".")))


@dataclass(frozen=True, slots=True)
class Authenticate:
    """``AUTHENTICATE mechanism``; the mechanism in upper case."""

    mechanism: str


@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The bytes a SASL mechanism is waiting for, line end removed."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """ICMPv6 echo towards `address` every `interval` seconds; 0 means none are sent."""

    interval: int
    address: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """A tunnel is asked for; from the holder of one, it is an update (RFC 5572 4.7.1)."""

    encapsulation: Encapsulation
    client_address: str
    """What the client believes its outer address is: canonical text, IPv4 or (v4v6) IPv6."""
    proxy: bool = False
    """The tunnel ends on another machine than the one that speaks TSP."""
    prefix_length: int | None = None
    """The prefix asked for; None: none asked for."""
    keepalive: int | None = None
    """The interval wished for, in seconds; None: the client sends none."""
    name_servers: tuple[str, ...] = ()
    """Names or addresses for the reverse zone of the prefix."""


@dataclass(frozen=True, slots=True)
class Accept:
    """The client takes the offer."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The client does not take the offer."""


@dataclass(frozen=True, slots=True)
class Info:
    """The client asks what tunnel its account has."""


@dataclass(frozen=True, slots=True)
class Delete:
    """The client asks to take its account's tunnel down."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Something that could not be read, with what to answer."""

    error: TspError


Request = Version | Authenticate | SaslResponse | Create | Accept | Reject | Info | Delete | Malformed

# --- broker to client ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capability:
    """The CAPABILITY line: what this broker can carry and verify, in the order it is written."""

    encapsulations: tuple[Encapsulation, ...]
    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """What the ``info`` document of a reply to create says."""

    encapsulation: Encapsulation
    lifetime: int
    """Written as it stands. Minutes by the RFC, seconds to the BSD clients: a number harmless in both readings."""
    server_outer: str
    server_inner: IPv6Address
    client_outer: str
    client_inner: IPv6Address
    prefix: IPv6Network | None = None
    name: str | None = None
    """Host name of the client, where the broker has a domain."""
    resolver: IPv6Address | None = None
    """Recursive resolver for the client; an empty address is written where there is none (gogoCLIENT crashes)."""
    keepalive: Keepalive | None = None
    """Complete, or absent: an interval without an address makes gogoCLIENT reconnect without delay."""
