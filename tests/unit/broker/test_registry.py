# SPDX-License-Identifier: GPL-2.0-or-later
"""The registry against a plain list of what was added, and its refusal of what the broker must not do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.planes import spec

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.ports import Session
from ddtb6.broker.registry import Live, Registry
from ddtb6.tunnel.spec import Counters


def live(number: int, owner: str = "", remote: Endpoint | None = None) -> Live:
    where = remote or Endpoint("198.51.100.7", 40000 + number)
    session = Session(
        id=spec(number).id,
        owner=owner or f"user:u{number}",
        user=f"u{number}",
        spec=spec(number, remote=where),
        mechanism="PLAIN",
        client_version="2.0.2",
        idle_limit=180.0,
        started=0.0,
        carried=Counters(),
    )
    return Live(session, 0.0, nat=False, established=False, ends_at=None)


def test_found_by_all_it_is_known_by() -> None:
    registry = Registry()
    registry.add(made := live(1))
    assert (
        registry.get(made.session.id) is registry.of_owner("user:u1") is registry.at(made.session.spec.remote) is made
    )
    assert made in registry
    assert live(1) not in registry, "another one of the same id"
    assert registry.at(Endpoint("198.51.100.7", 1)) is None
    registry.remove(made)
    assert made not in registry
    assert (
        registry.get(made.session.id) is registry.of_owner("user:u1") is registry.at(made.session.spec.remote) is None
    )


def test_who_is_in_the_way_must_be_removed_first() -> None:
    registry = Registry()
    registry.add(live(1))
    with pytest.raises(AssertionError):
        registry.add(live(2, owner="user:u1"))
    with pytest.raises(AssertionError):
        registry.add(live(2, remote=Endpoint("198.51.100.7", 40001)))
    assert len(registry) == 1
    with pytest.raises(KeyError):
        registry.remove(live(3))


def test_it_may_change_while_it_is_gone_through() -> None:
    registry = Registry()
    for number in range(1, 5):
        registry.add(live(number))
    for each in registry:
        registry.remove(each)
    assert len(registry) == 0


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2), st.booleans()), max_size=40))
def test_sources_are_counted(calls: list[tuple[int, int, bool]]) -> None:
    sources = ["198.51.100.7", "2001:db8::1", "2001:db8::2:1"]
    registry, there = Registry(), {}
    for number, source, add in calls:
        if add and number not in there:
            there[number] = live(number, remote=Endpoint(sources[source], number))
            registry.add(there[number])
        elif not add and number in there:
            registry.remove(there.pop(number))
    of_4 = sum(each.session.spec.remote.address == sources[0] for each in there.values())
    assert registry.from_source(Endpoint(sources[0], 1)) == of_4
    assert registry.from_source(Endpoint("2001:db8::9", 1)) == len(there) - of_4
    assert [each.session.id for each in registry] == list(there)
    assert len(registry) == len(there)


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=30), st.integers(0, 7), st.integers(0, 3))
def test_found_by_what_its_tunnel_carries(calls: list[tuple[int, bool]], number: int, kind: int) -> None:
    registry, there = Registry(), {}
    for each, add in calls:
        if add and each not in there:
            made = live(each)
            route = IPv6Network(f"2001:db8:f{each}::/48")
            made.session = replace(made.session, spec=replace(made.session.spec, routes=(route,)))
            registry.add(made)
            there[each] = made
        elif not add and each in there:
            registry.remove(there.pop(each))
    known = spec(number)
    assert known.prefix is not None
    inner = (known.address, known.prefix[0], known.prefix[-1], IPv6Address(f"2001:db8:f{number}:1::1"))[kind]
    assert registry.carrying(inner) is there.get(number)
    assert registry.carrying(IPv6Address("2001:db9::1")) is None


def test_a_route_that_two_have_stays_with_the_first() -> None:
    registry, route = Registry(), IPv6Network("2001:db8:ff::/48")
    first, second = live(1), live(2)
    for each in (first, second):
        each.session = replace(each.session, spec=replace(each.session.spec, routes=(route,)))
        registry.add(each)
    assert registry.carrying(route[5]) is first
    registry.remove(second)
    assert registry.carrying(route[5]) is first
    registry.remove(first)
    assert registry.carrying(route[5]) is None
