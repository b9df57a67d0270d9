# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from support.stored import SetClock, by_name, make_store, now, opening, pool, rows
from twisted.internet.defer import ensureDeferred

from ddtb6.addressing.endpoint import Carrier, Encapsulation, Endpoint, Link
from ddtb6.addressing.pool import Use
from ddtb6.broker.ports import Ending, Holding, PastSession, PoolExhausted, Session
from ddtb6.store import store as store_module
from ddtb6.store.store import Store
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

COUNTERS = Counters(1, 2, 3, 2**62, {Refusal.SPOOFED_SOURCE: 4, Refusal.LOOP: 5})


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return make_store(tmp_path, clock=clock)


def open_one(
    store: Store, owner: str = "user:alice", prefix: str | None = None, remote: str = "198.51.100.7"
) -> Session:
    return now(store.open_session(opening(owner, prefix, remote=remote)))


def end(store: Store, *sessions: Session, reason: EndReason = EndReason.IDLE, counters: Counters = COUNTERS) -> None:
    now(store.close_sessions([Ending(each.id, reason, counters) for each in sessions]))


def ids(sessions: Iterable[Session | PastSession]) -> list[int]:
    return [each.id for each in sessions]


def test_a_session_is_what_was_asked_for_and_is_found_again(tmp_path: Path, store: Store, clock: SetClock) -> None:
    clock.now = 1234.5
    asked = dataclasses.replace(
        opening("user:alice", "homes"),
        link=Link(Carrier.TCP, Endpoint("2001:db8:f::1", 3653), Endpoint("2001:db8:f::2", 65535)),
        encapsulation=Encapsulation.V6V4,
        mtu=1480,
        idle_limit=0.0,
    )
    session = now(store.open_session(asked))
    spec = TunnelSpec(
        TunnelId(1),
        Encapsulation.V6V4,
        Endpoint("2001:db8:f::1", 0),
        Endpoint("2001:db8:f::2", 0),
        IPv6Address("2001:db8:ffff:1::2"),
        IPv6Network("2001:db8:100::/56"),
        1480,
    )
    assert session == Session(
        TunnelId(1), "user:alice", "alice", spec, "DIGEST-MD5", "test 1.0", 0.0, 1234.5, Counters()
    )
    assert now(store.live_sessions()) == [session]
    assert rows(tmp_path, "SELECT carrier FROM session") == [("tcp",)]
    now(store.close())
    assert now(make_store(tmp_path).live_sessions()) == [session]


def test_an_anonymous_session_has_no_user_and_no_prefix(store: Store) -> None:
    session = open_one(store, "anonymous:192.0.2.7:4000")
    assert (session.user, session.spec.prefix) == (None, None)
    assert now(store.live_sessions()) == [session]


def test_older_sessions_of_an_owner_stay_live_and_come_first(store: Store) -> None:
    sessions = [open_one(store), open_one(store, "user:bob"), open_one(store)]
    assert now(store.live_sessions()) == sessions


def test_an_ended_session_is_history(store: Store, clock: SetClock) -> None:
    session = open_one(store, prefix="homes")
    clock.now = 1500.0
    end(store, session)
    assert now(store.live_sessions()) == []
    [past] = now(store.past_sessions())
    assert (past.id, past.owner, past.user) == (session.id, "user:alice", "alice")
    assert (past.remote, past.local) == (session.spec.remote, session.spec.local)
    assert (past.address, past.prefix) == (session.spec.address, session.spec.prefix)
    assert (past.mechanism, past.client_version) == ("DIGEST-MD5", "test 1.0")
    assert (past.started, past.ended, past.reason, past.counters) == (1000.0, 1500.0, EndReason.IDLE, COUNTERS)


def test_closing_twice_keeps_the_first(store: Store, clock: SetClock) -> None:
    session = open_one(store)
    end(store, session, session)
    first = now(store.past_sessions())
    clock.now += 50
    end(store, session, reason=EndReason.DELETED, counters=Counters(9, 9, 9, 9))
    now(store.checkpoint({session.id: Counters(8, 8, 8, 8)}))
    assert now(store.past_sessions()) == first


