# SPDX-License-Identifier: GPL-2.0-or-later
"""What a configuration can say: one dataclass for each section.

Every field has its documentation (meaning, unit) as docstring, its default beside it, and its range as metadata
`check`; `config.documentation` gives all of that to whoever writes manuals and samples.
Not here: TOML and what holds between several keys (`config.reading`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Pool, Use

AUTHENTICATORS = ("local", "radius", "anonymous")
MECHANISMS = ("DIGEST-MD5", "PLAIN", "ANONYMOUS")
RADIUS_MODES: Mapping[str, str] = {
    "pap": "PLAIN",
    "digest": "DIGEST-MD5",
    "digest-draft": "DIGEST-MD5",
    "ha1": "DIGEST-MD5",
}
"""Which mechanism each way of asking a RADIUS server judges."""

# --- ranges -------------------------------------------------------------------------------------------------------

Check = Callable[[Any], str | None]
"""Gives the sentence that says what is wrong with a value, or None."""


def meant(word: str, choices: Iterable[str]) -> str:
    """The end of a sentence that offers the nearest of `choices`, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _between(low: float, high: float) -> dict[str, Check]:
    return {"check": lambda value: None if low <= value <= high else f"{value} is not between {low} and {high}"}


def _among(*choices: str) -> dict[str, Check]:
    def check(value: str | tuple[str, ...]) -> str | None:
        for each in (value,) if isinstance(value, str) else value:
            if each not in choices:
                return f'"{each}" is not one of {", ".join(choices)}{meant(each, choices)}'
        return _once(value) if isinstance(value, tuple) else None

    return {"check": check}


def _matching(pattern: str, sentence: str) -> dict[str, Check]:
    return {"check": lambda value: None if re.fullmatch(pattern, str(value)) else f'"{value}" {sentence}'}


def _address(value: str) -> str | None:
    try:
        ip_address(value)
    except ValueError:
        return f'"{value}" is not a numeric IPv4 or IPv6 address; names are not looked up'
    return f'"{value}" has a scope; give the address alone' if "%" in value else None


def _networks(values: tuple[str, ...]) -> str | None:
    for each in values:
        try:
            ip_network(each)
        except ValueError:
            return f'"{each}" is not an address or network, such as "192.0.2.1" or "2001:db8::/64"'
    return _once(values)


def _modes(values: tuple[str, ...]) -> str | None:
    sentence = _among(*RADIUS_MODES)["check"](values)
    judged = [RADIUS_MODES[each] for each in values if each in RADIUS_MODES]
    if sentence or len({*judged}) == len(judged):
        return sentence
    return "names two ways to judge DIGEST-MD5; choose one of digest, digest-draft and ha1"


def _interim(value: float) -> str | None:
    return None if value == 0 or 60 <= value <= 86400 else f"{value} is neither 0 nor between 60 and 86400"


def _once(values: tuple[Any, ...]) -> str | None:
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    return f"{twice[0]} is listed twice" if twice else None


# --- sections -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """[server]"""

    state: Path = Path("/var/lib/ddtb6")
    """Directory of the database. Must be writable by the daemon, and by nobody else."""
    control: Path = field(
        default=Path("/run/ddtb6/control"),
        metadata=_matching(r"(?s).{1,100}", "is longer than the 100 characters a unix socket's path may have"),
    )
    """Unix socket on which `ddtb6` (the tool) talks to the daemon. Its file mode is the permission."""
    realm: str = field(
        default="ddtb6",
        metadata=_matching(
            r'[^",\\:\x00-\x20\x7f-\U0010ffff]{1,24}',
            "must have 1 to 24 visible ASCII characters without quote, comma, backslash and colon",
        ),
    )
    """Realm of DIGEST-MD5: up to 24 characters, without quote, comma, backslash and colon.

    It is part of every stored DIGEST secret, so choose it before the first account: changing it voids all of them.
    """
    history: int = field(default=365, metadata=_between(0, 36_500))
    """Days for which it is remembered who had which address when, and from where; 0: for ever."""

    @property
    def database(self) -> Path:
        """The file that has accounts, leases and sessions."""
        return self.state / "ddtb6.sqlite"


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """[listen]

    Where clients reach the broker. Under systemd its sockets are opened by ddtb6.socket, which has to name the same
    addresses.
    """

    udp: tuple[Endpoint, ...] = field(
        default=(Endpoint("0.0.0.0", 3653), Endpoint("::", 3653)), metadata={"check": _once}
    )
    """UDP addresses for signalling and tunnelled packets."""
    tcp: tuple[Endpoint, ...] = field(
        default=(Endpoint("0.0.0.0", 3653), Endpoint("::", 3653)), metadata={"check": _once}
    )
    """TCP addresses for signalling."""


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """[auth]"""

    chain: tuple[str, ...] = field(default=("local",), metadata=_among(*AUTHENTICATORS))
    """Who judges log-ins, in this order: `local`, the accounts of `ddtb6 user`; `radius`, the servers below.

    RADIUS answers for every account, so it goes behind `local`. `anonymous` lets anybody have one address, and takes a
    pool whose use is `anonymous`.
    """
    mechanisms: tuple[str, ...] = field(default=MECHANISMS, metadata=_among(*MECHANISMS))
    """SASL mechanisms that may be offered; offered are those that somebody in the chain can judge.

    PLAIN shows the password to everybody on the way. A list of your own must hold nothing that nobody can judge.
    """


