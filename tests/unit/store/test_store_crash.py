# SPDX-License-Identifier: GPL-2.0-or-later
"""Write down, then speak: what a process said before it was killed is in the file, and nothing is there twice."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from support.store_storm import POOLS
from support.stored import make_store, now, opening

from ddtb6.broker.journal import RecordKind
from ddtb6.tunnel.spec import TunnelId

ROUNDS = 6
TESTS = Path(__file__).parents[2]


def storm(directory: Path, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.store_storm", directory, str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )


def lines_until_killed(
    process: subprocess.Popen[str], count: int, other_reader: sqlite3.Connection
) -> Iterator[list[str]]:
    """Kill it after `count` lines; then what it had said by then is still in the pipe."""
    assert process.stdout is not None
    try:
        for number, line in enumerate(process.stdout):
            yield line.split()
            if number == count:
                process.kill()
            elif number % 50 == 0:
                # A reader in another process is never in the way, nor is it ever refused.
                other_reader.execute("SELECT count(*) FROM session").fetchone()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_what_was_confirmed_survives_a_kill_and_nothing_is_given_twice(tmp_path: Path) -> None:
    now(make_store(tmp_path, POOLS).close())
    sessions: dict[int, tuple[str, str, str]] = {}
    closed: set[int] = set()
    holds: dict[str, set[str]] = {}
    """By owner what they were told they have, until they were told, or might have been, that it went."""
    for seed in range(1, ROUNDS + 1):
        with closing(sqlite3.connect(tmp_path / "ddtb6.sqlite")) as other_reader:
            for what, *words in lines_until_killed(storm(tmp_path, seed), 300 * seed, other_reader):
                if what == "opened":
                    number, owner, *pieces = words
                    assert int(number) not in sessions
                    sessions[int(number)] = (owner, pieces[0], pieces[1])
                    holds[owner] = {each for each in pieces if each != "None"}
                elif what == "closed":
                    closed.add(int(words[0]))
                else:
                    assert what in ("releasing", "released"), (what, words)
                    holds.pop(words[0], None)

        store = make_store(tmp_path, POOLS, journal=True)
        records = now(store.waiting(0, 1_000_000))
        told = {each.session.id: each.session for each in records if each.session}
        for number, (owner, address, prefix) in sessions.items():
            session = told.get(TunnelId(number))
            assert (session is None) is owner.startswith("anonymous:")
            if session is None:
                continue
            assert (session.owner, str(session.spec.address), str(session.spec.prefix)) == (owner, address, prefix)

        # For accounts a Start for each session, a Stop for each that ended, with the fact they tell and each once.
        assert [each.number for each in records] == [*range(1, len(records) + 1)]
        starts, stops = (
            [each.session.id for each in records if each.kind is kind and each.session]
            for kind in (RecordKind.START, RecordKind.STOP)
        )
        there = now(store.live_sessions())
        live, of_accounts = {each.id for each in there}, {each.id for each in there if each.user}
        assert len({*starts}) == len(starts)
        assert len({*stops}) == len(stops)
        assert {*starts} == of_accounts | {*stops}
        assert of_accounts.isdisjoint(stops)
        assert {each for each in closed if sessions[each][0].startswith("user:")} <= {*stops}

        # What has a row and is over ended with a packet, or was an account's.
        written = {each.id: each for each in now(store.past_sessions(limit=1_000_000))}
        assert {each.id for each in written.values() if each.ended is None} == live
        assert {*starts} <= written.keys()
        assert all(each.user or each.ended is None or each.counters.packets_in for each in written.values())

        leases = now(store.leases())
        prefixes = [each.prefix for each in leases]
        assert len(set(prefixes)) == len(prefixes)
        assert len({(each.owner, each.prefix.prefixlen) for each in leases}) == len(leases)
        held = {(each.owner, each.prefix) for each in leases}
        for owner, pieces_of_owner in holds.items():
            if owner.startswith("user:"):  # those of anonymous owners go with their sessions
                assert {(owner, IPv6Network(each)) for each in pieces_of_owner} <= held

        # It goes on as if nothing had been.
        again = now(store.open_session(opening("user:0-0", "homes")))
        assert again.id not in sessions
        sessions[again.id] = (again.owner, str(again.spec.address), str(again.spec.prefix))
        holds[again.owner] = {str(again.spec.address), str(again.spec.prefix)}
        now(store.close())
    with closing(sqlite3.connect(tmp_path / "ddtb6.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(sessions) > 500
