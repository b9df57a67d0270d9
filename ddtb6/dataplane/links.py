# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices made ready: up, MTU, IPv6 addresses, routes; and taken back. The broker and the client program share this.

Source: rtnetlink through pyroute2 (0.7.2 and 0.9.7 behave the same in what is used here).
Invariants: applying twice is applying once; nothing that somebody else made is changed or removed. Our routes carry
the protocol number `PROTOCOL`, so they are known again after a crash. An address cannot carry it (IFA_PROTO is newer
than pyroute2 0.7.2), so one with a network gets a route of ours to that network beside it.
Not here: making TUN devices (`dataplane.device`), watching devices (`dataplane.link_watch`), one route per session
(there is none: whole pools are routed).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError
from twisted.logger import Logger

from ddtb6.broker.planes import DataPlaneError

PROTOCOL = 182
"""Routing protocol number of our routes; ``ip -6 route show proto 182`` lists them."""
METRIC = 1024
"""Of routes to a device; the kernel's own default for IPv6."""
LAST_RESORT_METRIC = 1_000_000
"""Of unreachable routes: any route to a device wins over them."""

NEXT_HOP = IPv6Address("fe80::1")
"""Of routes to a device that needs none; nobody has it and nobody is asked for it. Without a next hop IPv6 keeps a
neighbour for every inner destination, and with more of them than net.ipv6.neigh.default.gc_thresh3 (1,024) makes and
forgets one for every packet."""

_log = Logger()

_UP, _MULTICAST = 0x1, 0x1000
_NO_LINK_LOCAL = 1
_UNICAST, _UNREACHABLE = 1, 7
_GONE = frozenset((errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENXIO))


@dataclass(frozen=True, slots=True)
class Layout:
    """What a device shall have."""

    mtu: int | None = None
    """Octets. None leaves the device itself as it is, as for a LAN: only addresses and routes are added."""
    addresses: tuple[IPv6Interface, ...] = ()
    routes: tuple[IPv6Network, ...] = ()
    """Routed to the device."""
    next_hop: IPv6Address | None = None
    """Of `routes`; a link-local address, or none."""
    unreachable: tuple[IPv6Network, ...] = ()
    """Answered with "no route" where no route to a device takes them. Not tied to the device: they stay if it goes."""
    metric: int = METRIC
    """Of `routes`; a lower one wins."""


class Links:
    """Applies layouts, and remembers what it made."""

    def __init__(self) -> None:
        self._made: list[tuple[str, dict[str, Any]]] = []

    def apply(self, device: str, layout: Layout) -> None:
        """Make `device` have at least what `layout` says. Raises DataPlaneError; `undo` removes what it made."""
        with _rtnetlink() as rtnetlink:
            # Unreachable routes come first: from here on no packet to our space leaves towards the upstream.
            present = _our_routes(rtnetlink)
            for network in layout.unreachable:
                where = {"type": "unreachable", "priority": LAST_RESORT_METRIC}
                known = (_UNREACHABLE, str(network), LAST_RESORT_METRIC, None, None) in present
                self._route(rtnetlink, network, where, known)
            found = list(rtnetlink.link_lookup(ifname=device))
            if not found:
                raise DataPlaneError(f"there is no device {device}")
            index = found[0]
            if layout.mtu is not None:
                _bring_up(rtnetlink, device, index, layout.mtu)
            for address in layout.addresses:
                marked = (_UNICAST, str(address.network), METRIC, index, None) in present
                self._address(rtnetlink, device, index, address, marked)
            for network in layout.routes:
                through: dict[str, Any] = {"oif": index, "priority": layout.metric}
                if layout.next_hop is not None:
                    through["gateway"] = str(layout.next_hop)
                known = (_UNICAST, str(network), layout.metric, index, through.get("gateway")) in present
                self._route(rtnetlink, network, through, known)

    def undo(self) -> None:
        """Remove all that `apply` made, newest first. What is gone already is no error. Raises DataPlaneError."""
        if not self._made:
            return
        with _rtnetlink() as rtnetlink:
            while self._made:
                kind, what = self._made[-1]
                try:
                    (rtnetlink.route if kind == "route" else rtnetlink.addr)("del", **what)
                except NetlinkError as error:
                    if error.code not in _GONE:
                        raise DataPlaneError(_sentence(f"removing a {kind} of ours", error)) from error
                self._made.pop()

    def _address(self, rtnetlink: IPRoute, device: str, index: int, address: IPv6Interface, marked: bool) -> None:
        what = {
            "index": index,
            "address": str(address.ip),
            "prefixlen": address.network.prefixlen,
            "family": socket.AF_INET6,
        }
        if not _added(f"giving {device} the address {address}", rtnetlink.addr, what) and not marked:
            return
        self._remember("address", what)
        if address.network.prefixlen < 128:
            # A device that is down takes no route. Then the address is not known again, and that is all.
            with suppress(DataPlaneError):
                self._route(rtnetlink, address.network, {"oif": index, "priority": METRIC}, marked)

    def _route(self, rtnetlink: IPRoute, network: IPv6Network, where: dict[str, Any], known: bool) -> None:
        what = {"dst": str(network), "family": socket.AF_INET6, "proto": PROTOCOL, **where}
        if not known and not _added(f"routing {network}", rtnetlink.route, what):
            raise DataPlaneError(
                f"there is another route to {network} with metric {where['priority']} already:"
                f" remove it (ip -6 route show {network})"
            )
        self._remember("route", what)

    def _remember(self, kind: str, what: dict[str, Any]) -> None:
        if (kind, what) not in self._made:
            self._made.append((kind, what))