@dataclass(frozen=True, slots=True)
class RadiusConfig:
    """[radius]"""

    order: tuple[str, ...] = field(default=(), metadata={"check": _once})
    """Names of the servers in the order in which they are asked; empty: by name."""
    modes: tuple[str, ...] = field(default=("pap", "digest"), metadata={"check": _modes})
    """How the servers judge: `pap` PLAIN by User-Password, which every server can; DIGEST-MD5 by one of the others.

    These are `digest` (RFC 5090 attributes) and `digest-draft` (206 and 207), which take the policy that comes with
    ddtb6 (freeradius/), or `ha1`: the server hands out MD5(user:realm:password), as good as the password, so only over
    a protected path.
    """
    without_rspauth: bool = False
    """Accept DIGEST-MD5 although the server proved nothing to the client (no Digest-Response-Auth).

    Most clients then give up.
    """
    nas_identifier: str = field(default="", metadata=_matching(r"[ -~]{0,253}", "is not plain text of 253 characters"))
    """NAS-Identifier, at most 253 characters; empty: the name of this host."""
    nas_ip_address: IPv4Address | None = None
    """NAS-IP-Address; empty: not sent."""
    nas_ipv6_address: IPv6Address | None = None
    """NAS-IPv6-Address; empty: not sent."""
    calling_station_port: bool = True
    """Calling-Station-Id is the client's ADDRESS:PORT; false: its address alone."""
    framed_protocol: int = field(default=0, metadata=_between(0, 255))
    """Framed-Protocol, such as 1 for PPP, which many policies look for; 0: not sent."""
    timeout: float = field(default=1.0, metadata=_between(0.05, 60))
    """Seconds until a request is sent again; doubles each time."""
    tries: int = field(default=3, metadata=_between(1, 10))
    """How often a request is sent to one server before the next is asked."""
    patience: float = field(default=15.0, metadata=_between(0.05, 60))
    """Seconds after which a log-in has had no answer, whatever servers are left."""
    dead_time: float = field(default=30.0, metadata=_between(1, 3600))
    """Seconds for which a server that did not answer is not asked, unless it answers Status-Server before."""
    probe_interval: float = field(default=10.0, metadata=_between(1, 3600))
    """Seconds between two Status-Server to such a server."""
    accounting: bool = True
    """Tell the servers that have an `acct_port` of every session: its begin, what it has carried, its end."""
    interim_interval: float = field(default=0.0, metadata={"check": _interim})
    """Seconds between two interim accounting records of a session, 60 at least; 0: none."""
    interim_from: str = field(default="server", metadata=_among("server", "configuration"))
    """Whose interval is kept where the server names one, too: `server` or `configuration`."""


@dataclass(frozen=True, slots=True)
class RadiusServerConfig:
    """[radius.server.NAME], one table for each server"""

    address: str = field(metadata={"check": _address})
    """Numeric IPv4 or IPv6 address."""
    auth_port: int = field(default=1812, metadata=_between(0, 65535))
    """UDP port for log-ins; 0: none."""
    acct_port: int = field(default=1813, metadata=_between(0, 65535))
    """UDP port for accounting; 0: none."""
    secret: str = field(default="", repr=False, metadata={"secret": True})
    """The shared secret; RFC 2865 asks for 16 characters or more. Keep a file that has it to the daemon."""
    secret_file: Path | None = None
    """File that has the shared secret in its first line; in place of `secret`."""
    message_authenticator: str = field(default="auto", metadata=_among("auto", "yes", "no"))
    """Must answers to log-ins be signed (CVE-2024-3596): `yes`, `no`, or `auto`, from the first signed one on."""


