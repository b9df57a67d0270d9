# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import sqlite3
from contextlib import closing
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from support.stored import POOLS, QUARANTINE, HeldThread, SetClock, by_name, make_store, now, opening, pool, rows
from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from ddtb6.addressing.pool import Pool
from ddtb6.broker.ports import HoldsOther, PoolExhausted, UnknownPool
from ddtb6.store import store as store_module
from ddtb6.store.store import Store


def prefix_of(store: Store, owner: str, pool: str = "homes") -> str:
    return str(now(store.open_session(opening(owner, pool))).spec.prefix)


def address_of(store: Store, owner: str) -> str:
    return str(now(store.open_session(opening(owner))).spec.address)


def held(store: Store, owner: str | None = None) -> list[tuple[str, str, str]]:
    return [(each.owner, each.pool, str(each.prefix)) for each in now(store.leases(owner))]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return make_store(tmp_path, clock=clock)


HOMES = ["2001:db8:100::/56", "2001:db8:100:100::/56", "2001:db8:100:200::/56", "2001:db8:100:300::/56"]


def test_pieces_are_handed_out_from_the_lowest(store: Store) -> None:
    session = now(store.open_session(opening("user:alice", "homes")))
    assert session.spec.address == IPv6Address("2001:db8:ffff:1::2")
    assert session.spec.prefix == IPv6Network(HOMES[0])
    assert held(store) == [
        ("user:alice", "homes", HOMES[0]),
        ("user:alice", "links", "2001:db8:ffff:1::2/128"),
    ]
    assert address_of(store, "user:bob") == "2001:db8:ffff:1::3"


def test_an_owner_gets_the_same_again(store: Store, clock: SetClock) -> None:
    first = now(store.open_session(opening("user:alice", "homes"))).spec
    clock.now += 1e6
    again = now(store.open_session(opening("user:alice", "homes"))).spec
    assert (again.address, again.prefix) == (first.address, first.prefix)
    assert again.id != first.id
    assert len(held(store)) == 2
    assert {each.granted for each in now(store.leases())} == {1000.0}


def test_a_prefix_that_is_not_asked_for_stays_held(store: Store) -> None:
    prefix_of(store, "user:alice")
    assert now(store.open_session(opening("user:alice"))).spec.prefix is None
    assert len(held(store, "user:alice")) == 2
    assert prefix_of(store, "user:alice") == HOMES[0]


def test_a_pool_gives_all_it_has_and_then_says_its_name(store: Store) -> None:
    assert [prefix_of(store, f"user:{number}") for number in range(4)] == HOMES
    with pytest.raises(PoolExhausted) as refusal:
        prefix_of(store, "user:late")
    assert str(refusal.value) == "homes"
    assert held(store, "user:late") == []  # and no address either
    assert now(store.past_sessions("user:late")) == []
    assert prefix_of(store, "user:2") == HOMES[2]


def test_an_address_pool_gives_all_but_two(store: Store) -> None:
    assert [address_of(store, f"anonymous:{number}") for number in range(2)] == [
        "2001:db8:ffff:2::2",
        "2001:db8:ffff:2::3",
    ]
    with pytest.raises(PoolExhausted, match="guests"):
        address_of(store, "anonymous:late")


@pytest.mark.parametrize(
    ("address", "prefix"), [("missing", None), ("links", "missing"), ("homes", None), ("links", "links")]
)
def test_pools_are_named_rightly_or_refused(store: Store, address: str, prefix: str | None) -> None:
    with pytest.raises(UnknownPool) as refusal:
        now(store.open_session(opening("user:alice", prefix, address)))
    assert str(refusal.value) == (prefix or address)
    assert held(store) == []


def test_who_holds_another_length_is_told_which(store: Store) -> None:
    prefix_of(store, "user:alice", "homes")
    with pytest.raises(HoldsOther) as refusal:
        prefix_of(store, "user:alice", "sites")
    assert str(refusal.value.lease.prefix) == HOMES[0]
    assert refusal.value.lease.pool == "homes"
    now(store.release("user:alice"))
    assert prefix_of(store, "user:alice", "sites") == "2001:db8:200::/48"


