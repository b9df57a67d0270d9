# SPDX-License-Identifier: GPL-2.0-or-later
"""The database file: making it, bringing it up to date, opening it.

`STEPS` is the whole schema and its history: step N takes a database from version N-1 to N (`PRAGMA user_version`).
A new file gets all of them under a temporary name and appears complete or not at all; an old file is copied to
``NAME.backup-vN`` first; a file of a newer version is refused and left as it is.

Invariant: WAL with synchronous=FULL on the connection that writes: what was committed survives a loss of power.
Not here: statements that read and write (`allocator`, `leases`, `sessions`, `journal`, `accounts`,
`management`, `past`).
"""

from __future__ import annotations

import inspect
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddtb6.broker.ports import StoreError

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x64647436
"""``ddt6`` in the header of every file of ours (`PRAGMA application_id`)."""
LOCK_PATIENCE = 5.0
"""Seconds that the writer waits for another process's transaction; it does so in its thread."""
READ_PATIENCE = 0.1
"""Seconds that a read on the reactor's thread waits; readers of a WAL wait for next to nothing."""


def open_writer(path: Path) -> sqlite3.Connection:
    """The connection that writes, to an up-to-date database that is made if there is none. Raises StoreError.

    Any thread may use it, one at a time.
    """
    with explained(path):
        if not path.exists():
            _create(path)
        # The default checkpoint after 1000 pages stands: it runs inside a COMMIT, so in the writer's thread.
        connection = _connect(path, LOCK_PATIENCE)
        try:
            _upgrade(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection for short reads on the reactor's thread, to a database that `open_writer` has opened."""
    with explained(path):
        connection = _connect(path, READ_PATIENCE)
        connection.execute("PRAGMA query_only = ON")
    return connection


# --- the schema ---------------------------------------------------------------------------------------------------


def _first(db: Database) -> None:
    db.table("account").create(
        {
            "name": str,  # as it is typed in; upper and lower case differ
            "digest": bytes,  # 16 octets of MD5(user:realm:password); NULL: no DIGEST-MD5 for this account
            "password_hash": str,  # scrypt$N$r$p$salt$hash; NULL: no PLAIN and no web log-in
            "disabled": int,  # 0 or 1
            "created": float,  # epoch seconds
        },
        pk="name",
        not_null={"name", "disabled", "created"},
    )

    # One row for each piece of a pool that was ever handed out. Rows of configured pools never overlap.
    db.table("lease").create(
        {
            "start": bytes,  # 16 octets, big-endian: the first address of the piece
            "length": int,  # prefix length; 128 for an address
            "pool": str,  # the configured pool it is a piece of; '' when no pool has it any more
            "owner": str,  # who holds it, or held it last; '' when that is forgotten
            "granted": float,  # epoch seconds
            "released": float,  # epoch seconds; NULL while it is held
        },
        pk="start",
        not_null={"start", "length", "pool", "owner", "granted"},
    )
    # The referee of "an owner holds at most one address and one prefix". sqlite-utils cannot make partial indexes.
    db.execute("CREATE UNIQUE INDEX lease_held ON lease (owner, length = 128) WHERE released IS NULL")
    db.table("lease").create_index(["owner"], index_name="lease_owner")
    # Longest rested first; and the count of what is held (released IS NULL).
    db.table("lease").create_index(["pool", "released"], index_name="lease_rest")

    # Earlier holdings of pieces that have been granted again since.
    db.table("lease_history").create(
        {
            "id": int,
            "start": bytes,  # as in lease
            "length": int,
            "pool": str,  # its pool at that time
            "owner": str,
            "granted": float,  # epoch seconds
            "released": float,  # epoch seconds
        },
        pk="id",
        not_null={"start", "length", "pool", "owner", "granted", "released"},
    )
    db.table("lease_history").create_index(["start", "granted"], index_name="lease_history_start")
    db.table("lease_history").create_index(["owner"], index_name="lease_history_owner")
    db.table("lease_history").create_index(["released"], index_name="lease_history_released")

    db.table("session").create(
        {
            "id": int,  # the TunnelId
            "owner": str,
            "user": str,  # account name; NULL for anonymous clients
            "remote_address": str,  # outer end of the client as observed, numeric
            "remote_port": int,
            "local_address": str,  # our outer end
            "local_port": int,
            "carrier": str,  # of the signalling: udp or tcp
            "encapsulation": str,  # tunnel type as RFC 5572 spells it
            "address": bytes,  # 16 octets, big-endian: inner address of the client
            "prefix": bytes,  # 16 octets, big-endian: delegated prefix; NULL: none
            "prefix_length": int,  # NULL: no prefix
            "mtu": int,  # octets
            "idle_limit": float,  # seconds; 0: never
            "mechanism": str,  # SASL mechanism
            "client_version": str,  # as the client names itself
            "started": float,  # epoch seconds
            "ended": float,  # epoch seconds; NULL while it lives
            "reason": str,  # an EndReason; NULL while it lives
            "packets_in": int,  # from the client, up to the last checkpoint or the end
            "octets_in": int,
            "packets_out": int,  # to the client
            "octets_out": int,
            "refused": str,  # JSON object, Refusal to packets; NULL: none
        },
        pk="id",
        not_null={
            *("owner", "remote_address", "remote_port", "local_address", "local_port", "carrier", "encapsulation"),
            *("address", "mtu", "idle_limit", "mechanism", "client_version", "started"),
            *("packets_in", "octets_in", "packets_out", "octets_out"),
        },
        defaults={"packets_in": 0, "octets_in": 0, "packets_out": 0, "octets_out": 0},
    )
    db.execute("CREATE INDEX session_live ON session (owner) WHERE ended IS NULL")
    db.execute("CREATE INDEX session_ended ON session (ended) WHERE ended IS NOT NULL")
    db.table("session").create_index(["owner", "started"], index_name="session_owner")


_SESSION = """
    CREATE TABLE session (
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- the TunnelId; also one whose row was deleted is never used again
        owner TEXT NOT NULL,
        user TEXT, -- account name; NULL for anonymous clients
        remote_address TEXT NOT NULL, -- outer end of the client as observed, numeric
        remote_port INTEGER NOT NULL,
        local_address TEXT NOT NULL, -- our outer end
        local_port INTEGER NOT NULL,
        carrier TEXT NOT NULL, -- of the signalling: udp or tcp
        encapsulation TEXT NOT NULL, -- tunnel type as RFC 5572 spells it
        address BLOB NOT NULL, -- 16 octets, big-endian: inner address of the client
        prefix BLOB, -- 16 octets, big-endian: delegated prefix; NULL: none
        prefix_length INTEGER, -- NULL: no prefix
        mtu INTEGER NOT NULL, -- octets
        idle_limit REAL NOT NULL, -- seconds; 0: never
        mechanism TEXT NOT NULL, -- SASL mechanism
        client_version TEXT NOT NULL, -- as the client names itself
        started REAL NOT NULL, -- epoch seconds
        ended REAL, -- epoch seconds; NULL while it lives
        reason TEXT, -- an EndReason; NULL while it lives
        packets_in INTEGER NOT NULL DEFAULT 0, -- from the client, up to the last checkpoint or the end
        octets_in INTEGER NOT NULL DEFAULT 0,
        packets_out INTEGER NOT NULL DEFAULT 0, -- to the client
        octets_out INTEGER NOT NULL DEFAULT 0,
        refused TEXT, -- JSON object, Refusal to packets; NULL: none
        routes TEXT, -- JSON array of prefixes as text: networks routed to the client besides its prefix; NULL: none
        terms TEXT -- JSON object: what the authenticator said, see store.terms; NULL: nothing
    )
"""
_JOURNAL = """
    CREATE TABLE journal (
        number INTEGER PRIMARY KEY AUTOINCREMENT, -- rises; also that of a deleted row is never used again
        kind INTEGER NOT NULL, -- a RecordKind, Acct-Status-Type of RFC 2866
        at REAL NOT NULL, -- epoch seconds of the event
        session_id INTEGER, -- session.id; NULL for On and Off
        session TEXT, -- JSON object: columns of the session row as it was then, which outlives that row; NULL as above
        packets_in INTEGER NOT NULL DEFAULT 0, -- of the session so far, as in its row then
        octets_in INTEGER NOT NULL DEFAULT 0,
        packets_out INTEGER NOT NULL DEFAULT 0,
        octets_out INTEGER NOT NULL DEFAULT 0,
        refused TEXT,
        reason TEXT -- an EndReason; only of a Stop
    )
"""


def _terms_and_journal(db: Database) -> None:
    # sqlite-utils cannot make AUTOINCREMENT, nor can SQLite add it to a table that is there.
    db.execute("ALTER TABLE session RENAME TO session_before")
    db.execute(_SESSION)
    db.execute("INSERT INTO session SELECT *, NULL, NULL FROM session_before")
    db.execute("DROP TABLE session_before")
    db.execute("CREATE INDEX session_live ON session (owner) WHERE ended IS NULL")
    db.execute("CREATE INDEX session_ended ON session (ended) WHERE ended IS NOT NULL")
    db.execute("CREATE INDEX session_owner ON session (owner, started)")

    # 1: a further network routed to the owner, 0: their address or prefix.
    db.execute("ALTER TABLE lease ADD COLUMN route INTEGER NOT NULL DEFAULT 0")
    # 1: released, and nobody is to be told who had it, whom `owner` names only so that they can have it again.
    db.execute("ALTER TABLE lease ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0")
    db.execute("DROP INDEX lease_held")
    db.execute("CREATE UNIQUE INDEX lease_held ON lease (owner, length = 128) WHERE released IS NULL AND route = 0")
    # What retention has to look at.
    db.execute("CREATE INDEX lease_released ON lease (released) WHERE released IS NOT NULL AND owner <> ''")

    db.execute(_JOURNAL)
    # Small beside the table: counting goes along it.
    db.execute("CREATE INDEX journal_session ON journal (session_id)")


def _management(db: Database) -> None:
    db.table("administrator").create(
        {"name": str, "password_hash": str, "created": float},  # as in account
        pk="name",
        not_null={"name", "password_hash", "created"},
    )
    db.table("token").create(
        {
            "name": str,  # what it is called, so that it can be found and revoked
            "hash": bytes,  # 32 octets, SHA-256 of its text
            "role": str,  # whose rights it has: administrator or owner
            "user": str,  # of an owner's: the account; '' of an administrator's
            "created": float,  # epoch seconds
        },
        pk="name",
        not_null={"name", "hash", "role", "user", "created"},
    )
    db.table("token").create_index(["hash"], index_name="token_hash", unique=True)
    db.table("token").create_index(["user"], index_name="token_user")
    db.execute("""
        CREATE TABLE audit (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL, -- epoch seconds
            who TEXT NOT NULL, -- such as administrator:NAME, token:NAME, user:NAME, local:UID
            source TEXT NOT NULL, -- numeric address it came from; '' of the machine itself
            action TEXT NOT NULL, -- the verb
            subject TEXT NOT NULL, -- JSON object: its arguments without secrets
            failed TEXT NOT NULL -- why it was not done; '' where it was
        )
    """)
    db.table("audit").create_index(["at"], index_name="audit_at")
    # What one account gets in place of what the pools would give it: JSON object, see store.terms; NULL: nothing.
    db.execute("ALTER TABLE account ADD COLUMN terms TEXT")


def _before(db: Database) -> None:
    # What a live session had carried when its present tunnel was raised: JSON array of four numbers and an object as
    # in refused; NULL: nothing.
    db.execute("ALTER TABLE session ADD COLUMN counted_before TEXT")


def _past(db: Database) -> None:
    db.execute("""
        CREATE TABLE past (
            step INTEGER NOT NULL, -- length of the span, seconds
            until REAL NOT NULL, -- epoch seconds up to which was counted when this was written
            at INTEGER NOT NULL, -- epoch seconds, begin of the span
            known REAL NOT NULL, -- seconds of it that the rest tells of
            octets_in REAL NOT NULL,
            octets_out REAL NOT NULL,
            packets_in REAL NOT NULL,
            packets_out REAL NOT NULL,
            logins REAL NOT NULL,
            refusals REAL NOT NULL,
            sessions REAL NOT NULL, -- seconds that tunnels stood, all together
            PRIMARY KEY (step, at)
        ) WITHOUT ROWID
    """)
    # A rowid table, so that a row with its ring is on one page.
    db.execute("""
        CREATE TABLE tunnel_past (
            owner TEXT NOT NULL UNIQUE,
            written REAL NOT NULL, -- epoch seconds
            ring BLOB NOT NULL -- see broker.ring
        )
    """)
    db.execute("CREATE INDEX tunnel_past_written ON tunnel_past (written)")


STEPS: tuple[Callable[[Database], None], ...] = (_first, _terms_and_journal, _management, _before, _past)


# --- making and upgrading -----------------------------------------------------------------------------------------


class _Connection(sqlite3.Connection):
    """Leaves ending the transaction to who began it: sqlite-utils before 4 commits in the middle with ``with conn``."""

    def __exit__(self, *_: object) -> Literal[False]:
        return False


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=patience, isolation_level=None, check_same_thread=False, factory=_Connection
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _create(path: Path) -> None:
    """Make the file with mode 0600, complete, unless somebody else is faster."""
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.new-", dir=path.parent)
    os.close(handle)
    try:
        with closing(_connect(Path(name), LOCK_PATIENCE)) as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _run_steps(connection, 0)
        # A link, where a rename would replace what another process made meanwhile.
        try:
            os.link(name, path)
        except FileExistsError:
            return
        _sync_directory(path.parent)
    finally:
        os.unlink(name)


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    version = _pragma(connection, "user_version")
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreError(f"{path} is not a database of ddtb6: move it away, and an empty one is made in its place.")
    if version > len(STEPS):
        raise StoreError(
            f"{path} was written by a newer ddtb6 (schema {version}, this one knows up to {len(STEPS)}): install that "
            f"release again, or go back to a {path.name}.backup-v* copy."
        )
    if version < len(STEPS):
        copy_to(connection, path.with_name(f"{path.name}.backup-v{version}"))
        _run_steps(connection, version)


def copy_to(
    connection: sqlite3.Connection, target: Path, amend: Callable[[sqlite3.Connection], object] = lambda _: None
) -> None:
    """Write a copy with mode 0600, `amend` it, and put it in the place of what is there."""
    handle, name = tempfile.mkstemp(prefix=f"{target.name}.new-", dir=target.parent)
    os.close(handle)
    try:
        with closing(sqlite3.connect(name)) as copy:
            connection.backup(copy)
            with copy:
                amend(copy)
        with open(name, "rb") as written:
            os.fsync(written)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    _sync_directory(target.parent)


def _run_steps(connection: sqlite3.Connection, version: int) -> None:
    """Take the schema from `version` to the newest, in one transaction."""
    # Imported here because most starts have nothing to do: the import takes 80 ms and 4 MB.
    from sqlite_utils import Database

    # Plugins of sqlite-utils have no business here; releases before 3.35 have none and do not know the argument.
    options: dict[str, Any] = (
        {"execute_plugins": False} if "execute_plugins" in inspect.signature(Database).parameters else {}
    )
    db = Database(connection, **options)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster.
        for step in STEPS[max(version, _pragma(connection, "user_version")) :]:
            step(db)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value = connection.execute(f"PRAGMA {name}").fetchone()[0]
    assert isinstance(value, int), f"{name} is a number in every SQLite database"
    return value


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the system says, as a sentence that says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise StoreError(
            f"The directory {path.parent} does not exist: make it, owned by the user who runs ddtb6, or set "
            "server.state to one that does."
        ) from None
    except OSError as error:
        raise StoreError(
            f"The database {path} cannot be made ({error.strerror}): {path.parent} must be a directory that the user "
            "who runs ddtb6 may write to."
        ) from None
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"The database {path} cannot be opened ({error}): the file and its directory must be writable by the user "
            "who runs ddtb6, and the disk must not be full."
        ) from None
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} cannot be used ({error}): put a backup in its place, or move it away.") from None
