# SPDX-License-Identifier: GPL-2.0-or-later
"""What the double can do besides what the conformance suite asks of every plane."""

from __future__ import annotations

import pytest
from support.planes import HOST, POOLS, SetClock, drive, hops, ipv6, spec

from ddtb6.broker.planes import DataPlaneError, PlaneEvent, PlaneLost
from ddtb6.dataplane.memory import MemoryPlane


def test_it_fails_at_the_call_it_was_told_and_changes_nothing_then() -> None:
    plane = MemoryPlane(SetClock())
    plane.fail_at(2, "out of tunnels")
    drive(plane.raise_tunnel(spec(1)))
    with pytest.raises(DataPlaneError, match="out of tunnels"):
        drive(plane.raise_tunnel(spec(2)))
    drive(plane.raise_tunnel(spec(3)))
    assert [each.spec.id for each in drive(plane.dump())] == [1, 3]
    assert list(plane.calls) == ["raise_tunnel"] * 3 + ["dump"]


def test_it_loses_everything_and_says_so() -> None:
    plane = MemoryPlane(SetClock())
    heard: list[PlaneEvent] = []
    plane.subscribe(heard.append)
    drive(plane.raise_tunnel(spec(1)))
    plane.lose("on purpose")
    assert heard == [PlaneLost("on purpose")]
    assert drive(plane.dump()) == []
    drive(plane.raise_tunnel(spec(1)))


def test_without_a_socket_it_keeps_what_would_have_left() -> None:
    plane = MemoryPlane(SetClock(), POOLS)
    tunnel = spec(1)
    drive(plane.raise_tunnel(tunnel))
    plane.receive(down := ipv6(HOST, tunnel.address))
    plane.feed(up := ipv6(tunnel.address, HOST), tunnel.local, tunnel.remote)
    assert list(plane.transmitted) == [(hops(down), tunnel.local, tunnel.remote)]
    assert list(plane.delivered) == [hops(up)]
    plane.receive(b"\x60")
