# SPDX-License-Identifier: GPL-2.0-or-later
"""Who manages the broker over the network, and what they did: values, and the port of the store that keeps them.

Invariant: no password and no text of a token in here, only what they are checked by.
Not here: accounts of clients (`ports`), what a role may do (`web`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Administrator:
    """Somebody who may manage the broker over the network."""

    name: str
    password_hash: str = field(repr=False)
    """As `Account.password_hash`."""
    created: float
    """Epoch seconds."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a script shows in place of a password."""

    name: str
    hash: bytes = field(repr=False)
    """SHA-256 of its text, which is nowhere."""
    role: str
    """Whose rights it has: ``administrator`` or ``owner``."""
    user: str
    """The account whose tunnel is meant; empty for an administrator's."""
    created: float
    """Epoch seconds."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change that somebody made or tried to make."""

    number: int
    """Rises."""
    at: float
    """Epoch seconds."""
    who: str
    """Such as ``administrator:NAME``, ``token:NAME``, ``user:NAME``, ``local:ROOT``."""
    source: str
    """Numeric address that they came from; empty on the machine itself."""
    action: str
    """The verb."""
    subject: Mapping[str, object]
    """Its arguments, secrets left out."""
    failed: str
    """Why it was not done; empty where it was."""


class ManagementStore(Protocol):
    """Who manages the broker, and what they did. Writes are durable when their awaitable fires."""

    def find_administrator(self, name: str) -> Administrator | None:
        """By exact name; at once, as `AccountStore.find_account`. Raises StoreError."""

    def any_administrator(self) -> bool:
        """Whether there is one; at once. Raises StoreError."""

    async def administrators(self) -> Sequence[Administrator]:
        """All, by name."""

    async def add_administrator(self, administrator: Administrator) -> None:
        """Raises AccountExists."""

    async def set_administrator_password(self, name: str, password_hash: str) -> None:
        """Raises NoSuchAccount."""

    async def delete_administrator(self, name: str) -> None:
        """Raises NoSuchAccount."""

    def find_token(self, hash: bytes) -> Token | None:
        """By the SHA-256 of its text; at once. Raises StoreError."""

    async def tokens(self) -> Sequence[Token]:
        """All, by name."""

    async def add_token(self, token: Token) -> None:
        """Raises AccountExists."""

    async def delete_token(self, name: str) -> None:
        """Raises NoSuchAccount."""

    async def write_audit(self, who: str, source: str, action: str, subject: Mapping[str, object], failed: str) -> None:
        """Add an entry to the audit log, now."""

    async def audit(self, before: int | None = None, limit: int = 100) -> Sequence[AuditEntry]:
        """The newest `limit` entries, or those below number `before`; newest first."""
