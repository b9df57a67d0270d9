# SPDX-License-Identifier: GPL-2.0-or-later
"""The port of what carries the packets.

Invariants: as in `ports`.
Not here: the implementations and their choice (`dataplane`), what a tunnel is (`tunnel.spec`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters, Observed, TunnelId, TunnelSpec


class DataPlaneError(Exception):
    """The data plane refused; the message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class PlaneLost:
    """The device is gone or was reset; everything must be reconciled."""

    why: str


PlaneEvent = PlaneLost


ECHO_IDENTIFIER = 0x6464
"""Of the echo requests that we send; replies with another one are somebody else's."""


class Carried(NamedTuple):
    """Counts of all tunnels together. *In* is from clients, *out* is to them."""

    octets_in: int
    octets_out: int
    packets_in: int
    packets_out: int


class DataPlane(Protocol):
    """Carries the packets of tunnels. One conformance suite runs over every implementation.

    Verbs take effect in the order in which they were called, also while earlier ones have not been answered.
    """

    @property
    def name(self) -> str:
        """``utun``, ``tun`` or ``memory``."""

    @property
    def encapsulations(self) -> frozenset[Encapsulation]:
        """What it can carry."""

    @property
    def outlives(self) -> bool:
        """Its tunnels stand and count while the process does not run; `dump` then shows them to the next one."""

    async def start(self) -> None:
        """Make the device and its routes; keeps what is there already. Raises DataPlaneError."""

    async def stop(self) -> None:
        """Let go. Tunnels that live in the kernel stay there."""

    async def raise_tunnel(self, spec: TunnelSpec) -> None:
        """Make reality equal to `spec`; the same spec twice is success, the same id with another spec replaces.

        A tunnel that is replaced keeps its counters.

        Raises DataPlaneError, with nothing changed, when another tunnel has the endpoint, the address or part of the
        prefix.
        """

    async def raise_tunnels(self, specs: Sequence[TunnelSpec]) -> Mapping[TunnelId, str]:
        """As `raise_tunnel` with each of a hundred or so; why, for those refused. Raises DataPlaneError if none can."""

    async def lower_tunnel(self, tunnel: TunnelId) -> Counters | None:
        """Remove it and return its final counters; None when there is no such tunnel."""

    async def dump(self, tunnels: Collection[TunnelId] | None = None) -> Sequence[Observed]:
        """What exists: all, or those of `tunnels` that do."""

    def strays(self) -> Mapping[Refusal, int]:
        """Packets refused that belong to no tunnel, since start."""

    def carried(self) -> Carried | None:
        """What all tunnels together have carried, at once and roughly, to show how much it is now.

        It counts from some beginning, which may be another one next time. None: it cannot be read.
        """

    def send_echo(self, source: bytes, destination: bytes, rest: bytes) -> bool:
        """Send an ICMPv6 echo request from a broker address to a client's, 16 octets each; whether it went off.

        `rest` is what is behind the checksum, and begins with `ECHO_IDENTIFIER`. It must not raise.
        """

    def hear_echoes(self, listener: Callable[[bytes, bytes], bool]) -> None:
        """`listener` gets each echo reply with that identifier: the sender and `rest`. It says whether it was its own.

        To be called once, after the start. Raises DataPlaneError where echoes cannot be heard.
        """

    def subscribe(self, listener: Callable[[PlaneEvent], None]) -> None:
        """`listener` is called on the reactor thread; it must not raise."""


class UserSpacePlane(DataPlane, Protocol):
    """A data plane that is handed the datagrams of the signalling socket."""

    def feed(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """A datagram whose first nibble is 6, as it came. Never raises, never answers strangers."""

    def send_with(self, transmit: Callable[[bytes, Endpoint, Endpoint], bool]) -> None:
        """Give it ``transmit(datagram, local, remote) -> taken`` of the signalling socket."""
