# SPDX-License-Identifier: GPL-2.0-or-later
"""Verbs about who manages the broker: administrators, tokens for scripts, and the audit log.

Invariants: administrators are made on the machine itself only (no page and no route of the API has those verbs); the
text of a token is in the answer that made it and nowhere else.
Not here: what a role may do (`routes`), writing the audit log (`control`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from ddtb6.auth.passwords import hash_password, require_name, require_password
from ddtb6.broker.management import Administrator, AuditEntry, ManagementStore, Token
from ddtb6.broker.ports import Clock, NoSuchAccount
from ddtb6.web.verbs import ControlError, InThread, Kind

TOKEN_PREFIX = "ddtb6_"  # noqa: S105
"""So that a token that leaked is recognised as what it is."""
ROWS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class AdministratorView:
    """An administrator, without the password's hash."""

    name: str
    created: float
    """Epoch seconds."""


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token, without its text."""

    name: str
    role: str
    """Whose rights it has: ``administrator`` or ``owner``."""
    user: str
    """The account whose tunnel is meant; empty for an administrator's."""
    created: float
    """Epoch seconds."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made."""

    token: TokenView
    text: str
    """To be sent as ``Authorization: Bearer TEXT``. It is shown this once."""


def token_hash(text: str) -> bytes:
    """What a token is found by."""
    return sha256(text.encode("utf-8", "replace")).digest()


class Staff:
    """The verbs."""

    def __init__(
        self, store: ManagementStore, *, clock: Clock, in_thread: InThread, random_text: Callable[[], str]
    ) -> None:
        """`in_thread` hashes passwords; `random_text` gives at least 128 unpredictable bits in ASCII."""
        self._store = store
        self._clock = clock
        self._in_thread = in_thread
        self._random_text = random_text

    async def admin_add(self, name: str, password: str) -> AdministratorView:
        """Add an administrator."""
        made = Administrator(name, await self._hash(name, password), self._clock.epoch())
        await self._store.add_administrator(made)
        return AdministratorView(made.name, made.created)

    async def admin_passwd(self, name: str, password: str) -> AdministratorView:
        """Give an administrator another password, and end their sessions."""
        if self._store.find_administrator(name) is None:
            raise NoSuchAccount(name)
        await self._store.set_administrator_password(name, await self._hash(name, password))
        return next(each for each in await self.admin_list() if each.name == name)

    async def _hash(self, name: str, password: str) -> str:
        require_name(name)
        require_password(password)
        return await self._in_thread(partial(hash_password, password))

    async def admin_list(self) -> Sequence[AdministratorView]:
        """All administrators, by name."""
        return [AdministratorView(each.name, each.created) for each in await self._store.administrators()]

    async def admin_delete(self, name: str) -> AdministratorView:
        """Remove an administrator, and end their sessions."""
        known = self._store.find_administrator(name)
        await self._store.delete_administrator(name)
        assert known is not None, "deleting what is not there is refused"
        return AdministratorView(known.name, known.created)

    async def token_add(self, name: str, role: str, user: str = "") -> NewToken:
        """Make a token for scripts: with the rights of an administrator, or of the owner `user`."""
        require_name(name)
        if (role == "owner") is not bool(user):
            raise ControlError("an owner's token needs the argument user, and no other has it", Kind.REQUEST)
        text = TOKEN_PREFIX + self._random_text()
        token = Token(name, token_hash(text), role, user, self._clock.epoch())
        await self._store.add_token(token)
        return NewToken(_shown(token), text)

    async def token_list(self) -> Sequence[TokenView]:
        """All tokens, by name."""
        return [_shown(each) for each in await self._store.tokens()]

    async def token_delete(self, name: str) -> TokenView:
        """Revoke a token; what it was used for stops working at once."""
        known = [each for each in await self._store.tokens() if each.name == name]
        await self._store.delete_token(name)
        return _shown(known[0])

    async def audit(self, before: int | None = None, limit: int = ROWS_SHOWN) -> Sequence[AuditEntry]:
        """Who changed what, newest first, below the number `before`."""
        return await self._store.audit(before, limit)


def _shown(token: Token) -> TokenView:
    return TokenView(token.name, token.role, token.user, token.created)
