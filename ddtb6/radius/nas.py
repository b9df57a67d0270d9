# SPDX-License-Identifier: GPL-2.0-or-later
"""What this broker says of itself and of a client's path, alike in log-ins and in accounting.

Source: RFC 2865 sections 5.4 to 5.8 and 5.30 to 5.32, 2868 section 3, 3162 section 2.1. RADIUS has no number for IPv6
in UDP: Tunnel-Type says IP-in-IP (12), and Connect-Info what it is.
Not here: who logs in (`radius.access`), what was carried (accounting).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.ports import Clock
from ddtb6.radius.attributes import Attribute, clip

TICKS = 1 << 16
"""Sessions that can be named in a second."""
_WORD = 0xFFFF_FFFF


class SessionNames:
    """Makes names of sessions to come, for log-ins: an Access-Request has the Acct-Session-Id of what may follow it.

    They are times, so that a restarted broker needs no memory of those before, and above every id of the store.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> int:
        """One that was never given out, of 64 bits."""
        self._last = max(self._last + 1, int(self._clock.epoch() * TICKS))
        return self._last


def naming(name: int) -> list[Attribute]:
    """Acct-Session-Id, 16 hexadecimal digits never used again whatever restarts, and a NAS-Port that goes with it."""
    return [("Acct-Session-Id", f"{name:016x}"), ("NAS-Port", name & _WORD)]


@dataclass(frozen=True, slots=True)
class Nas:
    """The broker as a RADIUS client."""

    identifier: str
    """NAS-Identifier; not empty."""
    address: IPv4Address | None = None
    """NAS-IP-Address."""
    address6: IPv6Address | None = None
    """NAS-IPv6-Address."""
    port_id: str = ""
    """NAS-Port-Id: the network device of the tunnels."""
    calling_port: bool = True
    """Calling-Station-Id has the client's port and not only its address."""
    framed_protocol: int = 0
    """Framed-Protocol, such as 1 for PPP; 0: not sent."""

    def identity(self) -> list[Attribute]:
        """Who asks."""
        attributes: list[Attribute] = [("NAS-Identifier", clip(self.identifier))]
        if self.address is not None:
            attributes.append(("NAS-IP-Address", self.address))
        if self.address6 is not None:
            attributes.append(("NAS-IPv6-Address", self.address6))
        return attributes

    def service(self, service: str = "Framed-User") -> list[Attribute]:
        """What kind of service it is about."""
        attributes: list[Attribute] = [("Service-Type", service), ("NAS-Port-Type", "Virtual")]
        if self.port_id:
            attributes.append(("NAS-Port-Id", clip(self.port_id)))
        if self.framed_protocol:
            attributes.append(("Framed-Protocol", self.framed_protocol))
        return attributes

    def path(self, local: Endpoint, remote: Endpoint, connect_info: str) -> list[Attribute]:
        """Between which outer ends; `connect_info` is text for people such as ``v6udpv4 TSP/2.0.1``."""
        return [
            ("Calling-Station-Id", str(remote) if self.calling_port else remote.address),
            ("Called-Station-Id", str(local)),
            ("Tunnel-Type", "IP-in-IP"),
            ("Tunnel-Medium-Type", "IPv4" if remote.family == 4 else "IPv6"),
            ("Tunnel-Client-Endpoint", remote.address),
            ("Tunnel-Server-Endpoint", local.address),
            ("Connect-Info", clip(connect_info)),
        ]
