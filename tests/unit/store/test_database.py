# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ddtb6.broker.ports import StoreError
from ddtb6.store import database
from ddtb6.store.database import APPLICATION_ID, STEPS, open_reader, open_writer


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def made(path: Path) -> Path:
    open_writer(path).close()
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def add_colour(db: object) -> None:
    db.table("account").add_column("colour", str)  # type: ignore[attr-defined]


def drop_digest(db: object) -> None:
    db.table("account").transform(drop={"digest"})  # type: ignore[attr-defined]


def test_a_new_database_is_complete_private_and_durable(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o750)
    path = tmp_path / "ddtb6.sqlite"
    connection = open_writer(path)
    assert pragma(connection, "user_version") == len(STEPS)
    assert pragma(connection, "application_id") == APPLICATION_ID
    assert pragma(connection, "journal_mode") == "wal"
    assert pragma(connection, "synchronous") == 2  # FULL: a COMMIT waits for the disk
    assert pragma(connection, "foreign_keys") == 1
    connection.execute("INSERT INTO account (name, disabled, created) VALUES ('alice', 0, 1.0)")
    assert {mode(each) for each in tmp_path.iterdir()} == {0o600}  # also those that SQLite puts beside it
    connection.close()
    assert [each.name for each in tmp_path.iterdir()] == ["ddtb6.sqlite"]
    assert mode(tmp_path) == 0o750


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = made(tmp_path / "ddtb6.sqlite")
    before = path.read_bytes()
    made(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(_: object) -> None:
        raise ValueError("a bug in a step")

    monkeypatch.setattr(database, "STEPS", (*STEPS, fault))
    with pytest.raises(ValueError, match="a bug"):
        open_writer(tmp_path / "ddtb6.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_who_creates_second_takes_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ddtb6.sqlite"

    def be_slow(_: object) -> None:
        monkeypatch.setattr(database, "STEPS", STEPS)
        with open_writer(path) as other:
            other.execute("INSERT INTO account (name, disabled, created) VALUES ('alice', 0, 1.0)")
            other.close()

    monkeypatch.setattr(database, "STEPS", (*STEPS, be_slow))
    connection = open_writer(path)
    assert connection.execute("SELECT name FROM account").fetchall() == [("alice",)]
    connection.close()
    assert [each.name for each in tmp_path.iterdir()] == ["ddtb6.sqlite"]


def test_an_older_database_is_copied_and_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "ddtb6.sqlite")
    with sqlite3.connect(path) as old:
        old.execute(
            "INSERT INTO account (name, digest, password_hash, disabled, created) VALUES ('alice', x'00', NULL, 0, 1.0)"
        )
    old.close()
    monkeypatch.setattr(database, "STEPS", (*STEPS, add_colour, drop_digest))
    connection = open_writer(path)
    assert pragma(connection, "user_version") == len(STEPS) + 2
    assert connection.execute("SELECT name, colour FROM account").fetchall() == [("alice", None)]
    assert "digest" not in [row[1] for row in connection.execute("PRAGMA table_info(account)")]
    connection.close()

    backup = tmp_path / f"ddtb6.sqlite.backup-v{len(STEPS)}"
    assert sorted(tmp_path.iterdir()) == [path, backup]
    assert mode(backup) == 0o600
    with sqlite3.connect(backup) as copy:
        assert copy.execute("SELECT name, digest, password_hash, disabled, created FROM account").fetchall() == [
            ("alice", b"\0", None, 0, 1.0)
        ]
        assert pragma(copy, "user_version") == len(STEPS)
    copy.close()

    # The copy is what an operator goes back to.
    monkeypatch.setattr(database, "STEPS", STEPS)
    os.replace(backup, path)
    open_writer(path).close()


def test_an_upgrade_that_fails_changes_nothing_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "ddtb6.sqlite")

    def fault(_: object) -> None:
        raise ValueError("a bug in a step")

    monkeypatch.setattr(database, "STEPS", (*STEPS, add_colour, drop_digest, fault))
    with pytest.raises(ValueError, match="a bug"):
        open_writer(path)
    with sqlite3.connect(path) as left:
        assert pragma(left, "user_version") == len(STEPS)
        columns = [row[1] for row in left.execute("PRAGMA table_info(account)")]
    left.close()
    assert "digest" in columns
    assert "colour" not in columns
    monkeypatch.setattr(database, "STEPS", (*STEPS, add_colour))
    open_writer(path).close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_newer_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = made(tmp_path / "ddtb6.sqlite")
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    newer.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"newer ddtb6 \(schema {len(STEPS) + 1}.*install that release"):
        open_writer(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_somebody_elses_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ddtb6.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE recipe (name)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a database of ddtb6: move it away"):
        open_writer(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to have a header" * 40])
def test_what_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ddtb6.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="move it away"):
        open_writer(path)
    assert path.read_bytes() == content


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"directory .*/missing does not exist: make it"):
        open_writer(tmp_path / "missing" / "ddtb6.sqlite")


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file must be a directory that the user"):
        open_writer(tmp_path / "file" / "ddtb6.sqlite")


@pytest.mark.parametrize("exists", [False, True])
def test_what_may_not_be_written_is_explained(exists: bool) -> None:
    script = """if True:
        import os, sys
        from pathlib import Path
        from ddtb6.store.database import open_writer
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write everywhere
        try:
            open_writer(Path(sys.argv[1]))
        except Exception as error:
            print(type(error).__name__, error)
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "ddtb6.sqlite")
        if exists:
            made(path).chmod(0o444)
        os.chmod(directory, 0o555)
        tried = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert tried.stdout.startswith(f"StoreError The database {path} cannot be "), tried
    assert "writ" in tried.stdout


def test_the_reader_cannot_write(tmp_path: Path) -> None:
    path = made(tmp_path / "ddtb6.sqlite")
    reader = open_reader(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM account")
    reader.close()


def test_most_starts_do_without_sqlite_utils(tmp_path: Path) -> None:
    path = made(tmp_path / "ddtb6.sqlite")
    script = (
        "import sys; from pathlib import Path; from ddtb6.store.database import open_writer\n"
        "open_writer(Path(sys.argv[1])); print('sqlite_utils' in sys.modules)"
    )
    started = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert started.stdout == "False\n"
