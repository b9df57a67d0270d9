# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from support.stored import HeldThread, SetClock, make_store, now, opening, rows
from twisted.internet.defer import ensureDeferred

from ddtb6.broker.journal import Record, RecordKind
from ddtb6.broker.ports import Ending, PoolExhausted, Session, Terms
from ddtb6.store import journal
from ddtb6.store import store as store_module
from ddtb6.store.store import Store
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import Counters, TunnelId

COUNTERS = Counters(1, 2, 3, 2**62, {Refusal.SPOOFED_SOURCE: 4})
TERMS = Terms(
    routes=(IPv6Network("2001:db8:200::/48"),),
    interim_interval=600.0,
    account_class=(b"\x00gold", b"", b"\xff"),
    billed_as="alice@example",
    by_radius=True,
)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return make_store(tmp_path, clock=clock, journal=True)


def open_one(store: Store, owner: str = "user:alice", terms: Terms = TERMS) -> Session:
    asked = opening(owner, "homes" if owner.startswith("user") else None)
    return now(store.open_session(replace(asked, terms=terms if owner == "user:alice" else Terms())))


def end(store: Store, *sessions: Session, counters: Counters = COUNTERS, reason: EndReason = EndReason.IDLE) -> None:
    now(store.close_sessions([Ending(each.id, reason, counters) for each in sessions]))


def waiting(store: Store) -> list[Record]:
    return list(now(store.waiting(0, 1000)))


def told(store: Store) -> list[tuple[RecordKind, int | None]]:
    return [(each.kind, each.session.id if each.session else None) for each in waiting(store)]


# --- what is written ---


def test_a_session_is_told_from_start_to_stop(store: Store, clock: SetClock) -> None:
    session = open_one(store)
    clock.now = 1100.0
    now(store.checkpoint({session.id: Counters(1, 1, 1, 1)}, interim=True))
    clock.now = 1200.0
    end(store, session)
    start, interim, stop = waiting(store)
    assert start == Record(1, RecordKind.START, 1000.0, session, Counters(), None)
    so_far = Counters(1, 1, 1, 1)
    assert interim == Record(2, RecordKind.INTERIM, 1100.0, replace(session, carried=so_far), so_far, None)
    assert stop == Record(3, RecordKind.STOP, 1200.0, replace(session, carried=COUNTERS), COUNTERS, EndReason.IDLE)
    assert stop.session is not None
    assert stop.session.terms == TERMS
    assert stop.session.spec.routes == TERMS.routes


def test_an_anonymous_session_is_nobodys_to_bill(store: Store) -> None:
    session = open_one(store, "anonymous:192.0.2.7:4000")
    now(store.checkpoint({session.id: COUNTERS}, interim=True))
    end(store, session)
    assert waiting(store) == []


def test_one_stop_however_often_it_is_closed(store: Store) -> None:
    session = open_one(store)
    end(store, session, session)
    end(store, session, counters=Counters(9, 9, 9, 9), reason=EndReason.DELETED)
    now(store.close_sessions([Ending(TunnelId(77), EndReason.IDLE, Counters())]))
    assert told(store) == [(RecordKind.START, 1), (RecordKind.STOP, 1)]
    assert waiting(store)[-1].counters == COUNTERS


def test_a_checkpoint_is_told_when_it_is_interim_and_the_session_lives(store: Store) -> None:
    live, ended = open_one(store), open_one(store, "user:bob")
    end(store, ended)
    now(store.checkpoint({live.id: COUNTERS, ended.id: COUNTERS, TunnelId(99): COUNTERS}))
    assert len(waiting(store)) == 3
    now(store.checkpoint({live.id: COUNTERS, ended.id: COUNTERS, TunnelId(99): COUNTERS}, interim=True))
    assert told(store)[3:] == [(RecordKind.INTERIM, live.id)]


def test_of_many_interims_that_wait_the_last_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MANY", 5)
    session, other = open_one(store), open_one(store, "user:bob")
    for octets in range(1, 10):
        now(store.checkpoint({session.id: Counters(1, octets, 1, octets)}, interim=True))
    assert told(store) == [(RecordKind.START, 1), (RecordKind.START, 2), (RecordKind.INTERIM, 1)]
    assert waiting(store)[-1].counters.octets_in == 9
    end(store, session, other)
    assert told(store)[-2:] == [(RecordKind.STOP, 1), (RecordKind.STOP, 2)]


def test_a_record_has_the_terms_of_its_time(store: Store) -> None:
    session = open_one(store)
    later = replace(TERMS, account_class=(b"silver",), idle_limit=60.0)
    now(store.change_terms(session.id, later))
    end(store, session)
    start, stop = waiting(store)
    assert start.session == session
    assert stop.session == replace(session, terms=later, idle_limit=60.0, carried=COUNTERS)