def test_closing_what_never_was_is_nothing(store: Store) -> None:
    now(store.close_sessions([Ending(TunnelId(77), EndReason.IDLE, Counters())]))
    now(store.close_sessions([]))
    assert now(store.past_sessions()) == []


def test_a_checkpoint_is_found_after_a_restart(tmp_path: Path, store: Store) -> None:
    session, other = open_one(store), open_one(store, "user:bob")
    now(store.checkpoint({session.id: Counters(1, 1, 1, 1), TunnelId(99): COUNTERS}))
    now(store.checkpoint({session.id: COUNTERS}))
    now(store.close())
    assert [each.carried for each in now(make_store(tmp_path).live_sessions())] == [COUNTERS, Counters()]
    assert other.carried == Counters()


def test_words_of_a_newer_release_are_passed_over(tmp_path: Path, store: Store) -> None:
    sessions = [open_one(store), open_one(store, "user:bob")]
    end(store, *sessions)
    connection = sqlite3.connect(tmp_path / "ddtb6.sqlite")
    with connection:
        connection.execute(
            """UPDATE session SET reason = 'bored', refused = '{"too-blue": 1, "loop": 2}' WHERE id = 1"""
        )
    connection.close()
    past = now(store.past_sessions("user:alice"))[0]
    assert past.reason is None
    assert past.counters.refused == {Refusal.LOOP: 2}


def test_past_sessions_are_the_newest_first(store: Store, clock: SetClock) -> None:
    for number in range(6):
        clock.now += 1
        open_one(store, f"user:{number % 2}")
    assert ids(now(store.past_sessions(limit=4))) == [6, 5, 4, 3]
    assert ids(now(store.past_sessions("user:0", limit=2))) == [5, 3]
    assert ids(now(store.past_sessions("user:nobody"))) == []


# --- what goes with an anonymous session ---


def test_an_anonymous_lease_goes_with_its_session(store: Store, clock: SetClock) -> None:
    session = open_one(store, "anonymous:a")
    clock.now = 1001.0
    end(store, session)
    assert now(store.leases()) == []
    assert [(each.owner, each.released) for each in now(store.leases(held=False))] == [("anonymous:a", 1001.0)]


def test_an_account_keeps_its_lease(store: Store) -> None:
    end(store, open_one(store, prefix="homes"))
    assert len(now(store.leases("user:alice"))) == 2


def test_an_anonymous_lease_stays_while_another_session_has_it(store: Store) -> None:
    older, newer = open_one(store, "anonymous:a"), open_one(store, "anonymous:a")
    end(store, older)
    assert len(now(store.leases("anonymous:a"))) == 1
    end(store, older)
    assert len(now(store.leases("anonymous:a"))) == 1
    end(store, newer)
    assert now(store.leases("anonymous:a")) == []


def test_many_end_at_once_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SLICE", 5)
    turn: list[Callable[[], None]] = []
    store = make_store(tmp_path, later=turn.append)
    opened: list[Session] = []
    for number in range(11):
        ensureDeferred(store.open_session(opening(f"user:{number}"))).addCallback(opened.append)
    turn.pop()()
    done: list[object] = []
    ensureDeferred(store.checkpoint({each.id: COUNTERS for each in opened})).addCallback(done.append)
    turn.pop()()
    ensureDeferred(
        store.close_sessions([Ending(each.id, EndReason.DISCONNECTED, each.carried) for each in opened])
    ).addCallback(done.append)
    turn.pop()()
    assert done == [None, None]
    assert rows(tmp_path, "SELECT count(*), count(ended) FROM session") == [(11, 11)]


# --- whois ---


def whois(store: Store, address: str, at: float | None = None) -> Holding | None:
    return now(store.whois(IPv6Address(address), at))


