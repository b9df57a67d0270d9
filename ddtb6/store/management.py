# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about who manages the broker: administrators, API tokens, and the audit log of what was changed.

Invariants: each function that may refuse does so before it writes; a token's text is nowhere, only its SHA-256.
Not here: what is logged and who may what (`web`), transactions (`writer`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from ddtb6.broker.management import Administrator, AuditEntry, Token
from ddtb6.broker.ports import AccountExists, NoSuchAccount

_TOKEN = "name, hash, role, user, created"  # noqa: S105
_AUDIT = "number, at, who, source, action, subject, failed"


def find_administrator(connection: sqlite3.Connection, name: str) -> Administrator | None:
    """By exact name."""
    found = connection.execute("SELECT name, password_hash, created FROM administrator WHERE name = ?", (name,))
    row = found.fetchone()
    return None if row is None else Administrator(*row)


def any_administrator(connection: sqlite3.Connection) -> bool:
    """Whether there is one."""
    return connection.execute("SELECT 1 FROM administrator LIMIT 1").fetchone() is not None


def administrators(connection: sqlite3.Connection) -> list[Administrator]:
    """All, by name."""
    rows = connection.execute("SELECT name, password_hash, created FROM administrator ORDER BY name")
    return [Administrator(*row) for row in rows]


def add_administrator(connection: sqlite3.Connection, each: Administrator) -> None:
    """Raises AccountExists."""
    statement = "INSERT INTO administrator (name, password_hash, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    if not connection.execute(statement, (each.name, each.password_hash, each.created)).rowcount:
        raise AccountExists(each.name)


def set_administrator_password(connection: sqlite3.Connection, name: str, password_hash: str) -> None:
    """Raises NoSuchAccount."""
    statement = "UPDATE administrator SET password_hash = ? WHERE name = ?"
    if not connection.execute(statement, (password_hash, name)).rowcount:
        raise NoSuchAccount(name)


def delete_administrator(connection: sqlite3.Connection, name: str) -> None:
    """Raises NoSuchAccount."""
    if not connection.execute("DELETE FROM administrator WHERE name = ?", (name,)).rowcount:
        raise NoSuchAccount(name)


def find_token(connection: sqlite3.Connection, hash: bytes) -> Token | None:
    """By the SHA-256 of its text."""
    row = connection.execute(f"SELECT {_TOKEN} FROM token WHERE hash = ?", (hash,)).fetchone()
    return None if row is None else Token(*row)


def tokens(connection: sqlite3.Connection) -> list[Token]:
    """All, by name."""
    return [Token(*row) for row in connection.execute(f"SELECT {_TOKEN} FROM token ORDER BY name")]


def add_token(connection: sqlite3.Connection, token: Token) -> None:
    """Raises AccountExists."""
    statement = f"INSERT INTO token ({_TOKEN}) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    values = (token.name, token.hash, token.role, token.user, token.created)
    if not connection.execute(statement, values).rowcount:
        raise AccountExists(token.name)


def delete_token(connection: sqlite3.Connection, name: str) -> None:
    """Raises NoSuchAccount."""
    if not connection.execute("DELETE FROM token WHERE name = ?", (name,)).rowcount:
        raise NoSuchAccount(name)


def delete_tokens_of(connection: sqlite3.Connection, user: str) -> None:
    """Revoke the tokens of an account that goes."""
    connection.execute("DELETE FROM token WHERE user = ?", (user,))


def write_audit(
    connection: sqlite3.Connection, at: float, who: str, source: str, action: str, subject: Mapping[str, Any], why: str
) -> None:
    """Add an entry; `why` it failed, empty if it did not."""
    statement = "INSERT INTO audit (at, who, source, action, subject, failed) VALUES (?, ?, ?, ?, ?, ?)"
    text = json.dumps(subject, ensure_ascii=False)
    connection.execute(statement, (at, who, source, action, text, why))


def audit(connection: sqlite3.Connection, before: int | None, most: int) -> list[AuditEntry]:
    """Up to `most` entries, newest first, below number `before`."""
    statement = f"SELECT {_AUDIT} FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?"
    rows = connection.execute(statement, (1 << 62 if before is None else before, most))
    return [
        AuditEntry(number, at, who, source, action, json.loads(subject), why)
        for (number, at, who, source, action, subject, why) in rows
    ]


def prune_audit(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Forget up to `most` entries from before `before`, oldest first; returns how many went."""
    statement = "DELETE FROM audit WHERE number IN (SELECT number FROM audit WHERE at < ? ORDER BY at LIMIT ?)"
    return connection.execute(statement, (before, most)).rowcount


def trim_audit(connection: sqlite3.Connection, keep: int, most: int) -> int:
    """Forget up to `most` of the oldest entries while there are more than `keep`; returns how many went."""
    statement = """
        DELETE FROM audit WHERE number IN (
            SELECT number FROM audit WHERE number <= (SELECT max(number) FROM audit) - ? ORDER BY number LIMIT ?
        )
    """
    return connection.execute(statement, (keep, most)).rowcount
