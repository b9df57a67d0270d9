# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of a database in use, and their way back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.stored import SetClock, make_store, now, opening, rows

from ddtb6.broker.ports import StoreError
from ddtb6.store.backup import SKIPPED_IDS, back_up, restore


def test_a_copy_of_a_database_in_use_and_back(tmp_path: Path) -> None:
    copy, database = tmp_path / "copy", tmp_path / "ddtb6.sqlite"
    store = make_store(tmp_path, clock=SetClock(1000.0))
    first = now(store.open_session(opening("alice")))
    assert back_up(database, copy) == copy.stat().st_size
    assert copy.stat().st_mode & 0o777 == 0o600
    later = now(store.open_session(opening("bob")))
    now(store.close())
    before = restore(copy, database)
    assert before == tmp_path / "ddtb6.sqlite.before-restore"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy", "ddtb6.sqlite", "ddtb6.sqlite.before-restore"]
    with closing(sqlite3.connect(before)) as old:
        assert old.execute("SELECT id FROM session ORDER BY id").fetchall() == [(first.id,), (later.id,)]
    again = make_store(tmp_path, clock=SetClock(2000.0))
    assert [each.id for each in now(again.live_sessions())] == [first.id]
    assert now(again.open_session(opening("bob"))).id == first.id + SKIPPED_IDS + 1, "bob's old id must not come again"
    now(again.close())
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]


def test_what_is_in_the_log_only_is_in_the_copy(tmp_path: Path) -> None:
    """And a log that was left by a crash is not read into what is put in the place of its database."""
    store = make_store(tmp_path)
    now(store.open_session(opening("alice")))
    database = tmp_path / "ddtb6.sqlite"
    copy = tmp_path / "copy"
    back_up(database, copy)
    now(store.open_session(opening("bob")))
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for each in tmp_path.glob("ddtb6.sqlite*"):
        (crashed / each.name).write_bytes(each.read_bytes())
    assert (crashed / "ddtb6.sqlite-wal").stat().st_size > 0
    restore(copy, crashed / "ddtb6.sqlite")
    assert rows(crashed, "SELECT count(*) FROM session") == [(1,)]
    with closing(sqlite3.connect(crashed / "ddtb6.sqlite.before-restore")) as old:
        assert old.execute("SELECT count(*) FROM session").fetchone() == (2,)
    now(store.close())


def test_nothing_of_somebody_elses_is_overwritten_or_taken(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    database = tmp_path / "ddtb6.sqlite"
    text, foreign, empty = tmp_path / "notes.txt", tmp_path / "foreign", tmp_path / "empty"
    text.write_text("my notes, " * 100)
    empty.touch()
    with closing(sqlite3.connect(foreign)) as other:
        other.execute("CREATE TABLE a (b)")
    for path in (text, foreign, empty):
        kept = path.read_bytes()
        for attempt in (lambda path=path: back_up(database, path), lambda path=path: restore(path, database)):
            with pytest.raises(StoreError, match=r"no (copy of a )?database of ddtb6"):
                attempt()
        assert path.read_bytes() == kept
    with pytest.raises(StoreError, match="does not exist"):
        restore(tmp_path / "none", database)
    with pytest.raises(StoreError, match="nothing to copy"):
        back_up(tmp_path / "none.sqlite", tmp_path / "x")
    with pytest.raises(StoreError, match="cannot be written"):
        back_up(database, tmp_path / "no" / "such" / "place")
    now(store.close())


def test_a_copy_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    copy = tmp_path / "copy"
    back_up(tmp_path / "ddtb6.sqlite", copy)
    with closing(sqlite3.connect(copy)) as newer:
        newer.execute("PRAGMA user_version = 999")
    with pytest.raises(StoreError, match="newer ddtb6"):
        restore(copy, tmp_path / "ddtb6.sqlite")


def test_a_damaged_database_gives_way_to_a_copy(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    now(store.open_session(opening("alice")))
    now(store.close())
    database, copy = tmp_path / "ddtb6.sqlite", tmp_path / "copy"
    back_up(database, copy)
    database.write_bytes(b"\0" * 5000)
    with pytest.raises(StoreError):
        back_up(database, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    before = restore(copy, database)
    assert before is not None
    assert before.read_bytes() == b"\0" * 5000
    assert rows(tmp_path, "SELECT count(*) FROM session") == [(1,)]