def test_whois_names_owner_and_sessions_of_a_second(store: Store, clock: SetClock) -> None:
    first = open_one(store, prefix="homes", remote="198.51.100.1")
    clock.now = 1100.0
    end(store, first)
    clock.now = 1200.0
    second = open_one(store, prefix="homes", remote="198.51.100.2")
    clock.now = 1300.0
    third = open_one(store, remote="198.51.100.3")

    def found(address: str, at: float | None = None) -> list[int] | None:
        holding = whois(store, address, at)
        return None if holding is None else ids(holding.sessions)

    inside = "2001:db8:100:ff::1"
    assert found(inside, 998.9) is None
    assert found(inside, 999.5) == [first.id]  # a log that has whole seconds means all of this one
    assert found(inside, 1000) == [first.id]
    assert found(inside, 1099) == [first.id]
    assert found(inside, 1100) == []  # held, and in use by no session
    assert found(inside, 1199) == []
    assert found(inside, 1199.1) == [second.id]
    assert found(inside) == [second.id]  # the third did not ask for the prefix
    assert found("2001:db8:ffff:1::2") == [third.id, second.id]
    assert found("2001:db8:100:100::1") is None
    assert found("2001:db8:ffff:1::3") is None
    assert found("::") is None
    assert found("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff") is None
    holding = whois(store, inside)
    assert holding is not None
    assert (holding.lease.owner, holding.lease.prefix) == ("user:alice", IPv6Network("2001:db8:100::/56"))
    assert holding.sessions[0].remote.address == "198.51.100.2"


def test_whois_at_the_second_of_release_and_of_the_next_grant(store: Store, clock: SetClock) -> None:
    def owner(at: float) -> str | None:
        holding = whois(store, "2001:db8:100::1", at)
        return holding and holding.lease.owner

    open_one(store, "user:alice", "homes")
    clock.now = 1100.0
    now(store.release("user:alice"))
    assert [owner(at) for at in (999, 1000, 1099, 1100)] == [None, "user:alice", "user:alice", None]
    clock.now = 1200.25
    open_one(store, "user:bob", "homes")
    clock.now = 1300.75
    now(store.release("user:bob"))
    clock.now = 1400.75
    open_one(store, "user:bob", "homes")
    assert [owner(at) for at in (1099, 1100, 1199, 1200, 1300, 1301, 1399, 1400, 9999)] == [
        "user:alice",
        None,
        None,
        "user:bob",
        "user:bob",
        None,
        None,
        "user:bob",
        "user:bob",
    ]


def test_of_two_in_one_second_whois_names_the_later(tmp_path: Path, clock: SetClock) -> None:
    pools = by_name(pool("guests", "2001:db8:ffff:2::/126", Use.ANONYMOUS, quarantine=0.0))
    store = make_store(tmp_path, pools, clock)
    for moment, owner in ((1000.1, "anonymous:a"), (1000.5, "anonymous:b")):
        clock.now = moment
        end(store, open_one(store, owner))
    holding = whois(store, "2001:db8:ffff:2::2", 1000)
    assert holding is not None
    assert holding.lease.owner == "anonymous:b"
    assert ids(holding.sessions) == [2]


# --- guests that send nothing ---

SILENT = Counters(0, 0, 9, 9000, {Refusal.TOO_BIG: 1, Refusal.NOT_SENT: 1})


def test_a_guest_that_sent_nothing_leaves_no_history(tmp_path: Path, store: Store, clock: SetClock) -> None:
    for number in range(20):
        clock.now += 100  # their addresses are free again
        end(store, open_one(store, f"anonymous:{number}"), counters=SILENT)
    assert now(store.past_sessions()) == []
    assert now(store.leases(held=False)) == []
    assert whois(store, "2001:db8:ffff:2::2", clock.now - 1) is None
    assert whois(store, "2001:db8:ffff:2::2") is None
    tables = ("session", "lease_history", "lease", "journal")
    counts = [rows(tmp_path, f"SELECT count(*) FROM {table}")[0][0] for table in tables]
    assert counts == [0, 0, 1, 0]
    now(store.close())
    assert open_one(make_store(tmp_path, clock=clock), "anonymous:new").id == 21


@pytest.mark.parametrize("heard", [Counters(1, 60), Counters(refused={Refusal.SPOOFED_SOURCE: 1})])
def test_a_guest_that_sent_a_packet_is_history(store: Store, clock: SetClock, heard: Counters) -> None:
    session = open_one(store, "anonymous:a")
    clock.now += 10
    end(store, session, counters=heard)
    assert [each.counters for each in now(store.past_sessions())] == [heard]
    assert len(now(store.leases(held=False))) == 1
    holding = whois(store, "2001:db8:ffff:2::2", 1005.0)
    assert holding is not None
    assert ids(holding.sessions) == [session.id]