@dataclass(frozen=True, slots=True)
class RadiusDynamicConfig:
    """[radius.dynamic]"""

    listen: tuple[Endpoint, ...] = field(default=(), metadata={"check": _once})
    """UDP addresses, usually with port 3799, for Disconnect and CoA requests (RFC 5176); empty: none are served."""
    require_event_timestamp: bool = False
    """Drop requests without an Event-Timestamp, which alone tells a new request from an old one sent again."""


@dataclass(frozen=True, slots=True)
class RadiusDynamicClientConfig:
    """[radius.dynamic.client.NAME], who may send such requests; without any, the servers, with their secrets"""

    address: str = field(metadata={"check": _address})
    """Numeric IPv4 or IPv6 address it sends from."""
    secret: str = field(default="", repr=False, metadata={"secret": True})
    """The shared secret."""
    secret_file: Path | None = None
    """File that has the shared secret in its first line; in place of `secret`."""
    require_message_authenticator: bool = False
    """Drop its requests that have no Message-Authenticator."""


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """[tunnel]"""

    mtu: int = field(default=1280, metadata=_between(1280, 65507))
    """Largest inner packet in octets, 1280 to 65507. Clients' set-up scripts use 1280 whatever is said here."""
    keepalive: int = field(default=30, metadata=_between(0, 3600))
    """Seconds between a client's keepalives, as told to it; 0: none are asked for."""
    idle_limit: int = field(default=180, metadata=_between(0, 31_536_000))
    """Seconds of silence after which a tunnel is taken down; 0: never. At least 5 keepalives are always allowed for."""
    lifetime: int = field(default=604800, metadata=_between(3600, 31_536_000))
    """Lifetime told to the client as it stands; clients read it as minutes, as seconds, or not at all."""
    latency: bool = True
    """Send each account's client an ICMPv6 echo request of 72 octets a minute through its tunnel, to plot how long the
    answer takes. An answer is a sign of life, as any packet. The kernel's data plane counts both as traffic."""
    resolver: IPv6Address | None = None
    """Recursive DNS resolver told to clients, such as `2001:db8::53`; empty: none."""
    domain: str = field(
        default="",
        metadata=_matching(
            r"(?i)(?:(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-)){0,8})?",
            "is not a domain name; write it without a dot at the end",
        ),
    )
    """Clients are told the host name USER.DOMAIN; empty: none."""


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """[limits]"""

    negotiations: int = field(default=60000, metadata=_between(1, 10_000_000))
    """Negotiations under way at once, over all sources."""
    per_source_rate: float = field(default=5.0, metadata=_between(0.001, 1_000_000))
    """New negotiations a second that one source (IPv4 address, IPv6 /64) may begin, on average."""
    per_source_burst: int = field(default=40, metadata=_between(1, 1_000_000))
    """New negotiations that one source may begin at once."""
    overall_rate: float = field(default=5000.0, metadata=_between(0.001, 1_000_000))
    """New negotiations a second over all sources, on average; `negotiations` of them may come at once."""
    per_source_tunnels: int = field(default=64, metadata=_between(1, 1_000_000))
    """Live tunnels from one source."""
    negotiation_timeout: float = field(default=60.0, metadata=_between(1, 3600))
    """Seconds that a client may stay silent between two messages of a negotiation."""


@dataclass(frozen=True, slots=True)
class DataPlaneConfig:
    """[dataplane]"""

    kind: str = field(default="auto", metadata=_among("auto", "utun", "tun", "memory"))
    """`auto` (utun where the module is loaded, else tun), `utun`, `tun`, or `memory` (carries nothing; for tests)."""
    device: str = field(
        default="ddtb6",
        metadata=_matching(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,15}", "is not 1 to 15 of letters, digits, . _ -"),
    )
    """Name of the network device."""


@dataclass(frozen=True, slots=True)
class FirewallConfig:
    """[firewall]"""

    backend: str = field(default="auto", metadata=_among("auto", "nft", "iptables", "none"))
    """What clamps TCP MSS and limits signalling: `auto`, `nft`, `iptables` or `none`."""
    signalling_rate: int = field(default=50, metadata=_between(0, 1_000_000))
    """Signalling datagrams a second that one source may send before the kernel drops them; 0: no limit."""


