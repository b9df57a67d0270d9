# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tunnel is: complete desired state as a value, and what a data plane reports of it.

Not here: how it is carried (`dataplane`), who holds the addresses (`store`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import NewType

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.tunnel.reasons import Refusal

TunnelId = NewType("TunnelId", int)
"""1 to 2**32 - 1. The id of the session that the tunnel carries; never reused, never in an interface name."""


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """Everything a data plane must know to carry one tunnel."""

    id: TunnelId
    encapsulation: Encapsulation
    local: Endpoint
    """Our outer end: the address and port the client wrote to; replies leave from it."""
    remote: Endpoint
    """The client's outer end as observed. Only an authenticated negotiation changes it."""
    address: IPv6Address
    """The client's inner address (a /128)."""
    prefix: IPv6Network | None
    """The delegated prefix routed to the client, if it has one."""
    mtu: int
    """Largest inner packet in octets, 1280 to 65507."""
    routes: tuple[IPv6Network, ...] = ()
    """Further networks routed to the client; sources in them are its own."""

    @property
    def inner(self) -> tuple[IPv6Network, ...]:
        """All that is inside: the address, the prefix if there is one, the routes."""
        return (IPv6Network(self.address), *((self.prefix,) if self.prefix else ()), *self.routes)

    @property
    def inner_text(self) -> str:
        """The same, to be read."""
        return ", ".join(map(str, (self.address, *self.inner[1:])))


@dataclass(frozen=True, slots=True)
class Counters:
    """Inner packets and octets (IPv6 header included) of one tunnel. *In* is from the client, *out* is to it."""

    packets_in: int = 0
    octets_in: int = 0
    packets_out: int = 0
    octets_out: int = 0
    refused: Mapping[Refusal, int] = field(default_factory=dict)

    def __add__(self, other: Counters) -> Counters:
        refused = dict(self.refused)
        for reason, count in other.refused.items():
            refused[reason] = refused.get(reason, 0) + count
        return Counters(
            self.packets_in + other.packets_in,
            self.octets_in + other.octets_in,
            self.packets_out + other.packets_out,
            self.octets_out + other.octets_out,
            refused,
        )

    def covers(self, other: Counters) -> bool:
        """Whether no count of `other` is larger: then this may be the same counters, read later."""
        return (
            self.packets_in >= other.packets_in
            and self.octets_in >= other.octets_in
            and self.packets_out >= other.packets_out
            and self.octets_out >= other.octets_out
            and all(self.refused.get(reason, 0) >= count for reason, count in other.refused.items())
        )


NOTHING_COUNTED = Counters()


@dataclass(frozen=True, slots=True)
class Observed:
    """One tunnel as a data plane has it."""

    spec: TunnelSpec
    counters: Counters
    last_seen: float | None
    """Monotonic seconds of the last valid packet from the client; None before the first."""
