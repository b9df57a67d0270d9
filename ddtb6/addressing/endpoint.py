# SPDX-License-Identifier: GPL-2.0-or-later
"""Outer endpoints, and which tunnel type a request can really get.

Source: RFC 5572 section 2.1 (NAT discovery compares the claimed address with the observed one).
Not here: inner addresses and pools (`addressing.pool`).
"""

from __future__ import annotations

import enum
from ipaddress import ip_network
from typing import NamedTuple


class Endpoint(NamedTuple):
    """One end of an outer path: a numeric IPv4 or IPv6 address and a UDP or TCP port.

    A plain ``(address, port)`` tuple as the socket layer hands it out compares and hashes equal.
    """

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4


class Carrier(enum.Enum):
    """What carried the signalling."""

    __hash__ = object.__hash__  # Enum's own is a Python function; links are looked up for every datagram.

    UDP = "udp"
    TCP = "tcp"


class Encapsulation(enum.Enum):
    """Tunnel types of RFC 5572 section 7 as they are written on the wire."""

    __hash__ = object.__hash__  # Enum's own is a Python function; every log-in looks members up.

    V6V4 = "v6v4"
    V6UDPV4 = "v6udpv4"
    V6ANYV4 = "v6anyv4"
    V4V6 = "v4v6"


class Link(NamedTuple):
    """The path one negotiation runs over; its identity for as long as the negotiation lives."""

    carrier: Carrier
    local: Endpoint
    remote: Endpoint


def source_of(endpoint: Endpoint) -> str:
    """What counts as one source where limits are kept: the IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in endpoint.address:
        return endpoint.address
    return str(ip_network((endpoint.address.partition("%")[0], 64), strict=False))


def translated(claimed: str, observed: Endpoint) -> bool:
    """The NAT verdict: the client believes it has another address than the one we see (RFC 5572 section 2.1).

    Both are canonical text: one as `tsp.document` reads it, the other as the socket layer writes it.
    """
    return claimed != observed.address.partition("%")[0]


def resolve(wanted: Encapsulation, link: Link, carried: frozenset[Encapsulation], *, nat: bool) -> Encapsulation | None:
    """The tunnel type that a request over `link` really gets out of what a data plane carries; None: none (303).

    v6anyv4 becomes v6udpv4 with or without NAT where that can be had: firewalls often drop protocol 41. A v6udpv4
    tunnel runs over the very path of the signalling, so it needs UDP over IPv4. A v6v4 tunnel runs between the same two
    addresses without ports, so there must be no NAT (RFC 5572 section 2.1), and any carrier will do.
    """
    either = wanted is Encapsulation.V6ANYV4
    if link.remote.family != 4:
        return None
    if (either or wanted is Encapsulation.V6UDPV4) and link.carrier is Carrier.UDP and Encapsulation.V6UDPV4 in carried:
        return Encapsulation.V6UDPV4
    if (either or wanted is Encapsulation.V6V4) and not nat and Encapsulation.V6V4 in carried:
        return Encapsulation.V6V4
    return None


def ends(encapsulation: Encapsulation, link: Link) -> tuple[Endpoint, Endpoint]:
    """Our outer end and the client's of a tunnel that was asked for over `link`; the ports of protocol 41 are 0."""
    if encapsulation is Encapsulation.V6V4:
        return link.local._replace(port=0), link.remote._replace(port=0)
    return link.local, link.remote
