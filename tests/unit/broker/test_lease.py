# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pools a request draws from, and what TSP calls a refusal."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest
from support.negotiations import CREATE
from support.stored import by_name, pool
from support.virtual import POOLS

from ddtb6.addressing.pool import Use
from ddtb6.broker.lease import Sources, refusal, sources
from ddtb6.broker.planes import DataPlaneError
from ddtb6.broker.ports import HoldsOther, Lease, PoolExhausted, Principal, StoreBusy, StoreError, UnknownPool
from ddtb6.tsp.messages import Create
from ddtb6.tsp.status import (
    AddressInUse,
    NoMoreTunnels,
    PrefixForAnonymous,
    PrefixLengthUnavailable,
    ServerError,
)

ALICE = Principal("user:alice", "alice")
GUEST = Principal("anonymous:203.0.113.5:1", None)


def asking(length: int | None) -> Create:
    return Create(CREATE.encapsulation, "10.0.0.1", prefix_length=length)


def test_accounts_and_guests_have_pools_of_their_own() -> None:
    assert sources(POOLS.values(), ALICE, asking(None)) == Sources(("links",), ())
    assert sources(POOLS.values(), GUEST, asking(None)) == Sources(("guests",), ())


@pytest.mark.parametrize(("length", "name"), [(56, "homes"), (48, "sites")])
def test_a_prefix_comes_out_of_a_pool_of_that_length_and_no_other(length: int, name: str) -> None:
    assert sources(POOLS.values(), ALICE, asking(length)).prefix == (name,)


@pytest.mark.parametrize("length", [1, 47, 57, 60, 64, 127, 128])
def test_another_length_is_507_and_says_which_there_are(length: int) -> None:
    with pytest.raises(PrefixLengthUnavailable) as caught:
        sources(POOLS.values(), ALICE, asking(length))
    assert caught.value.line == "507 Prefix length not available, choose 48, 56"


def test_without_pools_for_prefixes_507_says_so() -> None:
    with pytest.raises(PrefixLengthUnavailable) as caught:
        sources(by_name(POOLS["links"]).values(), ALICE, asking(56))
    assert caught.value.line == "507 No prefixes are delegated here"


def test_guests_get_no_prefix_whatever_its_length() -> None:
    for length in (48, 56, 63):
        with pytest.raises(PrefixForAnonymous):
            sources(POOLS.values(), GUEST, asking(length))


def test_without_a_pool_for_them_guests_get_nothing() -> None:
    with pytest.raises(NoMoreTunnels):
        sources(by_name(POOLS["links"]).values(), GUEST, asking(None))


def test_full_pools_are_passed_over_until_none_is_left() -> None:
    pools = by_name(*POOLS.values(), pool("more", "2001:db8:300::/48"), pool("links2", "2001:db8:9::/64", Use.ACCOUNTS))
    found = sources(pools.values(), ALICE, asking(56))
    assert found == Sources(("links", "links2"), ("homes", "more"))
    assert found.without("homes") == Sources(("links", "links2"), ("more",))
    with pytest.raises(NoMoreTunnels):
        found.without("homes").without("more")
    with pytest.raises(NoMoreTunnels):
        found.without("links").without("links2")
    assert Sources(("links",), ()).without("other") == Sources(("links",), ())


def test_refusals_have_a_status() -> None:
    held = Lease("sites", IPv6Network("2001:db8:200::/48"), "user:alice", 0.0, None)
    lines = {
        PoolExhausted("homes"): "301 No more tunnels available",
        HoldsOther(held): "507 This account holds a /48",
        UnknownPool("secret-name"): "310 Server side error",
        DataPlaneError("secret detail"): "310 Server side error",
        AddressInUse(): "506 Address already used by another tunnel",
        ServerError(): "310 Server side error",
    }
    for error, line in lines.items():
        found = refusal(error)
        assert found is not None
        assert found.line == line


@pytest.mark.parametrize("error", [StoreError("x"), StoreBusy("x"), ValueError("x"), KeyError("x"), AssertionError()])
def test_what_is_no_refusal_has_none(error: Exception) -> None:
    assert refusal(error) is None
