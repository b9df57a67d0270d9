# SPDX-License-Identifier: GPL-2.0-or-later
"""What no data plane takes, whatever carries it: the same sentences for all of them. Pure.

Source: RFC 6324 (loops of tunnels); the size of a UDP datagram over IPv4.
Not here: what another tunnel has already (each data plane knows its own).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv6Network, ip_address

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.broker.planes import DataPlaneError
from ddtb6.dataplane import icmp6
from ddtb6.tunnel.spec import TunnelSpec

MTU_RANGE = range(icmp6.SMALLEST_MTU, 65507 + 1)
"""Largest inner packets that a tunnel may be set to; the upper end is what fits a UDP datagram over IPv4."""


def check(
    spec: TunnelSpec, encapsulations: Collection[Encapsulation], own: Collection[str], blocks: Sequence[IPv6Network]
) -> None:
    """Raises DataPlaneError for what cannot be carried.

    `own`: our outer addresses, loopback left out; `blocks`: the inner networks that tunnels are made of.
    """
    if spec.encapsulation not in encapsulations:
        raise DataPlaneError(f"this data plane does not carry {spec.encapsulation.value}")
    if spec.mtu not in MTU_RANGE:
        raise DataPlaneError(f"an MTU of {spec.mtu} is outside of {MTU_RANGE.start} to {MTU_RANGE.stop - 1}")
    for network in spec.routes if spec.prefix is None else (spec.prefix, *spec.routes):
        if not 0 < network.prefixlen <= 64:
            raise DataPlaneError(f"the prefix {network} is longer than a /64, or is everything")
    # A tunnel whose outer packets come back to us would carry its own packets, each time larger (RFC 6324).
    if spec.remote.address in own or spec.remote == spec.local:
        raise DataPlaneError(f"the endpoint {spec.remote} is one of our own addresses")
    if spec.remote.family == 6 and blocks:
        outer = ip_address(spec.remote.address)
        for block in blocks:
            if outer in block:
                raise DataPlaneError(f"the endpoint {spec.remote} is inside of {block}, which tunnels carry")