def test_a_prefix_of_another_pool_and_the_same_length_will_do(tmp_path: Path) -> None:
    store = make_store(tmp_path, POOLS | by_name(pool("more", "2001:db8:300::/40")))
    assert prefix_of(store, "user:alice", "homes") == HOMES[0]
    assert prefix_of(store, "user:alice", "more") == HOMES[0]
    now(store.release("user:alice"))
    assert prefix_of(store, "user:alice", "more") == HOMES[0]
    assert prefix_of(store, "user:bob", "more") == "2001:db8:300::/56"


def test_release_returns_what_went_and_twice_is_nothing(store: Store, clock: SetClock) -> None:
    prefix_of(store, "user:alice")
    prefix_of(store, "user:bob")
    clock.now = 2000.0
    gone = now(store.release("user:alice"))
    assert [(each.pool, each.granted, each.released) for each in gone] == [
        ("homes", 1000.0, 2000.0),
        ("links", 1000.0, 2000.0),
    ]
    clock.now = 3000.0
    assert now(store.release("user:alice")) == []
    assert now(store.leases("user:alice", held=False)) == gone
    assert {owner for owner, _, _ in held(store)} == {"user:bob"}


def test_the_last_owner_gets_it_back_even_out_of_quarantine(store: Store, clock: SetClock) -> None:
    prefix_of(store, "user:alice")
    now(store.release("user:alice"))
    clock.now += 1
    assert prefix_of(store, "user:bob") == HOMES[1]
    assert prefix_of(store, "user:alice") == HOMES[0]


def test_a_piece_rests_before_another_owner_gets_it(store: Store, clock: SetClock) -> None:
    for number in range(4):
        prefix_of(store, f"user:{number}")
    now(store.release("user:3"))
    clock.now += 10
    now(store.release("user:1"))
    clock.now = 1000 + QUARANTINE - 0.001
    with pytest.raises(PoolExhausted):
        prefix_of(store, "user:late")
    clock.now = 1000 + QUARANTINE
    assert prefix_of(store, "user:late") == HOMES[3]
    with pytest.raises(PoolExhausted):
        prefix_of(store, "user:later")
    # Nobody's any more: its last owner comes back to another one.
    clock.now += 10
    assert prefix_of(store, "user:3") == HOMES[1]
    earlier = [each for each in now(store.leases(held=False)) if each.pool == "homes"]
    assert [(each.owner, each.granted, each.released) for each in earlier] == [
        ("user:1", 1000.0, 1010.0),
        ("user:3", 1000.0, 1000.0),
    ]


def test_the_longest_rested_goes_before_one_never_used(store: Store, clock: SetClock) -> None:
    for number in range(3):
        prefix_of(store, f"user:{number}")
    for number in (2, 0):
        clock.now += 1
        now(store.release(f"user:{number}"))
    clock.now += QUARANTINE
    assert [prefix_of(store, f"user:new{number}") for number in range(3)] == [HOMES[2], HOMES[0], HOMES[3]]


def test_a_clock_that_jumps_gives_nothing_twice(store: Store, clock: SetClock) -> None:
    prefix_of(store, "user:alice")
    now(store.release("user:alice"))
    clock.now = -1e9
    assert [prefix_of(store, f"user:{number}") for number in range(3)] == HOMES[1:]
    with pytest.raises(PoolExhausted):
        prefix_of(store, "user:late")


def test_usage_counts_what_is_held_and_what_rests(store: Store, clock: SetClock) -> None:
    for number in range(3):
        prefix_of(store, f"user:{number}")
    now(store.release("user:0"))
    assert now(store.pool_usage()) == {"links": (2, 1), "guests": (0, 0), "homes": (2, 1), "sites": (0, 0)}
    clock.now += QUARANTINE
    assert now(store.pool_usage()) == {"links": (2, 0), "guests": (0, 0), "homes": (2, 0), "sites": (0, 0)}