def test_an_account_that_sent_nothing_is_history(store: Store) -> None:
    end(store, open_one(store), counters=SILENT)
    assert len(now(store.past_sessions())) == 1


def test_a_guest_that_was_heard_before_stays_in_history(store: Store, clock: SetClock) -> None:
    first = open_one(store, "anonymous:a")
    clock.now = 1010.0
    again = open_one(store, "anonymous:a")
    end(store, first)
    clock.now = 1020.0
    end(store, again, counters=SILENT)
    clock.now = 2000.0
    open_one(store, "anonymous:b")  # gets the same address
    holding = whois(store, "2001:db8:ffff:2::2", 1005.0)
    assert holding is not None
    assert (holding.lease.owner, ids(holding.sessions)) == ("anonymous:a", [first.id])


def test_a_guest_that_sent_nothing_gets_its_address_again_and_others_wait(store: Store) -> None:
    for _ in range(5):
        session = open_one(store, "anonymous:a")
        assert session.spec.address == IPv6Address("2001:db8:ffff:2::2")
        end(store, session, counters=SILENT)
    assert open_one(store, "anonymous:b").spec.address == IPv6Address("2001:db8:ffff:2::3")
    with pytest.raises(PoolExhausted):
        open_one(store, "anonymous:c")


# --- what is forgotten ---


def test_who_held_last_is_forgotten_in_time_but_not_while_it_rests(store: Store, clock: SetClock) -> None:
    open_one(store, "user:alice", "homes")
    end(store, open_one(store, "anonymous:a"), counters=SILENT)
    now(store.release("user:alice"))
    clock.now += 99.0
    now(store.prune(clock.now))
    assert len(now(store.leases(held=False))) == 2
    clock.now += 2.0
    now(store.prune(clock.now))
    assert now(store.leases(held=False)) == []
    assert whois(store, "2001:db8:100::1", 1000.0) is None
    assert now(store.leases("user:alice", held=False)) == []
    assert now(store.leases("", held=False)) == []
    # The pieces are there, and nobody's.
    assert open_one(store, "user:bob", "homes").spec.prefix == IPv6Network("2001:db8:100::/56")
    assert [each.owner for each in now(store.leases())] == ["user:bob", "user:bob"]
    assert now(store.leases(held=False)) == []


def test_no_name_of_a_guest_is_kept_for_ever(tmp_path: Path, store: Store, clock: SetClock) -> None:
    end(store, open_one(store, "anonymous:192.0.2.7:4000"), counters=SILENT)
    clock.now += 1000
    now(store.prune(clock.now - 500))
    assert rows(tmp_path, "SELECT owner, forgotten FROM lease") == [("", 1)]


def test_pruning_forgets_what_ended_before(tmp_path: Path, store: Store, clock: SetClock) -> None:
    for number in range(5):
        clock.now = 1000.0 + 200 * number
        session = open_one(store, f"anonymous:{number}")
        clock.now += 10
        end(store, session)
    clock.now = 1500.0
    live = open_one(store)
    assert now(store.prune(1410.0)) == 4  # sessions 1 and 2, and their leases
    assert ids(now(store.past_sessions())) == [live.id, 5, 4, 3]
    assert now(store.prune(1410.0)) == 0
    assert now(store.leases("anonymous:0", held=False)) == []
    assert len(now(store.leases(held=False))) == 3


def test_ids_are_never_used_again(tmp_path: Path, store: Store, clock: SetClock) -> None:
    sessions = [open_one(store) for _ in range(3)]
    end(store, *sessions)
    clock.now += 1
    assert now(store.prune(clock.now)) == 3
    now(store.close())
    assert open_one(make_store(tmp_path)).id == 4


def test_pruning_goes_on_to_the_end(
    tmp_path: Path, store: Store, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SLICE", 5)
    for _ in range(17):
        clock.now += 1
        end(store, open_one(store, "anonymous:a"))
    clock.now += 1
    assert now(store.prune(clock.now)) == 17 + 16
    assert rows(tmp_path, "SELECT count(*) FROM session") == [(0,)]
    assert rows(tmp_path, "SELECT count(*) FROM lease_history") == [(0,)]