def test_a_refused_session_is_not_told(store: Store) -> None:
    for number in range(4):
        open_one(store, f"user:{number}")
    with pytest.raises(PoolExhausted):
        open_one(store, "user:late")
    assert len(waiting(store)) == 4


def test_on_and_off_are_about_no_session(store: Store, clock: SetClock) -> None:
    now(store.append(RecordKind.ON))
    clock.now = 1500.0
    now(store.append(RecordKind.OFF))
    assert waiting(store) == [
        Record(1, RecordKind.ON, 1000.0, None, Counters(), None),
        Record(2, RecordKind.OFF, 1500.0, None, Counters(), None),
    ]


def test_nothing_is_written_where_nobody_is_told(tmp_path: Path, clock: SetClock) -> None:
    store = make_store(tmp_path, clock=clock)
    session = open_one(store)
    now(store.checkpoint({session.id: COUNTERS}, interim=True))
    end(store, session)
    now(store.append(RecordKind.ON))
    assert waiting(store) == []
    assert rows(tmp_path, "SELECT count(*) FROM journal") == [(0,)]


def test_a_start_is_written_with_its_session_or_not_at_all(tmp_path: Path) -> None:
    thread = HeldThread()
    store = make_store(tmp_path, in_thread=thread, journal=True)
    opened = ensureDeferred(store.open_session(opening()))
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM session), (SELECT count(*) FROM journal)") == [(0, 0)]
    thread.work()
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM session), (SELECT count(*) FROM journal)") == [(1, 1)]
    closed = ensureDeferred(store.close_sessions([Ending(opened.result.id, EndReason.IDLE, COUNTERS)]))
    assert rows(tmp_path, "SELECT (SELECT count(ended) FROM session), (SELECT count(*) FROM journal)") == [(0, 1)]
    thread.work()
    assert closed.called
    assert rows(tmp_path, "SELECT (SELECT count(ended) FROM session), (SELECT count(*) FROM journal)") == [(1, 2)]


# --- what is read ---


def test_records_are_read_from_the_oldest_in_parts(store: Store) -> None:
    for number in range(3):
        end(store, open_one(store, f"user:{number}"))
    assert [each.number for each in now(store.waiting(0, 4))] == [1, 2, 3, 4]
    assert [each.number for each in now(store.waiting(4, 4))] == [5, 6]
    assert now(store.waiting(6, 4)) == []
    assert now(store.waiting(0, 0)) == []
    assert now(store.backlog()) == 6


def test_many_records_are_read_in_slices(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SLICE", 5)
    for number in range(8):
        end(store, open_one(store, f"user:{number % 2}"))
    for limit in (4, 5, 6, 10, 15, 16, 17):
        assert [each.number for each in now(store.waiting(0, limit))] == list(range(1, min(limit, 16) + 1))


def test_acknowledged_records_are_gone_and_others_stay(store: Store) -> None:
    for number in range(3):
        open_one(store, f"user:{number}")
    now(store.acknowledge([2, 77]))
    now(store.acknowledge(()))
    assert [each.number for each in waiting(store)] == [1, 3]
    assert now(store.backlog()) == 2


def test_numbers_rise_though_all_was_acknowledged_and_over_a_restart(tmp_path: Path, store: Store) -> None:
    open_one(store)
    open_one(store, "user:bob")
    now(store.acknowledge({1, 2}))
    end(store, open_one(store, "user:carol"))
    assert [each.number for each in waiting(store)] == [3, 4]
    now(store.acknowledge([3, 4]))
    now(store.close())
    again = make_store(tmp_path, journal=True)
    now(again.append(RecordKind.ON))
    assert [each.number for each in waiting(again)] == [5]


def test_records_outlive_a_restart_and_the_pruning_of_history(tmp_path: Path, store: Store, clock: SetClock) -> None:
    session = open_one(store)
    end(store, session)
    before = waiting(store)
    clock.now += 1e6
    assert now(store.prune(clock.now)) == 1
    now(store.close())
    again = make_store(tmp_path, clock=clock)  # those that waited when telling was switched off stay
    assert waiting(again) == before
    assert now(again.past_sessions()) == []


def test_many_are_told_and_acknowledged_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SLICE", 5)
    turn: list[Callable[[], None]] = []
    store = make_store(tmp_path, later=turn.append, journal=True)
    opened: list[Session] = []
    for number in range(11):
        ensureDeferred(store.open_session(opening(f"user:{number}"))).addCallback(opened.append)
    turn.pop()()
    ensureDeferred(store.checkpoint({each.id: COUNTERS for each in opened}, interim=True))
    turn.pop()()
    assert rows(tmp_path, "SELECT count(*) FROM journal WHERE kind = 3") == [(11,)]
    ensureDeferred(store.acknowledge(range(1, 21)))
    turn.pop()()
    assert rows(tmp_path, "SELECT number FROM journal ORDER BY number") == [(21,), (22,)]
