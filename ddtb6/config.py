# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: TOML in, frozen dataclasses out.

Every field has its documentation (meaning, unit) as docstring and its default beside it. Unknown keys are errors, and
all errors of a file are reported together, each with its key.
Not here: whether the machine can do what is configured (`doctor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Pool


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """[server]"""

    state: Path = Path("/var/lib/ddtb6")
    """Directory of the database. Must be writable by the daemon, and by nobody else."""
    control: Path = Path("/run/ddtb6/control")
    """Unix socket on which `ddtb6` (the tool) talks to the daemon. Its file mode is the permission."""
    realm: str = "ddtb6"
    """Realm of DIGEST-MD5, at most 24 characters. Part of every stored DIGEST secret: changing it voids them all."""


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """[listen]"""

    udp: tuple[Endpoint, ...] = (Endpoint("0.0.0.0", 3653), Endpoint("::", 3653))
    """UDP addresses for signalling and tunnelled packets."""
    tcp: tuple[Endpoint, ...] = (Endpoint("0.0.0.0", 3653), Endpoint("::", 3653))
    """TCP addresses for signalling."""


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """[auth]"""

    chain: tuple[str, ...] = ("local",)
    """Who judges log-ins, in this order: `local` (users of `ddtb6 user`), `anonymous` (anybody gets one address)."""
    mechanisms: tuple[str, ...] = ("DIGEST-MD5", "PLAIN", "ANONYMOUS")
    """SASL mechanisms that may be offered; offered are those that somebody in the chain can judge."""


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """[tunnel]"""

    mtu: int = 1280
    """Largest inner packet in octets, 1280 to 65507. Clients' set-up scripts use 1280 whatever is said here."""
    keepalive: int = 30
    """Seconds between a client's keepalives, as told to it; 0: none are asked for."""
    idle_limit: int = 180
    """Seconds of silence after which a tunnel is taken down; 0: never. At least 5 keepalives are always allowed for."""
    lifetime: int = 604800
    """Told to the client as it stands; clients read it as minutes, as seconds, or not at all."""
    resolver: IPv6Address | None = None
    """Recursive DNS resolver told to clients."""
    domain: str = ""
    """Clients are told the host name USER.DOMAIN; empty: none."""


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """[limits]"""

    negotiations: int = 60000
    """Negotiations under way at once, over all sources."""
    per_source_rate: float = 5.0
    """New negotiations a second that one source (IPv4 address, IPv6 /64) may begin, on average."""
    per_source_burst: int = 40
    """New negotiations that one source may begin at once."""
    overall_rate: float = 5000.0
    """New negotiations a second over all sources."""
    per_source_tunnels: int = 64
    """Live tunnels from one source."""
    negotiation_timeout: float = 60.0
    """Seconds that a client may stay silent between two messages of a negotiation."""


@dataclass(frozen=True, slots=True)
class DataPlaneConfig:
    """[dataplane]"""

    kind: str = "auto"
    """`auto` (utun where the module is loaded, else tun), `utun`, `tun`, or `memory` (carries nothing; for tests)."""
    device: str = "ddtb6"
    """Name of the network device."""


@dataclass(frozen=True, slots=True)
class FirewallConfig:
    """[firewall]"""

    backend: str = "auto"
    """`auto`, `nft`, `iptables` or `none`."""
    signalling_rate: int = 50
    """Signalling datagrams a second that one source may send before the kernel drops them; 0: no limit."""


@dataclass(frozen=True, slots=True)
class WebConfig:
    """[web]"""

    listen: str = "tcp:port=8653:interface=127.0.0.1"
    """Twisted endpoint string of the status page; empty: none."""


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration."""

    server: ServerConfig = ServerConfig()
    listen: ListenConfig = ListenConfig()
    auth: AuthConfig = AuthConfig()
    tunnel: TunnelConfig = TunnelConfig()
    limits: LimitsConfig = LimitsConfig()
    dataplane: DataPlaneConfig = DataPlaneConfig()
    firewall: FirewallConfig = FirewallConfig()
    web: WebConfig = WebConfig()
    pools: Mapping[str, Pool] = field(default_factory=dict)
    """[pool.NAME]"""