@dataclass(frozen=True, slots=True)
class WebConfig:
    """[web]"""

    listen: str = field(
        default="tcp:port=8653:interface=127.0.0.1",
        metadata=_matching(r"|(?:tcp|tcp6|ssl|unix|systemd):.+", 'is not like "tcp:port=8653:interface=127.0.0.1"'),
    )
    """Twisted endpoint string of the pages and the API; empty: none. Beyond this machine use TLS: a proxy in front, or
    `ssl:port=8653:privateKey=FILE:certKey=FILE` (PEM files; needs pyOpenSSL). Whoever may manage the
    broker there is made by `ddtb6 admin add NAME`."""
    broker: str = field(
        default="",
        metadata=_matching(
            r"|[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?(:[0-9]{1,5})?",
            'is not a name or IPv4 address, such as "broker.example.net"',
        ),
    )
    """Name or IPv4 address by which clients reach the broker, `:PORT` behind it where that is not 3653; for the client
    set-ups on owners' pages. Empty: where an owner's last log-in came to."""
    trusted_proxies: tuple[str, ...] = field(default=(), metadata={"check": _networks})
    """Addresses or networks of proxies whose X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host are believed. They
    must set or remove all three. What comes by a unix socket is believed, too."""
    session_metrics: int = field(default=0, metadata=_between(0, 2000))
    """Sessions, the newest, of which /metrics/sessions has series, for administrators' tokens; 0: none, and no such
    path. /metrics itself is the same for any number of sessions, and names nobody."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """[pool.NAME], one table for each pool

    2001:db8::/32 is documentation space that nobody routes: put your own prefix in its place, and have it routed to
    this machine. Blocks must not overlap.
    """

    block: IPv6Network
    """The addresses of the pool, such as `2001:db8:1::/48`."""
    use: Use
    """`accounts` (one address for each logged-in client), `anonymous` (for each other client), or `prefixes`."""
    length: int | None = None
    """Length of the delegated prefixes: 48, 52, 56, 60 or 64. Only where the use is `prefixes`, and needed there."""
    quarantine: float | None = field(default=None, metadata=_between(0, 315_360_000))
    """Seconds that what was given back rests before somebody else gets it. Unset: 7 days; `anonymous`: 10 minutes."""


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration."""

    server: ServerConfig = ServerConfig()
    listen: ListenConfig = ListenConfig()
    auth: AuthConfig = AuthConfig()
    radius: RadiusConfig = RadiusConfig()
    radius_dynamic: RadiusDynamicConfig = RadiusDynamicConfig()
    tunnel: TunnelConfig = TunnelConfig()
    limits: LimitsConfig = LimitsConfig()
    dataplane: DataPlaneConfig = DataPlaneConfig()
    firewall: FirewallConfig = FirewallConfig()
    web: WebConfig = WebConfig()
    pools: Mapping[str, Pool] = field(default_factory=dict)
    """[pool.NAME], by name and in the order of names"""
    radius_servers: Mapping[str, RadiusServerConfig] = field(default_factory=dict)
    """[radius.server.NAME], by name and in the order in which they are asked"""
    radius_dynamic_clients: Mapping[str, RadiusDynamicClientConfig] = field(default_factory=dict)
    """[radius.dynamic.client.NAME], by name"""

    @property
    def accounts_by_radius(self) -> bool:
        """Sessions are told to RADIUS servers."""
        return self.radius.accounting and any(each.acct_port for each in self.radius_servers.values())


# --- all of them --------------------------------------------------------------------------------------------------

SECTIONS: Mapping[str, type] = {
    "server": ServerConfig,
    "listen": ListenConfig,
    "auth": AuthConfig,
    "radius": RadiusConfig,
    "radius.dynamic": RadiusDynamicConfig,
    "tunnel": TunnelConfig,
    "limits": LimitsConfig,
    "dataplane": DataPlaneConfig,
    "firewall": FirewallConfig,
    "web": WebConfig,
}
"""The tables there is one of, in the order they are documented."""
SEVERAL: Mapping[str, type] = {
    "radius.server.NAME": RadiusServerConfig,
    "radius.dynamic.client.NAME": RadiusDynamicClientConfig,
    "pool.NAME": PoolConfig,
}
"""The tables there are several of."""
