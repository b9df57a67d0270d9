# SPDX-License-Identifier: GPL-2.0-or-later
"""Immutable snapshots of what the broker is doing, for the status page, the tool and metrics.

Invariant: no secret and no mutable state in here. `plain` gives the JSON form of any of them.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Pool
from ddtb6.tunnel.spec import Counters, TunnelId


@dataclass(frozen=True, slots=True)
class SessionView:
    """A live session."""

    id: TunnelId
    owner: str
    user: str | None
    remote: Endpoint
    local: Endpoint
    address: IPv6Address
    prefix: IPv6Network | None
    nat: bool | None
    """The client believes it has another outer address than the one we see; None: the broker was restarted since."""
    mechanism: str
    client_version: str
    started: float
    """Epoch seconds."""
    established: bool
    """The client accepted the offer or sent a packet."""
    silent_for: float | None
    """Seconds since the last packet from the client; None before the first."""
    counters: Counters
    accounted_as: str
    """Acct-Session-Id, where an AAA is told of it: 16 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some of the live sessions."""

    total: int
    """How many were found."""
    sessions: tuple[SessionView, ...]


@dataclass(frozen=True, slots=True)
class PoolView:
    """How full a pool is."""

    name: str
    use: str
    block: IPv6Network
    length: int
    capacity: int
    held: int
    resting: int
    days_left: float | None = None
    """Days until it is full at the rate of the last week; None: it does not grow, or not long enough to tell."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The last time that the data plane was made to match the store: at start, or after trouble."""

    at: float
    """Epoch seconds."""
    kept: int
    """Tunnels that stood already."""
    raised: int
    lowered: int
    """Tunnels that stood and should not."""
    closed: int
    """Sessions that another session of their owner, or at their endpoint, had replaced already."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What the broker itself counts."""

    sessions: int
    logins: Mapping[str, int]
    """Successful log-ins since start by mechanism."""
    refusals: Mapping[str, int]
    """Refused negotiations and requests since start by status code and text."""
    ended: Mapping[str, int]
    """Sessions ended since start by reason."""
    strays: Mapping[str, int]
    """Packets since start that belong to no tunnel, by reason."""
    pools: tuple[PoolView, ...]


@dataclass(frozen=True, slots=True)
class AaaServerView:
    """One port of one RADIUS server."""

    name: str
    purpose: str
    """``log-ins`` or ``accounting``."""
    endpoint: Endpoint
    alive: bool
    """It answers, or was not asked yet."""
    answered_ago: float | None
    """Seconds since its last answer; None: there was none."""
    round_trip: float | None
    """Seconds from request to answer, smoothed."""
    unanswered: int
    """Requests given up, since start."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Datagrams that were not believed, since start, by reason: forged ones, unsigned ones, answers too late."""


@dataclass(frozen=True, slots=True)
class AccountingView:
    """How delivery of accounting records does."""

    waiting: int
    delivered: int
    oldest: float | None
    """Epoch seconds of the oldest record that waits."""
    outage_since: float | None
    """Epoch seconds since which no server has acknowledged anything."""
    last_error: str


@dataclass(frozen=True, slots=True)
class AaaView:
    """The ISP's AAA as the broker sees it."""

    servers: tuple[AaaServerView, ...]
    accounting: AccountingView | None
    """None: nobody is told of sessions."""
    requests: Mapping[str, int] = field(default_factory=dict)
    """Disconnect and CoA since start, by what came of them; datagrams dropped at that port, by reason."""


@dataclass(frozen=True, slots=True)
class EchoView:
    """Echo requests to clients through their tunnels, since start."""

    asked: int
    classes: tuple[tuple[float, int], ...]
    """Answers by how long they took: up to so many seconds, and longer than the class before."""
    seconds: float
    """What they took, all together."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The broker as a whole; holds no user data, so anybody may see it."""

    version: str
    started: float
    """Epoch seconds."""
    listening: tuple[str, ...]
    """Such as ``udp 192.0.2.1:3653``."""
    data_plane: str
    data_plane_reason: str
    """Why this one, in one sentence."""
    firewall: str
    """What the firewall does for us, or why it does nothing, in one sentence."""
    encapsulations: tuple[str, ...]
    mechanisms: tuple[str, ...]
    negotiations: int
    """Under way; those that led to a tunnel are not."""
    activity: Activity
    reconciled: Reconciliation | None = None
    """None: not yet."""
    aaa: AaaView | None = None
    """None: no RADIUS server is configured."""
    trouble: bool = False
    """The data plane is lost or refuses what it is told, and is being made to match again."""


def pool_view(pool: Pool, held: int, resting: int, growth: float) -> PoolView:
    """How full a pool is, with `growth` pieces more held every day."""
    return PoolView(
        name=pool.name,
        use=pool.use.value,
        block=pool.block,
        length=pool.length,
        capacity=pool.capacity,
        held=held,
        resting=resting,
        days_left=max(0, pool.capacity - held - resting) / growth if growth > 0 else None,
    )


def plain(value: Any) -> Any:
    """`value` as what JSON can hold: dataclasses and mappings as objects, addresses as text, enums by value."""
    if isinstance(value, Endpoint | IPv6Address | IPv6Network):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | frozenset | set):
        return [plain(item) for item in value]
    return value
