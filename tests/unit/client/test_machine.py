# SPDX-License-Identifier: GPL-2.0-or-later
"""Which addresses and routes an offer becomes."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Interface, IPv6Network

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.client.machine import layouts
from ddtb6.client.options import METRIC, ClientOptions
from ddtb6.dataplane.links import Layout
from ddtb6.tsp.messages import Keepalive, Offer

CLIENT, BROKER, ROUTER = (IPv6Address(f"2001:db8:0:1::{host}") for host in (2, 1, 3))
EVERYWHERE = IPv6Network("::/0")
PREFIX = IPv6Network("2001:db8:ab:cd00::/56")


def offer(prefix: IPv6Network | None = None, keepalive: IPv6Address | None = None) -> Offer:
    return Offer(
        encapsulation=Encapsulation.V6UDPV4,
        lifetime=1440,
        server_outer="192.0.2.1",
        server_inner=BROKER,
        client_outer="198.51.100.7",
        client_inner=CLIENT,
        prefix=prefix,
        keepalive=None if keepalive is None else Keepalive(30, keepalive),
    )


def options(*, lan: str | None = None, default_route: bool = True, metric: int = METRIC) -> ClientOptions:
    return ClientOptions("b", "b", device="tun6", lan=lan, default_route=default_route, metric=metric)


def test_a_host_has_its_address_the_broker_and_the_default_route() -> None:
    assert layouts(options(metric=77), offer()) == (
        (
            "tun6",
            Layout(
                mtu=1280,
                addresses=(IPv6Interface((CLIENT, 128)),),
                routes=(IPv6Network((BROKER, 128)), EVERYWHERE),
                metric=77,
            ),
        ),
    )


def test_without_a_default_route_the_broker_is_still_reached() -> None:
    ((_, layout),) = layouts(options(default_route=False), offer(keepalive=ROUTER))
    assert layout.routes == (IPv6Network((BROKER, 128)), IPv6Network((ROUTER, 128)))


def test_a_router_has_its_first_network_and_no_route_for_the_rest() -> None:
    (_, tunnel), (device, lan) = layouts(options(lan="eth1"), offer(PREFIX))
    assert tunnel.unreachable == (PREFIX,)
    assert device == "eth1"
    assert lan == Layout(addresses=(IPv6Interface("2001:db8:ab:cd00::1/64"),))


def test_a_lan_without_a_prefix_or_with_a_small_one_is_left_alone() -> None:
    for prefix in (None, IPv6Network("2001:db8:ab:cd00::/80")):
        assert [device for device, _ in layouts(options(lan="eth1"), offer(prefix))] == ["tun6"]
