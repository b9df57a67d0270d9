# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of the database: one taken while the daemon goes on, and one put in the place of what is there.

Source: SQLite's online backup: what a copy has is one committed state, whatever is written meanwhile.
Invariants: a copy appears whole or not at all, with mode 0600; ids of sessions and records that were given out after a
copy was taken are not given out again from it, so no two sessions of the books have one id.
Not here: whether the daemon runs (`cli.backup`).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ddtb6.broker.ports import StoreError
from ddtb6.store.database import APPLICATION_ID, STEPS, copy_to

SKIPPED_IDS = 1_000_000
"""Left out after the greatest id of a copy: more sessions than can have begun since it was taken."""


def back_up(database: Path, target: Path) -> int:
    """Write a copy of `database` to `target`, in place of an older copy; its octets. Raises StoreError."""
    try:
        if target.exists():
            _examine(target)  # Nothing is overwritten that was none of ours.
        if not database.exists():
            raise StoreError(f"{database} does not exist: there is nothing to copy.")
        with closing(_open(database)) as connection:
            _check(connection, database)
            copy_to(connection, target)
        return target.stat().st_size
    except sqlite3.Error as error:
        raise StoreError(f"{database} cannot be copied to {target}: {error}.") from None
    except OSError as error:
        if error.filename == str(database):
            raise StoreError(f"{database} cannot be read: {error.strerror}; run this as root.") from None
        raise StoreError(f"{target} cannot be written: {error.strerror}.") from None


def restore(source: Path, database: Path) -> Path | None:
    """Put the copy `source` in the place of `database`, which nobody may have open. Raises StoreError.

    Returns where what was there before is; None: there was nothing.
    """
    before = None
    try:
        if not source.exists():
            raise StoreError(f"{source} does not exist.")
        _examine(source)
        if database.exists():
            before = database.with_name(f"{database.name}.before-restore")
            _set_aside(database, before)
        with closing(_open(source)) as connection:
            copy_to(connection, database, _skip_ids)
        owner = database.parent.stat()
        for path in filter(None, (database, before)):
            os.chown(path, owner.st_uid, owner.st_gid)
    except sqlite3.Error as error:
        raise StoreError(f"{source} cannot be put in the place of {database}: {error}.") from None
    except OSError as error:
        place = error.filename or database
        what = "read" if place == str(source) else "written"
        raise StoreError(f"{place} cannot be {what}: {error.strerror}; run this as root.") from None
    return before


def _set_aside(database: Path, before: Path) -> None:
    """Copy what is there with what is in its write-ahead log; the log of the old must not be read into the new."""
    try:
        with closing(_open(database)) as connection:
            copy_to(connection, before)
    except sqlite3.DatabaseError:
        # It is damaged: perhaps that is why another one is wanted.
        os.replace(database, before)
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _examine(path: Path) -> None:
    """Raises StoreError for what is no sound database of ours, or of a newer release."""
    try:
        with closing(_open(path)) as connection:
            _check(connection, path)
    except sqlite3.Error as error:
        raise StoreError(f"{path} is no copy of a database of ddtb6: {error}.") from None


def _check(connection: sqlite3.Connection, path: Path) -> None:
    application, version, sound = (
        connection.execute(f"PRAGMA {each}").fetchone()[0]
        for each in ("application_id", "user_version", "quick_check(1)")
    )
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is no database of ddtb6; it is left as it is.")
    if version > len(STEPS):
        raise StoreError(f"{path} was written by a newer ddtb6 (schema {version}); install that release first.")
    if sound != "ok":
        raise StoreError(f"{path} is damaged: {sound}.")


def _skip_ids(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE sqlite_sequence SET seq = seq + ?", (SKIPPED_IDS,))


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=5, isolation_level=None)
