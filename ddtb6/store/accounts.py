# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about local accounts.

Invariant: each function that may refuse does so before it writes.
Not here: how verifiers are made and checked (`auth`), transactions (`writer`).
"""

from __future__ import annotations

import sqlite3
from typing import Any

from ddtb6.broker.ports import Account, AccountExists, NoSuchAccount, Terms
from ddtb6.store import terms as terms_text

_COLUMNS = "name, digest, password_hash, disabled, created, terms"


def find(connection: sqlite3.Connection, name: str) -> Account | None:
    """By exact name."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM account WHERE name = ?", (name,)).fetchone()
    return None if row is None else _account(row)


def page(connection: sqlite3.Connection, search: str, after: str, most: int) -> list[Account]:
    """Up to `most` whose name begins with `search`, by name, behind the name `after`."""
    beyond = f"{search}\U0010ffff"
    statement = f"SELECT {_COLUMNS} FROM account WHERE name > ? AND name >= ? AND name <= ? ORDER BY name LIMIT ?"
    return [_account(row) for row in connection.execute(statement, (after, search, beyond, most))]


def add(connection: sqlite3.Connection, account: Account) -> None:
    """Raises AccountExists."""
    secrets, terms = (account.digest, account.password_hash), terms_text.write(account.terms)
    values = (account.name, *secrets, int(account.disabled), account.created, terms)
    statement = f"INSERT INTO account ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    if not connection.execute(statement, values).rowcount:
        raise AccountExists(account.name)


def set_secrets(connection: sqlite3.Connection, name: str, digest: bytes | None, password_hash: str | None) -> None:
    """Raises NoSuchAccount."""
    statement = "UPDATE account SET digest = ?, password_hash = ? WHERE name = ?"
    if not connection.execute(statement, (digest, password_hash, name)).rowcount:
        raise NoSuchAccount(name)


def set_disabled(connection: sqlite3.Connection, name: str, disabled: bool) -> None:
    """Raises NoSuchAccount."""
    if not connection.execute("UPDATE account SET disabled = ? WHERE name = ?", (int(disabled), name)).rowcount:
        raise NoSuchAccount(name)


def set_terms(connection: sqlite3.Connection, name: str, terms: Terms) -> None:
    """Raises NoSuchAccount."""
    text = terms_text.write(terms)
    if not connection.execute("UPDATE account SET terms = ? WHERE name = ?", (text, name)).rowcount:
        raise NoSuchAccount(name)


def delete(connection: sqlite3.Connection, name: str) -> None:
    """Raises NoSuchAccount. Its leases are left to the caller."""
    if not connection.execute("DELETE FROM account WHERE name = ?", (name,)).rowcount:
        raise NoSuchAccount(name)


def _account(row: tuple[Any, ...]) -> Account:
    name, digest, password_hash, disabled, created, terms = row
    return Account(name, digest, password_hash, bool(disabled), created, terms_text.read(terms))
