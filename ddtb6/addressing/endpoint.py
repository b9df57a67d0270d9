# SPDX-License-Identifier: GPL-2.0-or-later
"""Outer endpoints, and which tunnel type a request can really get.

Source: RFC 5572 section 2.1 (NAT discovery compares the claimed address with the observed one).
Not here: inner addresses and pools (`addressing.pool`).
"""

from __future__ import annotations

import enum
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

    UDP = "udp"
    TCP = "tcp"


class Encapsulation(enum.Enum):
    """Tunnel types of RFC 5572 section 7 as they are written on the wire."""

    V6V4 = "v6v4"
    V6UDPV4 = "v6udpv4"
    V6ANYV4 = "v6anyv4"
    V4V6 = "v4v6"


class Link(NamedTuple):
    """The path one negotiation runs over; its identity for as long as the negotiation lives."""

    carrier: Carrier
    local: Endpoint
    remote: Endpoint
