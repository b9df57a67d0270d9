# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m bench.plane [--count N] [--runs N] [--json]`: what the daemon's side of utun costs.

To be run where the module is loaded, as root. Through `ddtb6.dataplane.utun` alone, with specs made beforehand: tunnels
raised a hundred in a message as at start, one by one as at log-ins, all of them dumped and read, found again by a new
plane as after a restart, lowered one by one. Every run makes and removes all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from bench.table import Row, table
from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.addressing.pool import Pool, Use
from ddtb6.clock import SystemClock
from ddtb6.dataplane.utun import UtunPlane
from ddtb6.tunnel.spec import TunnelId, TunnelSpec
from tests.support.netns import Lab

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


def once(bench: Bench, specs: list[TunnelSpec], figures: dict[str, list[float]]) -> None:
    def raise_all() -> None:
        for start in range(0, len(specs), AT_ONCE):
            assert bench.run(bench.plane.raise_tunnels(specs[start : start + AT_ONCE])) == {}

    def dump() -> None:
        assert len(bench.run(bench.plane.dump())) == len(specs)

    singly = specs[:SINGLY]
    figures["raised, 100 in a message"].append(len(specs) / timed(raise_all))
    figures["dump, read"].append(timed(dump))
    bench.run(bench.plane.stop())
    bench.start()
    figures["dump after a restart, read"].append(timed(dump))
    lower = timed(lambda: [bench.run(bench.plane.lower_tunnel(each.id)) for each in singly])
    figures["lowered, one by one"].append(len(singly) / lower)
    raised = timed(lambda: [bench.run(bench.plane.raise_tunnel(each)) for each in singly])
    figures["raised, one by one"].append(len(singly) / raised)
    for each in specs:
        bench.run(bench.plane.lower_tunnel(each.id))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.plane", description="Measure the daemon's side of utun.")
    parser.add_argument("--count", type=int, default=50_000, help="tunnels (default 50000)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    specs = [spec(number) for number in range(1, arguments.count + 1)]
    names = ("raised, 100 in a message", "raised, one by one", "lowered, one by one")
    dumps = ("dump, read", "dump after a restart, read")
    figures: dict[str, list[float]] = {name: [] for name in (*names, *dumps)}
    with Lab() as lab:
        space = lab.namespace("broker")
        with space.inside():
            bench = Bench()
            for number in range(arguments.runs):
                once(bench, specs, figures)
                said = ", ".join(f"{name}: {values[-1]:.3g}" for name, values in figures.items())
                print(f"bench: run {number + 1}: {said}", file=sys.stderr, flush=True)
            bench.run(bench.plane.stop())
    bars = {"raised, 100 in a message": 10_000, "dump, read": 0.3}
    rows = [Row(f"tunnels {name}", "/s", figures[name], bar=bars.get(name)) for name in names]
    rows += [
        Row(f"{name}, {arguments.count:,}", "s", figures[name], bar=bars.get(name), at_most=True) for name in dumps
    ]
    print(json.dumps([row.plain() for row in rows], indent=1) if arguments.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