def make_link(device: str, kind: str) -> int:
    """Index of the device of that kind, which is made if it is not there. Raises DataPlaneError."""
    with _rtnetlink() as rtnetlink:
        try:
            rtnetlink.link("add", ifname=device, kind=kind)
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                raise DataPlaneError(f"this kernel has no devices of type {kind}: load the {kind} module") from error
            if error.code != errno.EEXIST:
                raise DataPlaneError(_sentence(f"making the device {device}", error)) from error
        found = list(rtnetlink.get_links(*rtnetlink.link_lookup(ifname=device)))
        if not found:
            raise DataPlaneError(f"the device {device} went as soon as it was made")
        information = found[0].get_attr("IFLA_LINKINFO")
        if information is None or information.get_attr("IFLA_INFO_KIND") != kind:
            raise DataPlaneError(f"{device} is a device of another kind: remove it, or configure another name")
        return int(found[0]["index"])


def warn_unless_forwarding() -> None:
    """Write a line into the log where this machine does not route IPv6."""
    with suppress(OSError):
        if Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text().strip() == "0":
            _log.warn("IPv6 forwarding is off, so clients reach nothing but us: sysctl net.ipv6.conf.all.forwarding=1")


def own_outer_addresses() -> frozenset[str]:
    """Addresses that this machine has now and that no tunnel may end at; loopback left out. Raises DataPlaneError.

    Canonical text; link-local ones with the index of their device, such as ``fe80::1%2``.
    """
    with _rtnetlink() as rtnetlink:
        try:
            present = [
                # Of a point-to-point address IFA_ADDRESS is the other end, IFA_LOCAL ours; else there may be one only.
                (ip_address(each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")), each["index"])
                for each in rtnetlink.get_addr()
            ]
        except NetlinkError as error:
            raise DataPlaneError(_sentence("reading the addresses of this machine", error)) from error
    return frozenset(
        f"{address}%{index}" if address.version == 6 and address.is_link_local else str(address)
        for address, index in present
        if not address.is_loopback
    )


@contextmanager
def _rtnetlink() -> Iterator[IPRoute]:
    try:
        # With strict checking it is the kernel that filters dumps: a router may have a million routes.
        rtnetlink = IPRoute(strict_check=True)
    except OSError as error:
        raise DataPlaneError(f"rtnetlink cannot be opened: {error.strerror}") from error
    try:
        yield rtnetlink
    finally:
        rtnetlink.close()


def _our_routes(rtnetlink: IPRoute) -> set[tuple[int, str, int, int | None, str | None]]:
    """Type, destination, metric, and for those to a device its index and the next hop, of the routes of `PROTOCOL`."""
    found = set()
    for each in rtnetlink.route("dump", family=socket.AF_INET6, proto=PROTOCOL):
        if each["proto"] != PROTOCOL:
            continue  # a kernel without strict checking gives all
        device = None if each["type"] == _UNREACHABLE else each.get_attr("RTA_OIF")
        network = IPv6Network((each.get_attr("RTA_DST") or "::", each["dst_len"]))
        found.add((each["type"], str(network), each.get_attr("RTA_PRIORITY"), device, each.get_attr("RTA_GATEWAY")))
    return found


def _bring_up(rtnetlink: IPRoute, device: str, index: int, mtu: int) -> None:
    # Neither a link-local address nor multicast: nobody on a tunnel listens to router solicitations and MLD reports,
    # and without a link-local address the kernel sends no redirects when it routes from client to client.
    quiet = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_LINK_LOCAL)]})]}
    try:
        rtnetlink.link("set", index=index, IFLA_AF_SPEC=quiet)
        rtnetlink.link("set", index=index, mtu=mtu, flags=_UP, change=_UP | _MULTICAST)
    except NetlinkError as error:
        raise DataPlaneError(_sentence(f"bringing {device} up", error)) from error


def _added(doing: str, verb: Callable[..., Any], what: dict[str, Any]) -> bool:
    """Whether it was added; False when it was there."""
    try:
        verb("add", **what)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            return False
        raise DataPlaneError(_sentence(doing, error)) from error
    return True


def _sentence(doing: str, error: NetlinkError) -> str:
    if error.code == errno.EPERM:
        return f"{doing} needs CAP_NET_ADMIN: run as root, or give the service that capability"
    if error.code == errno.EACCES:
        return f"{doing} failed, IPv6 is switched off: set the sysctl net.ipv6.conf.default.disable_ipv6 to 0"
    return f"{doing} failed: {os.strerror(error.code)}"
