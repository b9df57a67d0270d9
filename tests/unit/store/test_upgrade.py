# SPDX-License-Identifier: GPL-2.0-or-later
"""Databases of earlier schemas, as the release that had them wrote them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from support.stored import SetClock, make_store, now, opening, rows

from ddtb6.broker.ports import NO_TERMS, Ending
from ddtb6.store.database import STEPS, open_writer
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import Counters, TunnelId

VERSION_1 = Path(__file__).with_name("version_1.sql")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory with a database of version 1: users that come back, some that are on, a guest that sent nothing."""
    with closing(sqlite3.connect(tmp_path / "ddtb6.sqlite")) as connection:
        connection.executescript(VERSION_1.read_text())
        connection.execute("PRAGMA journal_mode = WAL")
    return tmp_path


def shape(path: Path) -> object:
    """Tables with their columns, and indexes with theirs."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_auto%'").fetchall()
        return {
            # sqlite-utils before 3.31 writes FLOAT for REAL, which is the same.
            (kind, name): [
                tuple("REAL" if each == "FLOAT" else each for each in row)
                for row in connection.execute(
                    f"SELECT * FROM pragma_{'table' if kind == 'table' else 'index'}_info(?)", (name,)
                )
            ]
            for kind, name in names
        }


def test_it_becomes_what_a_new_one_is_and_a_copy_stays(old: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = rows(old, "SELECT * FROM session")
    open_writer(old / "ddtb6.sqlite").close()
    new = tmp_path_factory.mktemp("new") / "ddtb6.sqlite"
    open_writer(new).close()
    assert shape(old / "ddtb6.sqlite") == shape(new)
    assert rows(old, "PRAGMA user_version") == [(len(STEPS),)]
    assert rows(old, "PRAGMA integrity_check") == [("ok",)]
    with closing(sqlite3.connect(old / "ddtb6.sqlite.backup-v1")) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT * FROM session").fetchall() == before


def test_sessions_leases_and_accounts_are_what_they_were(old: Path) -> None:
    store = make_store(old, clock=SetClock(1500.0))
    bob, carol = now(store.live_sessions())
    assert (bob.id, bob.owner, bob.carried, bob.terms) == (2, "user:bob", Counters(10, 1000, 20, 2000), NO_TERMS)
    assert (str(bob.spec.address), str(bob.spec.prefix), bob.spec.routes) == (
        "2001:db8:ffff:1::3",
        "2001:db8:200::/48",
        (),
    )
    assert (carol.id, carol.started) == (4, 1300.0)
    past = {each.id: each for each in now(store.past_sessions())}
    assert sorted(past) == [1, 2, 3, 4, 5]
    assert (past[TunnelId(1)].reason, past[TunnelId(1)].counters) == (
        EndReason.IDLE,
        Counters(1, 2, 3, 4, {Refusal.LOOP: 5}),
    )
    assert {(each.owner, str(each.prefix)) for each in now(store.leases())} == {
        ("user:alice", "2001:db8:ffff:1::4/128"),
        ("user:alice", "2001:db8:100:100::/56"),
        ("user:bob", "2001:db8:ffff:1::3/128"),
        ("user:bob", "2001:db8:200::/48"),
        ("user:carol", "2001:db8:ffff:1::2/128"),
        ("user:carol", "2001:db8:100::/56"),
    }
    holding = now(store.whois(IPv6Address("2001:db8:100::1"), 1050.0))
    assert holding is not None
    assert (holding.lease.owner, [each.id for each in holding.sessions]) == ("user:alice", [1])
    account = store.find_account("alice")
    assert account is not None
    assert account.digest == bytes(range(16))


def test_it_goes_on_with_the_next_id(old: Path) -> None:
    store = make_store(old, clock=SetClock(1500.0), journal=True)
    session = now(store.open_session(opening("user:alice", "homes")))
    assert (session.id, str(session.spec.prefix)) == (6, "2001:db8:100:100::/56")
    now(store.close_sessions([Ending(TunnelId(2), EndReason.IDLE, Counters(11, 1, 1, 1)), _ended(session.id)]))
    assert [(each.session.id, each.counters.packets_in) for each in now(store.waiting(0, 9)) if each.session] == [
        (6, 0),
        (2, 11),
        (6, 0),
    ]


def _ended(tunnel: TunnelId) -> Ending:
    return Ending(tunnel, EndReason.DELETED, Counters())
