# SPDX-License-Identifier: GPL-2.0-or-later
"""What the client program is told, and what it tells: values, and the machine it runs on as a role.

Not here: the command line (`cli.connect`), what is done (`program`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ddtb6.addressing.endpoint import Carrier, Encapsulation
from ddtb6.tsp.messages import Offer

PORT = 3653
"""IANA's, for UDP and TCP."""
METRIC = 2048
"""Of the default route into the tunnel. Larger than what kernels and network managers use, so native IPv6 wins."""


class Exit(enum.IntEnum):
    """Exit codes of the program."""

    OK = 0
    """Ended by a signal after its work, or what was asked for once is done."""
    REFUSED = 1
    """The broker answered, and it came to nothing."""
    USAGE = 2
    """Wrong options, or this machine lacks what is needed."""
    NO_ANSWER = 3
    """The broker does not answer, or no longer."""


class Action(enum.Enum):
    """What is wanted of the broker."""

    TUNNEL = "tunnel"
    INFO = "info"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """A whole command line, the password left out."""

    server: str
    """The broker as the person wrote it; part of what DIGEST-MD5 proves."""
    host: str
    """A name or an IPv4 address: what can be carried today runs over IPv4."""
    port: int = PORT
    user: str | None = None
    """None: anonymous."""
    action: Action = Action.TUNNEL
    encapsulation: Encapsulation = Encapsulation.V6UDPV4
    prefix_length: int | None = None
    """Of the prefix asked for; None: an address only."""
    device: str = "tsp0"
    """Name of the TUN device."""
    lan: str | None = None
    """A device that gets the first /64 of the prefix."""
    mechanism: str | None = None
    """SASL mechanism, upper case; None: DIGEST-MD5, or ANONYMOUS without a user."""
    allow_plain: bool = False
    carriers: tuple[Carrier, ...] = (Carrier.UDP, Carrier.TCP)
    """In the order they are tried."""
    keepalive: int = 30
    """Seconds between keepalives that the broker is asked for; what it answers counts. 0: none."""
    default_route: bool = True
    metric: int = METRIC
    once: bool = False
    """Do not try again, neither before nor after the tunnel is up."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something a person or a script wants to know."""

    name: str
    """Stable, for scripts: asking, no-answer, refused, redirected, waiting, up, hint, lost, down, info, deleted or
    failed."""
    text: str
    """A sentence, printable."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Of JSON types only."""


Report = Callable[[Event], None]


class Machine(Protocol):
    """The device, its addresses and routes: what is changed on this machine."""

    def open(self) -> int:
        """Make the device; its non-blocking descriptor reads and writes a packet at a time. Raises DataPlaneError."""

    def configure(self, offer: Offer) -> None:
        """Make addresses and routes those of `offer`, and remove those of another. Raises DataPlaneError."""

    def close(self) -> None:
        """Take everything back. Never raises."""

    def local_address(self, remote: str) -> str | None:
        """The IPv4 address that packets to `remote` leave from; None when there is no way to it."""

    def forwarding(self) -> bool:
        """Whether this machine forwards IPv6 at all."""
