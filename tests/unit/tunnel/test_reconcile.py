# SPDX-License-Identifier: GPL-2.0-or-later
"""Reconciling: what is computed turns what is there into what should be, also where tunnels are in each other's way."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from support.planes import drive, spec

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.ports import Clock
from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.tunnel.reconcile import changes
from ddtb6.tunnel.spec import TunnelSpec


@st.composite
def tunnels(draw: st.DrawFn) -> list[TunnelSpec]:
    """Tunnels that can stand side by side: ids, endpoints, addresses and prefixes in any order."""
    ids = draw(st.lists(st.integers(1, 9), unique=True, max_size=6))
    holders = draw(st.permutations(range(1, 10)))
    ports = draw(st.permutations(range(1, 10)))
    return [
        spec(
            number,
            remote=Endpoint("198.51.100.7", port),
            address=spec(holder).address,
            prefix=draw(st.sampled_from([None, spec(holder).prefix])),
        )
        for number, holder, port in zip(ids, holders, ports, strict=False)
    ]


@given(tunnels(), tunnels())
def test_applying_the_changes_gives_what_is_desired_and_then_there_are_none(
    desired: list[TunnelSpec], actual: list[TunnelSpec]
) -> None:
    todo = changes(desired, actual)
    there = {each.id: each for each in actual}
    for tunnel in todo.lower:
        del there[tunnel]
    for each in todo.raise_:
        there[each.id] = each
    assert sorted(there.values(), key=lambda each: each.id) == sorted(desired, key=lambda each: each.id)
    assert todo.kept + len(todo.raise_) == len(desired)
    again = changes(desired, there.values())
    assert (again.lower, again.raise_, again.kept) == ((), (), len(desired))


@given(tunnels())
def test_nothing_is_touched_that_is_as_it_should_be(there: list[TunnelSpec]) -> None:
    todo = changes(there, reversed(there))
    assert (todo.lower, todo.raise_, todo.kept) == ((), (), len(there))
    gone = changes([], there)
    assert set(gone.lower) == {each.id for each in there}
    assert not gone.raise_
    assert set(changes(there, []).raise_) == set(there)


class Still:
    def monotonic(self) -> float:
        return 0.0

    def epoch(self) -> float:
        return 0.0


def stands(clock: Clock, tunnels: Iterable[TunnelSpec]) -> MemoryPlane:
    plane = MemoryPlane(clock)
    for each in tunnels:
        drive(plane.raise_tunnel(each))
    return plane


@given(tunnels(), tunnels())
def test_a_data_plane_takes_the_changes_in_their_order(desired: list[TunnelSpec], actual: list[TunnelSpec]) -> None:
    """Sessions are never changed, so an id that is wanted and there has one spec in both."""
    there = {each.id: each for each in actual}
    wanted = [there.get(each.id, each) for each in desired]
    taken = [(each.remote, each.address) for each in wanted]
    if len({remote for remote, _ in taken}) < len(taken) or len({address for _, address in taken}) < len(taken):
        return
    plane = stands(Still(), actual)
    todo = changes(wanted, (each.spec for each in drive(plane.dump())))
    for tunnel in todo.lower:
        drive(plane.lower_tunnel(tunnel))
    for each in todo.raise_:
        drive(plane.raise_tunnel(each))
    assert {each.spec for each in drive(plane.dump())} == set(wanted)
