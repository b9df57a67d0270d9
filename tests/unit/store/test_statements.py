# SPDX-License-Identifier: GPL-2.0-or-later
"""What the store asks SQLite, seen from beside it: nothing a log-in needs reads a whole table."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from support.stored import QUARANTINE, SetClock, make_store, now, opening

from ddtb6.broker.history import Cell, Span
from ddtb6.broker.journal import RecordKind
from ddtb6.broker.ports import Account, Ending, PoolExhausted, Terms
from ddtb6.store import store as store_module
from ddtb6.store.database import open_writer
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Statements of stores that are opened, with their values."""
    statements: list[str] = []

    def traced(path: Path) -> sqlite3.Connection:
        connection = open_writer(path)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(store_module, "open_writer", traced)
    return statements


def test_no_verb_of_a_session_reads_a_whole_table(tmp_path: Path, asked: list[str]) -> None:
    clock = SetClock()
    store = make_store(tmp_path, clock=clock, journal=True)
    asked.clear()
    for owner in ("user:a", "user:b", "user:c", "user:d", "user:a", "anonymous:a"):
        session = now(store.open_session(opening(owner, "homes" if owner.startswith("user") else None)))
    now(store.checkpoint({session.id: Counters(1, 1, 1, 1)}, interim=True))
    now(store.close_sessions([Ending(session.id, EndReason.IDLE, Counters())]))
    now(store.release("user:a"))
    with pytest.raises(PoolExhausted):
        now(store.open_session(opening("user:e", "homes")))
    clock.now += QUARANTINE
    now(store.open_session(opening("user:e", "homes")))
    now(store.whois(IPv6Address("2001:db8:100::1"), 1000.0))
    now(store.leases("user:a"))
    now(store.leases("user:a", held=False))
    now(store.leases(held=False))
    now(store.past_sessions())
    now(store.past_sessions("user:a"))
    now(store.pool_usage())
    now(store.add_cells({"user:a": [Cell(1, 1.0, 1.0)]}))
    now(store.ring("user:a"))
    now(store.write_past({60: [Span(60)]}, 120.0, {60: 0}))
    now(store.prune(0.0))
    now(store.change_terms(session.id, Terms(session_limit=60.0)))
    named = Terms(prefix=IPv6Network("2001:db8:200::/47"), routes=(IPv6Network("2001:db8:202::/48"),))
    clock.now += 1
    now(store.open_session(replace(opening("user:f", "sites"), terms=named)))
    now(store.open_session(replace(opening("user:f", "sites"), terms=replace(named, routes=()))))
    now(store.waiting(2, 10))
    now(store.accounts("a", "aa", 10))
    now(store.leases_behind(IPv6Address("2001:db8::"), 10))
    now(store.add_account(Account("a", None, None, False, 0.0)))
    now(store.set_account_terms("a", named))
    now(store.delete_account("a"))
    assert store.find_administrator("a") is store.find_token(b"") is None
    now(store.write_audit("local:root", "", "user.add", {}, ""))
    now(store.audit(7, 10))
    now(store.acknowledge([1]))
    now(store.append(RecordKind.ON))
    now(store.backlog())
    clock.now += QUARANTINE
    now(store.prune(clock.now))

    with closing(sqlite3.connect(tmp_path / "ddtb6.sqlite")) as connection:
        plans = {
            statement: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            for statement in asked
            if statement.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        }
    assert len(plans) > 45
    whole = {
        statement: step
        for statement, steps in plans.items()
        for step in steps
        if step.startswith("SCAN")
        # Reading the newest goes backwards along the row ids, or an index, and stops.
        and not ("DESC LIMIT" in statement and "TEMP B-TREE" not in "".join(steps))
        and step != "SCAN journal USING COVERING INDEX journal_session"
        and not step.startswith("SCAN json_each")
    }
    assert whole == {}


@pytest.mark.parametrize("journal", [False, True])
def test_a_returning_owner_costs_one_question_and_one_row(tmp_path: Path, asked: list[str], journal: bool) -> None:
    store = make_store(tmp_path, journal=journal)
    now(store.open_session(opening("user:a", "homes")))
    asked.clear()
    now(store.open_session(opening("user:a", "homes")))
    assert [statement.split()[0] for statement in asked] == [
        "BEGIN",
        "SELECT",
        "INSERT",
        *["INSERT"] * journal,
        "COMMIT",
    ]
