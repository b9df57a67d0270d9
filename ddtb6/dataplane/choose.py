# SPDX-License-Identifier: GPL-2.0-or-later
"""Which data plane to use on this machine, the sentence that says why, and how it gets its packets.

Not here: opening the sockets that the packets come through (`transport`; app brings both together).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Pool
from ddtb6.broker.planes import DataPlaneError
from ddtb6.broker.ports import Clock
from ddtb6.dataplane.device import may_administer, why_no_tun
from ddtb6.dataplane.genetlink import Descriptors
from ddtb6.dataplane.links import own_outer_addresses
from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.dataplane.tun import TunPlane
from ddtb6.dataplane.utun import UtunPlane, utun_family

Plane = UtunPlane | TunPlane | MemoryPlane


@dataclass(frozen=True, slots=True)
class Choice:
    """A data plane by name."""

    kind: str
    """``utun``, ``tun`` or ``memory``."""
    reason: str
    """Why this one, in one sentence."""
    better: str = ""
    """What to do for a faster one; empty where there is none, or none is wanted."""


def choose(kind: str) -> Choice:
    """The data plane for the configured `kind`: ``auto``, ``utun``, ``tun`` or ``memory``.

    Raises DataPlaneError, with the remedy, when it cannot work here.
    """
    if kind == "memory":
        return Choice("memory", "it is configured; it carries no packets anywhere")
    if kind == "tun":
        if no_tun := why_no_tun():
            raise DataPlaneError(no_tun)
        return Choice("tun", "it is configured")
    if kind not in ("auto", "utun"):
        raise DataPlaneError(
            f'there is no data plane "{kind}": set dataplane.kind to "auto", "utun", "tun" or "memory"'
        )
    no_utun = why_no_utun()
    if kind == "utun":
        if no_utun:
            raise DataPlaneError(f'{no_utun}; or set dataplane.kind to "auto"')
        return Choice("utun", "it is configured")
    if not no_utun:
        return Choice("utun", "the utun module is there: packets stay in the kernel")
    if no_tun := why_no_tun():
        raise DataPlaneError(f"{no_utun}; and {no_tun}")
    why, _, remedy = no_utun.partition(": ")
    return Choice("tun", why, remedy)


def why_no_utun() -> str:
    """Why the utun kernel module cannot be used here, with the remedy; empty when it can."""
    try:
        utun_family()
    except DataPlaneError as error:
        return str(error)
    if not may_administer():
        return "the utun module needs CAP_NET_ADMIN: run as root, or give the service that capability"
    return ""


def make(kind: str, reactor: Descriptors, clock: Clock, device: str, pools: Sequence[Pool], mtu: int) -> Plane:
    """The data plane of that kind, not started. Raises DataPlaneError."""
    if kind == "memory":
        return MemoryPlane(clock, pools)
    of_kind = UtunPlane if kind == "utun" else TunPlane
    return of_kind(reactor, clock, device, pools, mtu, own_outer_addresses())


def packets_to(plane: Plane) -> Callable[[bytes, Endpoint, Endpoint], None] | None:
    """Where a datagram with a packet goes that came to this process; None where the kernel takes them."""
    return None if isinstance(plane, UtunPlane) else plane.feed


async def connect(plane: Plane, transmit: Callable[[bytes, Endpoint, Endpoint], bool], sockets: Iterable[int]) -> None:
    """Give `plane` what packets come and go through: UDP sockets by descriptor, or what sends through them.

    Raises DataPlaneError.
    """
    if isinstance(plane, UtunPlane):
        await plane.attach(sockets)
    else:
        plane.send_with(transmit)
