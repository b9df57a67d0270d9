# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon's side of utun costs: the part "daemon" of `python -m bench.kernel`.

Through `ddtb6.dataplane.utun` alone, with specs made beforehand: tunnels raised a hundred in a message as at start, all
of them dumped and read, found again by a new plane as after a restart, some lowered and raised one by one as at the end
and the beginning of sessions. Every run makes and removes all of them.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from bench.table import Row
from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.addressing.pool import Pool, Use
from ddtb6.clock import SystemClock
from ddtb6.dataplane.utun import UtunPlane
from ddtb6.tunnel.spec import TunnelId, TunnelSpec
from tests.support.netns import Lab
from tests.support.vm_utun import Netlink, Utun

DEVICE = "ddtb6"
LOCAL = Endpoint("192.0.2.1", 3653)
POOLS = (
    Pool("links", IPv6Network("2001:db8:1::/64"), Use.ACCOUNTS, 128),
    Pool("homes", IPv6Network("2001:db8:8000::/33"), Use.PREFIXES, 56),
)
AT_ONCE = 100
SINGLY = 5_000
"""Tunnels raised and lowered one by one."""


def spec(number: int) -> TunnelSpec:
    """An address and a /56 each, as most accounts have."""
    links, homes = POOLS
    remote = Endpoint(f"198.{18 + number // 50_000 % 2}.{number // 200 % 250}.{number % 200 + 1}", 40000)
    address = IPv6Address(int(links.block.network_address) + 0x1000 + number)
    return TunnelSpec(TunnelId(number), Encapsulation.V6UDPV4, LOCAL, remote, address, homes.piece(number), 1280)


class Bench:
    """A reactor that is turned by hand, and the life of one daemon after the other."""

    def __init__(self) -> None:
        self.reactor = EPollReactor()
        self.plane = self.start()

    def start(self) -> UtunPlane:
        self.plane = UtunPlane(self.reactor, SystemClock(), DEVICE, POOLS, 1280)
        self.run(self.plane.start())
        return self.plane

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        found: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(found.append)
        while not found:
            self.reactor.iterate(0.01)
        return found[0]


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


NAMES = ("raised, 100 in a message", "raised, one by one", "lowered, one by one", "dumped", "dumped after a restart")


def once(bench: Bench, specs: list[TunnelSpec], figures: dict[str, list[float]]) -> None:
    def raise_all() -> None:
        for start in range(0, len(specs), AT_ONCE):
            assert bench.run(bench.plane.raise_tunnels(specs[start : start + AT_ONCE])) == {}

    def dump() -> None:
        assert len(bench.run(bench.plane.dump())) == len(specs)

    singly = specs[:SINGLY]
    together, one_by_one, lowered, dumped, again = (figures[name] for name in NAMES)
    together.append(len(specs) / timed(raise_all))
    dumped.append(timed(dump))
    bench.run(bench.plane.stop())
    bench.start()
    again.append(timed(dump))
    lowered.append(len(singly) / timed(lambda: [bench.run(bench.plane.lower_tunnel(each.id)) for each in singly]))
    one_by_one.append(len(singly) / timed(lambda: [bench.run(bench.plane.raise_tunnel(each)) for each in singly]))
    netlink = Netlink()
    Utun(netlink, socket.if_nametoindex(DEVICE)).flush()
    netlink.close()


def measure(runs: int, count: int, say: Callable[[str], None]) -> list[Row]:
    """Has a namespace of its own."""
    specs = [spec(number) for number in range(1, count + 1)]
    figures: dict[str, list[float]] = {name: [] for name in NAMES}
    with Lab() as lab, lab.namespace("broker").inside():
        bench = Bench()
        for run in range(runs):
            say(f"{count} tunnels by the daemon, run {run + 1} of {runs}")
            once(bench, specs, figures)
        bench.run(bench.plane.stop())
    together, one_by_one, lowered, dumped, again = (figures[name] for name in NAMES)
    return [
        Row("tunnels raised by the daemon in a second", "", together, bar=10_000),
        Row("  one by one", "", one_by_one),
        Row("tunnels lowered by the daemon in a second, one by one", "", lowered),
        Row(f"dump of {count:,} tunnels, read by the daemon", "s", dumped),
        Row("  the first after a restart", "s", again),
    ]