def test_listings_are_in_order_of_granting_over_all_pages(
    store: Store, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SLICE", 5)
    owners = [f"user:{number}" for number in range(23)]
    for number, owner in enumerate(owners):
        clock.now = 5000.0 - number
        address_of(store, owner)
    assert [each.owner for each in now(store.leases())] == owners[::-1]
    for moment in (6000.0, 7000.0):
        for owner in owners:
            now(store.release(owner))
            clock.now = moment
            address_of(store, owner)
    released = now(store.leases(held=False))
    assert len(released) == 46
    assert [each.granted for each in released] == sorted(each.granted for each in released)
    assert [each.granted for each in now(store.leases("user:7", held=False))] == [4993.0, 6000.0]


@pytest.mark.slow
def test_fifty_thousand_leases_and_then_exactly_what_is_left(tmp_path: Path) -> None:
    pools = by_name(POOLS["links"], pool("homes", "2001:db8:100::/40"))
    now(make_store(tmp_path, pools).close())
    gap = 50_000
    with closing(sqlite3.connect(tmp_path / "ddtb6.sqlite")) as connection, connection:
        connection.executemany(
            "INSERT INTO lease VALUES (?, 56, 'homes', ?, 1.0, NULL, 0, 0)",
            [
                (pools["homes"].piece(index).network_address.packed, f"user:{index}")
                for index in range(65530)
                if index != gap
            ],
        )
    store = make_store(tmp_path, pools)
    assert [prefix_of(store, f"user:new{number}") for number in range(7)] == [
        str(pools["homes"].piece(index)) for index in (gap, *range(65530, 65536))
    ]
    for number in range(100):
        with pytest.raises(PoolExhausted):
            prefix_of(store, f"user:late{number}")
    assert prefix_of(store, "user:40000") == str(pools["homes"].piece(40000))
    assert now(store.pool_usage())["homes"] == (65536, 0)
    assert len(now(store.leases())) == 65536 + 8


def test_of_what_was_released_the_last_are_listed(store: Store, clock: SetClock) -> None:
    for number in range(6):
        clock.now += 1
        address_of(store, f"user:{number % 3}")
        now(store.release(f"user:{number % 3}"))
        clock.now += QUARANTINE
        address_of(store, "user:other")  # so that it becomes history
        now(store.release("user:other"))
    everything = now(store.leases(held=False))
    assert len(everything) == 12
    assert now(store.leases(held=False, limit=5)) == everything[-5:]
    assert now(store.leases("user:0", held=False, limit=1)) == [
        [each for each in everything if each.owner == "user:0"][-1]
    ]


# --- pools that change between two starts ---


def reopened(tmp_path: Path, store: Store, clock: SetClock, *pools: Pool) -> Store:
    now(store.close())
    return make_store(tmp_path, by_name(POOLS["links"], POOLS["guests"], *pools), clock)


def test_leases_follow_their_addresses_when_a_pool_gets_another_name(
    tmp_path: Path, store: Store, clock: SetClock
) -> None:
    for owner in ("user:alice", "user:bob"):
        prefix_of(store, owner)
    now(store.release("user:bob"))
    store = reopened(tmp_path, store, clock, pool("renamed", "2001:db8:100::/54"))
    assert prefix_of(store, "user:carol", "renamed") == HOMES[2]
    assert prefix_of(store, "user:alice", "renamed") == HOMES[0]
    assert ("user:alice", "renamed", HOMES[0]) in held(store)
    assert now(store.pool_usage())["renamed"] == (2, 1)
    clock.now += QUARANTINE
    assert prefix_of(store, "user:dave", "renamed") == HOMES[1]


def test_a_pool_that_grows_keeps_what_it_gave(tmp_path: Path, store: Store, clock: SetClock) -> None:
    for number in range(4):
        prefix_of(store, f"user:{number}")
    # Upwards, and downwards too.
    store = reopened(tmp_path, store, clock, pool("homes", "2001:db8:100::/53"))
    assert prefix_of(store, "user:3") == HOMES[3]
    assert prefix_of(store, "user:new") == "2001:db8:100:400::/56"
    store = reopened(tmp_path, store, clock, pool("homes", "2001:db8::/39"))
    assert prefix_of(store, "user:newer") == "2001:db8::/56"
    assert prefix_of(store, "user:0") == HOMES[0]


def test_who_returns_to_a_pool_that_moved_gets_a_new_piece(tmp_path: Path, store: Store, clock: SetClock) -> None:
    prefix_of(store, "user:alice")
    store = reopened(tmp_path, store, clock, pool("homes", "2001:db8:500::/54"))
    assert ("user:alice", "", HOMES[0]) in held(store)
    assert prefix_of(store, "user:alice") == "2001:db8:500::/56"
    assert [pool_name for _, pool_name, _ in held(store, "user:alice")] == ["homes", "links"]
    # And back to where they were, if the pool moves back before somebody else was there.
    store = reopened(tmp_path, store, clock, POOLS["homes"])
    assert prefix_of(store, "user:alice") == HOMES[0]


def test_pieces_of_another_carving_are_in_the_way_until_they_have_rested(
    tmp_path: Path, store: Store, clock: SetClock
) -> None:
    for number in range(2):
        prefix_of(store, f"user:{number}")
    larger, smaller = pool("homes", "2001:db8:100::/46", length=48), pool("homes", "2001:db8:100::/54", length=60)
    store = reopened(tmp_path, store, clock, smaller)
    assert prefix_of(store, "user:small") == "2001:db8:100:200::/60"
    store = reopened(tmp_path, store, clock, larger)
    assert prefix_of(store, "user:large") == "2001:db8:101::/48"
    clock.now += 10
    for owner in ("user:0", "user:1", "user:small"):
        now(store.release(owner))
    clock.now += QUARANTINE
    store = reopened(tmp_path, store, clock, larger)
    assert prefix_of(store, "user:new") == "2001:db8:100::/48"
    holding = now(store.whois(IPv6Address("2001:db8:100:100::1"), 1000.0))
    assert holding is not None
    assert holding.lease.owner == "user:1"


def test_a_tool_without_pools_does_no_harm(tmp_path: Path, store: Store, clock: SetClock) -> None:
    prefix_of(store, "user:alice")
    now(store.close())
    now(make_store(tmp_path, {}, clock).close())
    assert prefix_of(make_store(tmp_path, POOLS, clock), "user:alice") == HOMES[0]


def test_the_schema_itself_lets_nobody_hold_two(tmp_path: Path, store: Store) -> None:
    prefix_of(store, "user:alice")
    piece = "x'" + IPv6Address("2001:db8:100:100::").packed.hex() + "'"
    with pytest.raises(sqlite3.IntegrityError, match="lease_held"):
        rows(tmp_path, f"INSERT INTO lease VALUES ({piece}, 56, 'homes', 'user:alice', 1.0, NULL, 0, 0)")


def test_what_was_undone_is_free_again(tmp_path: Path) -> None:
    thread = HeldThread()
    store = make_store(tmp_path, in_thread=thread)
    first, *others = [ensureDeferred(store.open_session(opening(f"user:{number}", "homes"))) for number in range(3)]
    thread.work()
    assert first.result is not None
    failures: list[Failure] = []
    for each in others:
        each.addErrback(failures.append)
    for _ in range(3):  # the two together, and each by itself
        [(_, commit)] = thread.jobs
        thread.jobs = []
        commit.errback(RuntimeError("the disk is on fire"))
    assert len(failures) == 2
    late = ensureDeferred(store.open_session(opening("user:late", "homes")))
    thread.work()
    assert str(late.result.spec.prefix) == HOMES[1]
    assert late.result.spec.address == IPv6Address("2001:db8:ffff:1::3")


def test_growth_is_what_is_held_more_than_before(store: Store, clock: SetClock) -> None:
    clock.now = 1e9
    prefix_of(store, "user:0")
    clock.now += 1800
    assert now(store.pool_growth()) == {}, "half an hour says nothing"
    clock.now += 86400 - 1800
    prefix_of(store, "user:1")
    assert now(store.pool_growth()) == {"homes": 2.0, "links": 2.0}, "two in the day that there was"
    clock.now += 10 * 86400
    assert now(store.pool_growth()) == {"homes": 0.0, "links": 0.0}
    now(store.release("user:0"))
    assert now(store.pool_growth())["homes"] == pytest.approx(-1 / 7)
    prefix_of(store, "user:2")
    assert now(store.pool_growth())["homes"] == 0.0
    clock.now += QUARANTINE
    for number in (3, 4):
        prefix_of(store, f"user:{number}")
    assert now(store.pool_growth())["homes"] == pytest.approx(2 / 7)
