# SPDX-License-Identifier: GPL-2.0-or-later
"""What should stand in the kernel's packet filter, as values, and the role of whoever puts it there.

Three things, all of them optional for a working broker:

- the MSS of TCP connections through the tunnel is clamped, because hosts on both sides believe in 1500 octets and many
  never see the ICMPv6 that would tell them better;
- a source that floods the signalling ports is cut off in the kernel. Tunnelled packets share the UDP port and are never
  counted: their first nibble is 6, that of signalling is not (RFC 5572 section 4.5.1);
- the outer UDP flow is not tracked: an entry and a look-up per packet buy nothing where nothing is translated.

Invariants: the kernel accepts a `Plan` or it cannot be made; each rule's label is its comment in the kernel, so what is
read back can be compared.
Not here: how rules are written for the kernel (`nft`, `iptables`) and which of the two does it (`choose`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MARK = "ddtb6: "
"""Begins the comment of every rule of ours."""
BURST_SECONDS = 10
"""So many seconds' worth may come at once: clients behind one NAT all return together after a power cut. Also the time
after which a silent source is forgotten; its allowance is full again by then."""
SOURCES = 65536
"""Sources remembered at once, per address family."""
IPV6_SOURCE_BITS = 64
"""One customer holds at least a /64; counting single IPv6 addresses would limit nobody."""

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_MAX_PORTS = 10
_MAX_RATE = 100_000
_HEADERS = 40 + 20
"""Octets of an IPv6 and a TCP header; the MSS is what is left of the MTU."""


class FirewallError(Exception):
    """The rules are not in force; the message is a sentence for the operator and says what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the firewall is asked for. Raises FirewallError for values that no back end could put in the kernel."""

    device: str
    """Name of the tunnel device; it need not exist yet."""
    mtu: int
    """Largest inner packet in octets, 1280 to 65535."""
    udp_ports: tuple[int, ...]
    """Ports of signalling and tunnelled packets."""
    tcp_ports: tuple[int, ...]
    """Ports of signalling."""
    rate: int
    """Signalling datagrams (or TCP connections) a second from one source, IPv4 address or IPv6 /64; 0: no limit."""

    def __post_init__(self) -> None:
        # The name goes into a script, so it is held to what cannot mean anything else there.
        if _DEVICE.fullmatch(self.device) is None:
            raise FirewallError(
                f"The device name {self.device!r} cannot be put in firewall rules: use at most 15 letters, digits, "
                "dots, dashes and underscores, and begin with a letter or digit."
            )
        for name in ("udp_ports", "tcp_ports"):
            # Listeners for IPv4 and IPv6 name the same port twice.
            ports = tuple(sorted(set(getattr(self, name))))
            object.__setattr__(self, name, ports)
            if len(ports) > _MAX_PORTS:
                raise FirewallError(
                    f"Firewall rules hold at most {_MAX_PORTS} ports, not {len(ports)}: listen on fewer."
                )
            for port in ports:
                if not 1 <= port <= 65535:
                    raise FirewallError(f"Port {port} cannot be put in firewall rules: use 1 to 65535.")
        if not 1280 <= self.mtu <= 65535:
            raise FirewallError(f"The MTU {self.mtu} cannot be put in firewall rules: use 1280 to 65535.")
        if not 0 <= self.rate <= _MAX_RATE:
            raise FirewallError(
                f"The rate {self.rate} cannot be put in firewall rules: use 1 to {_MAX_RATE}, or 0 for no limit."
            )


@dataclass(frozen=True, slots=True)
class Clamp:
    """Lower (never raise) the MSS in SYNs of forwarded IPv6.

    A SYN's (or SYN-ACK's) MSS limits the segments that come *back*. Those out of the tunnel matter most: a LAN behind
    the client announces 1440, and hosts of the Internet then send packets that do not fit. Those into the tunnel do the
    same for what that LAN sends.
    """

    device: str
    into_tunnel: bool
    mss: int | None
    """None: whatever the routes to both ends carry, which minds a route with an MTU of its own. The other direction has
    a fixed value, because the route out of the tunnel need not lead back through it."""

    @property
    def label(self) -> str:
        size = "the route" if self.mss is None else self.mss
        return f"{MARK}TCP MSS {'into' if self.into_tunnel else 'out of'} {self.device} clamped to {size}"


@dataclass(frozen=True, slots=True)
class Limit:
    """Drop signalling of a source that sends more than `rate` a second. UDP and TCP draw from one allowance."""

    protocol: str
    """``udp``: datagrams whose first nibble is not 6. ``tcp``: SYNs without ACK."""
    ports: tuple[int, ...]
    rate: int

    @property
    def burst(self) -> int:
        return self.rate * BURST_SECONDS

    @property
    def label(self) -> str:
        return f"{MARK}{self.protocol.upper()} signalling over {self.rate}/s from one source dropped"


@dataclass(frozen=True, slots=True)
class Untrack:
    """No connection tracking: of datagrams to one of the ports at an address of this machine, or from such a port.

    Forwarded datagrams to the same port stay tracked: the machine may be the NAT of somebody else's tunnel.
    """

    ports: tuple[int, ...]
    inbound: bool

    @property
    def label(self) -> str:
        ports = ",".join(map(str, self.ports))
        return f"{MARK}{'incoming' if self.inbound else 'outgoing'} UDP {ports} untracked"


Rule = Clamp | Limit | Untrack


def rules_of(plan: Plan) -> tuple[Rule, ...]:
    """The rules for `plan`, those of one hook in the order in which they must stand."""
    rules: list[Rule] = [
        Clamp(plan.device, into_tunnel=True, mss=None),
        Clamp(plan.device, into_tunnel=False, mss=plan.mtu - _HEADERS),
    ]
    if plan.rate and plan.udp_ports:
        rules.append(Limit("udp", plan.udp_ports, plan.rate))
    if plan.rate and plan.tcp_ports:
        rules.append(Limit("tcp", plan.tcp_ports, plan.rate))
    if plan.udp_ports:
        rules.append(Untrack(plan.udp_ports, inbound=True))
        rules.append(Untrack(plan.udp_ports, inbound=False))
    return tuple(rules)


@dataclass(frozen=True, slots=True)
class Found:
    """A rule of ours as it was read back from the kernel."""

    label: str
    dropped: int | None = None
    """Packets it dropped; None for a rule that drops none."""


class Backend(Protocol):
    """Puts rules in the kernel of the network namespace that the process is in, and takes them out again.

    All verbs are synchronous, take milliseconds, may be repeated, raise FirewallError, and touch rules of ours only.
    """

    @property
    def name(self) -> str:
        """``nft`` or ``iptables``."""

    def apply(self, plan: Plan) -> None:
        """Make the kernel hold the rules for `plan` instead of any rules of ours, a crashed predecessor's included.

        The rules have been read back when it returns. When it raises, none of ours are left where that can be helped.
        """

    def remove(self) -> None:
        """Take out all rules of ours; success also when there are none."""

    def status(self) -> str:
        """One sentence about the rules of ours that the kernel holds at this moment."""


def compare(expected: Iterable[str], found: Iterable[str]) -> None:
    """Raise FirewallError unless the labels `found` in the kernel are those `expected`, each as often."""
    wanted, there = Counter(expected), Counter(found)
    if wanted == there:
        return
    parts = [f"lacks {label.removeprefix(MARK)!r}" for label in sorted((wanted - there).elements())]
    parts += [f"still has {label.removeprefix(MARK)!r}" for label in sorted((there - wanted).elements())]
    raise FirewallError(
        f"The kernel took the firewall rules, but on reading back it {', '.join(parts)}: see whether another program "
        "rewrites the rules, and restart ddtb6."
    )


def describe(name: str, places: Mapping[str, Sequence[Found]]) -> str:
    """The sentence of `Backend.status`, from what was found per place (such as ``IPv4``; empty: no need to say)."""
    lists = []
    for place, found in places.items():
        dropped: dict[str, int | None] = {}
        for each in found:
            before = dropped.get(each.label)
            dropped[each.label] = before if each.dropped is None else (before or 0) + each.dropped
        texts = [
            label.removeprefix(MARK) + ("" if count is None else f" ({count} so far)")
            for label, count in dropped.items()
        ]
        if texts:
            lists.append(f"{place}: {', '.join(texts)}" if place else ", ".join(texts))
    if not lists:
        return f"{name}: no rules of ddtb6 are in the kernel."
    return f"{name}: {'; '.join(lists)}."
