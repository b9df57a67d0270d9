# SPDX-License-Identifier: GPL-2.0-or-later
"""What an authenticator names: prefixes, addresses, interface ids, routes and pools."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from support.stored import POOLS, QUARANTINE, SetClock, by_name, make_store, now, opening, pool, rows

from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.ports import Ending, NotGrantable, PoolExhausted, Session, Terms, UnknownPool
from ddtb6.store.store import Store
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters, TunnelId


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return make_store(tmp_path, clock=clock)


def open_one(store: Store, owner: str, terms: Terms | None = None, pool: str | None = "homes") -> Session:
    return now(store.open_session(replace(opening(owner, pool), terms=terms or Terms())))


def named(prefix: str) -> Terms:
    return Terms(prefix=IPv6Network(prefix))


def routed(*networks: str) -> Terms:
    return Terms(routes=tuple(map(IPv6Network, networks)))


def held(store: Store, owner: str | None = None) -> list[tuple[str, str, str]]:
    """Without addresses."""
    leases = now(store.leases(owner))
    return [(each.owner, each.pool, str(each.prefix)) for each in leases if each.prefix.prefixlen < 128]


def nothing_granted(store: Store, owner: str) -> bool:
    return not now(store.leases(owner)) and not now(store.past_sessions(owner))


# --- a prefix ---


@pytest.mark.parametrize(
    ("prefix", "pool"),
    [
        ("2001:db8:100:200::/56", "homes"),
        ("2001:db8:100::/54", ""),
        ("2001:db8:100:200::/55", ""),
        ("2001:db8:100:2c0::/59", ""),
        ("2001:db8:100:3ff::/64", ""),
        ("2001:db8:203::/48", "sites"),
    ],
)
def test_a_named_prefix_is_granted_exactly(store: Store, prefix: str, pool: str) -> None:
    session = open_one(store, "user:alice", named(prefix))
    assert str(session.spec.prefix) == prefix
    assert held(store) == [("user:alice", pool, prefix)]
    again = open_one(store, "user:alice", named(prefix))
    assert again.spec.prefix == session.spec.prefix
    assert held(store) == [("user:alice", pool, prefix)]


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("2001:db8:999::/56", "2001:db8:999::/56, which is in no pool for prefixes"),
        ("2001:db8:100::/53", "in no pool for prefixes"),
        ("2001:db8:ffff:1::/64", "in no pool for prefixes"),
        ("2001:db8:100::/65", "nothing longer than a /64 is routed"),
    ],
)
def test_what_is_not_ours_to_route_is_refused(store: Store, prefix: str, why: str) -> None:
    with pytest.raises(NotGrantable, match=why):
        open_one(store, "user:alice", named(prefix))
    assert nothing_granted(store, "user:alice")


@pytest.mark.parametrize("prefix", ["2001:db8:100::/56", "2001:db8:100::/54", "2001:db8:100:80::/64"])
def test_what_somebody_else_holds_is_refused(store: Store, prefix: str) -> None:
    open_one(store, "user:bob")
    with pytest.raises(NotGrantable, match=f"named {prefix}, and user:bob holds 2001:db8:100::/56"):
        open_one(store, "user:alice", named(prefix))
    assert nothing_granted(store, "user:alice")
    assert held(store) == [("user:bob", "homes", "2001:db8:100::/56")]


def test_a_piece_that_rests_after_another_is_granted_when_named(store: Store, clock: SetClock) -> None:
    open_one(store, "user:bob")
    clock.now = 1010.0
    now(store.release("user:bob"))
    clock.now = 1020.0
    assert str(open_one(store, "user:alice", named("2001:db8:100::/56")).spec.prefix) == "2001:db8:100::/56"
    clock.now = 1030.0
    assert str(open_one(store, "user:bob").spec.prefix) == "2001:db8:100:100::/56"
    earlier = now(store.leases("user:bob", held=False))
    assert [(each.released, each.prefix) for each in earlier if each.pool == "homes"] == [
        (1010.0, IPv6Network("2001:db8:100::/56"))
    ]


def test_pieces_that_rest_in_a_larger_one_become_history(store: Store, clock: SetClock) -> None:
    for number in range(3):
        open_one(store, f"user:{number}")
    clock.now = 1010.0
    for number in (0, 1):
        now(store.release(f"user:{number}"))
    clock.now = 1020.0
    open_one(store, "user:alice", named("2001:db8:100::/55"))
    for at, owner in ((1005.0, "user:1"), (1015.0, None), (1020.0, "user:alice")):
        holding = now(store.whois(IPv6Address("2001:db8:100:1ff::1"), at))
        assert (holding.lease.owner if holding else None) == owner
    assert str(open_one(store, "user:new").spec.prefix) == "2001:db8:100:300::/56"


def test_who_is_given_another_prefix_loses_the_one_before(store: Store, clock: SetClock) -> None:
    open_one(store, "user:alice")
    for moment, prefix in ((1010.0, "2001:db8:100:200::/56"), (1020.0, "2001:db8:100:200::/57")):
        clock.now = moment
        open_one(store, "user:alice", named(prefix))
        assert [each for _, _, each in held(store, "user:alice")] == [prefix]
    released = [(str(each.prefix), each.released) for each in now(store.leases("user:alice", held=False))]
    assert released == [("2001:db8:100::/56", 1010.0), ("2001:db8:100:200::/56", 1020.0)]


def test_another_length_is_no_matter_when_it_is_named(store: Store) -> None:
    open_one(store, "user:alice", pool="homes")
    assert str(open_one(store, "user:alice", named("2001:db8:200::/48"), "sites").spec.prefix) == "2001:db8:200::/48"
    assert held(store) == [("user:alice", "sites", "2001:db8:200::/48")]


def test_when_it_is_no_longer_named_a_piece_of_a_pool_stays_and_another_goes(store: Store) -> None:
    open_one(store, "user:alice", named("2001:db8:100:200::/56"))
    assert str(open_one(store, "user:alice").spec.prefix) == "2001:db8:100:200::/56"
    open_one(store, "user:bob", named("2001:db8:100:300::/57"))
    assert str(open_one(store, "user:bob").spec.prefix) == "2001:db8:100::/56"
    assert held(store, "user:bob") == [("user:bob", "homes", "2001:db8:100::/56")]


def test_a_prefix_that_is_not_asked_for_is_not_granted_though_it_is_named(store: Store) -> None:
    assert open_one(store, "user:alice", named("2001:db8:100:200::/56"), None).spec.prefix is None
    assert held(store) == []


def test_the_store_chooses_around_what_was_named(store: Store) -> None:
    open_one(store, "user:alice", named("2001:db8:100:80::/64"))
    open_one(store, "user:bob", named("2001:db8:100:3ff::/64"))
    assert [str(open_one(store, f"user:{number}").spec.prefix) for number in range(2)] == [
        "2001:db8:100:100::/56",
        "2001:db8:100:200::/56",
    ]
    with pytest.raises(PoolExhausted):
        open_one(store, "user:late")


@pytest.mark.parametrize("by", ["restart", "prune"])
def test_what_is_no_piece_of_a_pool_blocks_it_until_it_has_rested(
    tmp_path: Path, store: Store, clock: SetClock, by: str
) -> None:
    open_one(store, "user:alice", named("2001:db8:100::/54"))
    clock.now = 1010.0
    now(store.release("user:alice"))

    def come_by() -> Store:
        if by == "prune":
            assert now(store.prune(0.0)) == 0
            return store
        now(store.close())
        return make_store(tmp_path, clock=clock)

    clock.now = 1010.0 + QUARANTINE - 0.001
    store = come_by()
    with pytest.raises(PoolExhausted):
        open_one(store, "user:bob")
    clock.now = 1010.0 + QUARANTINE
    store = come_by()
    assert str(open_one(store, "user:bob").spec.prefix) == "2001:db8:100::/56"
    holding = now(store.whois(IPv6Address("2001:db8:100:300::1"), 1005.0))
    assert holding is not None
    assert (holding.lease.owner, [each.id for each in holding.sessions]) == ("user:alice", [1])


# --- an address ---


def test_a_named_address_is_granted_exactly(store: Store) -> None:
    terms = Terms(address=IPv6Address("2001:db8:ffff:1:a:b:c:d"))
    assert open_one(store, "user:alice").spec.address == IPv6Address("2001:db8:ffff:1::2")
    assert open_one(store, "user:alice", terms).spec.address == terms.address
    assert open_one(store, "user:alice").spec.address == terms.address
    assert [each.prefix.network_address for each in now(store.leases("user:alice")) if each.pool == "links"] == [
        terms.address
    ]
    with pytest.raises(
        NotGrantable, match="named 2001:db8:ffff:1:a:b:c:d, and user:alice holds 2001:db8:ffff:1:a:b:c:d"
    ):
        open_one(store, "user:bob", terms)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("2001:db8:ffff:1::", "which the broker itself uses"),
        ("2001:db8:ffff:1::1", "which the broker itself uses"),
        ("2001:db8:ffff:2::2", "2001:db8:ffff:2::2, which is in no pool for accounts"),
        ("2001:db8:100::1", "in no pool for accounts"),
    ],
)
def test_an_address_that_is_not_for_accounts_is_refused(store: Store, address: str, why: str) -> None:
    with pytest.raises(NotGrantable, match=why):
        open_one(store, "user:alice", Terms(address=IPv6Address(address)))
    assert nothing_granted(store, "user:alice")


def test_an_interface_id_is_the_low_half_of_the_first_network(tmp_path: Path) -> None:
    links = pool("links", "2001:db8:f000::/40", Use.ACCOUNTS)
    store = make_store(tmp_path, POOLS | by_name(links))
    terms = Terms(interface_id=0xFFFF_0000_0000_0007)
    assert open_one(store, "user:alice", terms).spec.address == IPv6Address("2001:db8:f000:0:ffff::7")
    with pytest.raises(NotGrantable, match="user:alice holds"):
        open_one(store, "user:bob", terms)
    both = replace(terms, address=IPv6Address("2001:db8:f0ff::9"))
    assert open_one(store, "user:bob", both).spec.address == both.address


@pytest.mark.parametrize("interface_id", [0, 1])
def test_an_interface_id_of_the_brokers_own_is_refused(store: Store, interface_id: int) -> None:
    with pytest.raises(NotGrantable, match="which the broker itself uses"):
        open_one(store, "user:alice", Terms(interface_id=interface_id))


def test_an_interface_id_needs_a_whole_network(tmp_path: Path) -> None:
    store = make_store(tmp_path, by_name(pool("links", "2001:db8:ffff:1::/65", Use.ACCOUNTS)))
    with pytest.raises(NotGrantable, match="needs a pool of a /64 or more, and links is 2001:db8:ffff:1::/65"):
        open_one(store, "user:alice", Terms(interface_id=7), None)
    with pytest.raises(UnknownPool):
        now(store.open_session(replace(opening(address="missing"), terms=Terms(interface_id=7))))


# --- routes ---


def test_routes_are_leased_and_come_back_after_a_restart(tmp_path: Path, store: Store) -> None:
    session = open_one(store, "user:alice", routed("2001:db8:201::/48", "2001:db8:202:ff00::/60"))
    assert session.spec.routes == (IPv6Network("2001:db8:201::/48"), IPv6Network("2001:db8:202:ff00::/60"))
    assert session.spec.prefix == IPv6Network("2001:db8:100::/56")
    assert held(store) == [
        ("user:alice", "homes", "2001:db8:100::/56"),
        ("user:alice", "sites", "2001:db8:201::/48"),
        ("user:alice", "", "2001:db8:202:ff00::/60"),
    ]
    now(store.close())
    assert now(make_store(tmp_path).live_sessions()) == [session]


def test_routes_need_no_prefix(store: Store) -> None:
    session = open_one(store, "user:alice", routed("2001:db8:201::/48"), None)
    assert (session.spec.prefix, session.spec.routes) == (None, (IPv6Network("2001:db8:201::/48"),))


@pytest.mark.parametrize("route", ["2001:db8:100::/60", "2001:db8:100::/54", "2001:db8:999::/48", "2001:db8:200::/65"])
def test_a_route_that_is_not_ours_or_another_holds_is_refused(store: Store, route: str) -> None:
    open_one(store, "user:bob")
    with pytest.raises(NotGrantable):
        open_one(store, "user:alice", routed("2001:db8:201::/48", route), None)
    assert nothing_granted(store, "user:alice")


def test_routes_go_when_they_are_no_longer_named(store: Store, clock: SetClock) -> None:
    open_one(store, "user:alice", routed("2001:db8:201::/48", "2001:db8:202::/60"))
    clock.now = 1010.0
    open_one(store, "user:alice", routed("2001:db8:202::/60"))
    assert [each for _, _, each in held(store)] == ["2001:db8:100::/56", "2001:db8:202::/60"]
    open_one(store, "user:alice")
    assert [each for _, _, each in held(store)] == ["2001:db8:100::/56"]
    released = {str(each.prefix): each.released for each in now(store.leases("user:alice", held=False))}
    assert released == {"2001:db8:201::/48": 1010.0, "2001:db8:202::/60": 1010.0}


def test_routes_are_released_with_everything_else(store: Store) -> None:
    open_one(store, "user:alice", routed("2001:db8:201::/48"))
    assert len(now(store.release("user:alice"))) == 3
    assert now(store.leases()) == []


def test_routes_inside_others_or_the_prefix_are_not_routed_twice(store: Store) -> None:
    terms = Terms(
        prefix=IPv6Network("2001:db8:100::/56"),
        routes=tuple(
            map(
                IPv6Network,
                ("2001:db8:100:ff::/64", "2001:db8:201:8000::/49", "2001:db8:201::/48", "2001:db8:201::/48"),
            )
        ),
    )
    session = open_one(store, "user:alice", terms)
    assert session.spec.routes == (IPv6Network("2001:db8:201::/48"),)
    assert session.terms == terms


def test_a_route_around_the_prefix_is_refused(store: Store) -> None:
    open_one(store, "user:alice")
    with pytest.raises(NotGrantable, match="2001:db8:100::/54, which contains the owner's prefix 2001:db8:100::/56"):
        open_one(store, "user:alice", routed("2001:db8:100::/54"))


def test_a_prefix_is_not_chosen_where_a_route_goes(store: Store) -> None:
    terms = routed("2001:db8:100::/56", "2001:db8:100:180::/64")
    assert str(open_one(store, "user:alice", terms).spec.prefix) == "2001:db8:100:200::/56"
    open_one(store, "user:bob", named("2001:db8:100:300::/56"))
    with pytest.raises(PoolExhausted):
        open_one(store, "user:late")


def test_prefix_and_route_change_places(store: Store) -> None:
    one, other = IPv6Network("2001:db8:100::/56"), IPv6Network("2001:db8:100:100::/56")
    for prefix, route in ((one, other), (other, one), (one, other)):
        spec = open_one(store, "user:alice", Terms(prefix=prefix, routes=(route,))).spec
        assert (spec.prefix, spec.routes) == (prefix, (route,))
        assert sorted(each for _, _, each in held(store)) == sorted(map(str, (one, other)))
    assert now(store.leases("user:alice", held=False)) == []


def test_a_route_that_was_held_makes_room_for_a_prefix_and_a_route_in_it(store: Store) -> None:
    whole, half, other = (IPv6Network(f"2001:db8:100:{part}") for part in (":/54", ":/57", "80::/57"))
    assert open_one(store, "user:alice", Terms(routes=(whole,)), None).spec.routes == (whole,)
    spec = open_one(store, "user:alice", Terms(prefix=other, routes=(half,))).spec
    assert (spec.prefix, spec.routes) == (other, (half,))


def test_a_held_prefix_that_is_not_asked_for_gives_way_to_a_route(store: Store) -> None:
    open_one(store, "user:alice")
    session = open_one(store, "user:alice", routed("2001:db8:100::/54"), None)
    assert session.spec.routes == (IPv6Network("2001:db8:100::/54"),)
    assert held(store) == [("user:alice", "", "2001:db8:100::/54")]


def test_whois_finds_who_a_route_goes_to(store: Store, clock: SetClock) -> None:
    first = open_one(store, "user:alice", routed("2001:db8:201::/48", "2001:db8:202:ff00::/61"))
    clock.now = 1100.0
    now(store.close_sessions([Ending(first.id, EndReason.IDLE, Counters())]))
    clock.now = 1200.0
    second = open_one(store, "user:alice", routed("2001:db8:202:ff00::/61"))

    def found(address: str, at: float) -> tuple[str, list[TunnelId]] | None:
        holding = now(store.whois(IPv6Address(address), at))
        return None if holding is None else (holding.lease.owner, [each.id for each in holding.sessions])

    assert found("2001:db8:201:1234::1", 1050) == ("user:alice", [first.id])
    assert found("2001:db8:201:1234::1", 1150) == ("user:alice", [])
    assert found("2001:db8:201:1234::1", 1250) is None
    assert found("2001:db8:202:ff07::1", 1050) == ("user:alice", [first.id])
    assert found("2001:db8:202:ff07::1", 1250) == ("user:alice", [second.id])
    assert found("2001:db8:202:ff08::1", 1250) is None
    assert found("2001:db8:100::1", 1250) == ("user:alice", [second.id])


# --- a pool ---


@pytest.fixture
def pools() -> dict[str, Pool]:
    return POOLS | by_name(pool("gold", "2001:db8:300::/54"), pool("vips", "2001:db8:ffff:3::/64", Use.ACCOUNTS))


def test_who_is_put_into_another_pool_gets_a_piece_of_that(tmp_path: Path, pools: dict[str, Pool]) -> None:
    store = make_store(tmp_path, pools)

    def spec(terms: Terms) -> tuple[str, str]:
        asked = opening("user:alice", terms.prefix_pool or "homes", terms.address_pool or "links")
        got = now(store.open_session(replace(asked, terms=terms))).spec
        return str(got.address), str(got.prefix)

    before, gold = ("2001:db8:ffff:1::2", "2001:db8:100::/56"), ("2001:db8:ffff:3::2", "2001:db8:300::/56")
    assert spec(Terms()) == before
    assert spec(Terms(prefix_pool="gold", address_pool="vips")) == gold
    assert len(now(store.leases("user:alice"))) == 2
    assert spec(Terms()) == gold  # of a pool that is like the one asked for
    assert spec(Terms(prefix_pool="homes", address_pool="links")) == before
    assert spec(Terms(prefix_pool="sites")) == (before[0], "2001:db8:200::/48")
    assert len(now(store.leases("user:alice"))) == 2


# --- terms ---


def test_terms_are_kept_and_changed_while_the_session_lives(tmp_path: Path, store: Store) -> None:
    terms = Terms(session_limit=3600.0, account_class=(b"\x00\xff",), routes=(IPv6Network("2001:db8:201::/48"),))
    session = open_one(store, "user:alice", terms)
    assert session.terms == terms
    assert now(store.live_sessions()) == [session]
    changed = Terms(session_limit=60.0, idle_limit=30.0)
    now(store.change_terms(session.id, changed))
    assert now(store.live_sessions()) == [replace(session, terms=changed, idle_limit=30.0)]
    now(store.change_terms(session.id, Terms()))
    assert now(store.live_sessions()) == [replace(session, terms=Terms(), idle_limit=30.0)]
    now(store.close_sessions([Ending(session.id, EndReason.SESSION_TIMEOUT, Counters())]))
    now(store.change_terms(session.id, changed))
    now(store.change_terms(TunnelId(77), changed))
    assert rows(tmp_path, "SELECT terms FROM session") == [(None,)]
    assert now(store.past_sessions())[0].reason is EndReason.SESSION_TIMEOUT
