# SPDX-License-Identifier: GPL-2.0-or-later
"""This Linux machine as the end of a tunnel: a TUN device, addresses and routes.

Host mode: the address as a /128 on the device, the default route into it. Router mode adds: the first /64 of the prefix
on a LAN device, and "no route" for the rest of the prefix, which would otherwise return to the broker in a loop.
Invariants: the device keeps its addresses while they stay the same, so open sockets outlive a new negotiation; what was
there before is not touched.
Not here: moving packets (`tunnel`), forwarding and router advertisements, which are the user's.
"""

from __future__ import annotations

import contextlib
import os
import socket
from ipaddress import IPv6Interface, IPv6Network
from pathlib import Path

from ddtb6.broker.planes import DataPlaneError
from ddtb6.client.options import ClientOptions
from ddtb6.dataplane.device import open_tun, why_no_tun
from ddtb6.dataplane.links import Layout, Links
from ddtb6.tsp.messages import Offer

MTU = 1280
"""Octets: what every broker carries, and what every client has been set to."""
LAN_LENGTH = 64

_EVERYWHERE = IPv6Network("::/0")
_FORWARDING = Path("/proc/sys/net/ipv6/conf/all/forwarding")


def layouts(options: ClientOptions, offer: Offer) -> tuple[tuple[str, Layout], ...]:
    """Device and layout for each device that a tunnel concerns, in the order to apply them."""
    # The broker's end has a route of its own: it must be reached without a default route, and if it is in the prefix.
    ends = {offer.server_inner}
    if offer.keepalive is not None and offer.keepalive.address is not None:
        ends.add(offer.keepalive.address)
    ends.discard(offer.client_inner)
    routes = [IPv6Network(end) for end in sorted(ends)]
    if options.default_route:
        routes.append(_EVERYWHERE)
    tunnel = Layout(
        mtu=MTU,
        addresses=(IPv6Interface((offer.client_inner, 128)),),
        routes=tuple(routes),
        unreachable=() if offer.prefix is None else (offer.prefix,),
        metric=options.metric,
    )
    address = lan_address(options, offer)
    if options.lan is None or address is None:
        return ((options.device, tunnel),)
    return ((options.device, tunnel), (options.lan, Layout(addresses=(address,))))


def lan_address(options: ClientOptions, offer: Offer) -> IPv6Interface | None:
    """What the LAN device gets: the first address of the first /64; None without such a device or prefix."""
    prefix = offer.prefix
    if options.lan is None or prefix is None or prefix.prefixlen > LAN_LENGTH:
        return None
    return IPv6Interface((prefix[1], LAN_LENGTH))


class LinuxMachine:
    """`options.Machine` by /dev/net/tun and rtnetlink. Needs CAP_NET_ADMIN."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._fd = -1
        self._links = Links()
        self._applied: tuple[tuple[str, Layout], ...] = ()

    def open(self) -> int:
        reason = why_no_tun()
        if reason is not None:
            raise DataPlaneError(reason)
        self._fd = open_tun(self._options.device)
        os.set_blocking(self._fd, False)
        return self._fd

    def configure(self, offer: Offer) -> None:
        wanted = layouts(self._options, offer)
        if self._applied and wanted != self._applied:
            self._links.undo()
        self._applied = wanted
        for device, layout in wanted:
            self._links.apply(device, layout)

    def close(self) -> None:
        # Where that fails nothing more can be done, and what belongs to the device goes with it.
        with contextlib.suppress(DataPlaneError):
            self._links.undo()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def local_address(self, remote: str) -> str | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # Nothing is sent: the kernel only looks for a route.
                probe.connect((remote, 9))
            except OSError:
                return None
            address: str = probe.getsockname()[0]
            return address

    def forwarding(self) -> bool:
        try:
            return _FORWARDING.read_text().strip() != "0"
        except OSError:
            return True
