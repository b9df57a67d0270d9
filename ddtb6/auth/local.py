# SPDX-License-Identifier: GPL-2.0-or-later
"""Local users: DIGEST-MD5 judged at once, PLAIN in a few threads because its hash is slow on purpose.

Invariants: an account that exists cannot be told by timing from one that does not; the number of password checks that
wait is bounded; nothing logged or returned holds a secret.
Not here: the hashes (`auth.passwords`, `sasl.digest`), the accounts (`store`), the order of asking (`auth.chain`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ddtb6.addressing.endpoint import Link
from ddtb6.auth.passwords import verify_password
from ddtb6.broker.ports import (
    Accepted,
    Account,
    AccountStore,
    NotMine,
    Principal,
    Rejected,
    StoreError,
    Unavailable,
    Verdict,
)
from ddtb6.sasl import digest
from ddtb6.sasl.credentials import Credentials, DigestProof, Plain

P = ParamSpec("P")
T = TypeVar("T")

# Verifiers of an account that does not exist: nothing hashes to them, and checking them takes as long as any.
_NO_SECRET = bytes(range(1, 17))
_NO_PASSWORD = f"scrypt$16384$8$1${'A' * 22}==${'A' * 43}="

_WRONG_PASSWORD = Rejected("wrong password")


class LaneFull(Exception):
    """As much work as is allowed is waiting already."""


class ThreadLane:
    """Runs slow functions in a few threads of its own, and refuses more work than it was told to let wait."""

    def __init__(self, reactor: IReactorFromThreads, threads: int = 2, limit: int = 64) -> None:
        """`limit` bounds what runs or waits. Work handed in before `start` waits for it."""
        self._reactor = reactor
        self._limit = limit
        self._outstanding = 0
        self._pool = ThreadPool(minthreads=0, maxthreads=threads, name="ddtb6-slow")

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Blocks until what was handed in is done."""
        self._pool.stop()

    def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """What `work` returns or raises, or LaneFull. Cancelling ends the waiting, not the work: that stays counted."""
        if self._outstanding >= self._limit:
            return fail(LaneFull())
        self._outstanding += 1
        answer: Deferred[T] = Deferred()
        deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs).addBoth(self._finish, answer)
        return answer

    def _finish(self, result: Any, answer: Deferred[Any]) -> None:
        self._outstanding -= 1
        answer.callback(result)


class LocalUsers:
    """Judges PLAIN and DIGEST-MD5 by the accounts of the store."""

    mechanisms = frozenset({"PLAIN", "DIGEST-MD5"})

    def __init__(
        self,
        accounts: AccountStore,
        realm: str,
        in_thread: Callable[[Callable[[], bool]], Awaitable[bool]],
        *,
        last: bool = True,
    ) -> None:
        """`in_thread` runs a slow function elsewhere, or raises LaneFull (`ThreadLane`).

        `last` False: other authenticators are asked after this one, so the time that an unknown account takes is theirs
        to equalise, and no slow hash is spent on it here.
        """
        self._accounts = accounts
        self._realm = realm
        self._in_thread = in_thread
        self._last = last

    async def verify(self, credentials: Credentials, link: Link) -> Verdict:
        if not isinstance(credentials, DigestProof | Plain):
            return NotMine()
        try:
            account = self._accounts.find_account(credentials.user)
        except StoreError as error:
            return Unavailable(f"accounts cannot be read: {error}")
        if isinstance(credentials, DigestProof):
            return self._verify_digest(credentials, account)
        return await self._verify_plain(credentials, account)

    def _verify_digest(self, proof: DigestProof, account: Account | None) -> Verdict:
        secret = account.digest if account is not None else None
        rspauth = digest.check(proof, secret or _NO_SECRET)
        if account is None:
            return NotMine()
        if secret is None:
            return Rejected("the account has no DIGEST-MD5 secret; set its password again")
        if proof.realm != self._realm:
            return Rejected("not the realm that local accounts are kept for")
        return _WRONG_PASSWORD if rspauth is None else _accept(account, rspauth)

    async def _verify_plain(self, credentials: Plain, account: Account | None) -> Verdict:
        if account is None and not self._last:
            return NotMine()
        stored = account.password_hash if account is not None else None
        password = credentials.password
        try:
            right = await self._in_thread(lambda: verify_password(password, stored or _NO_PASSWORD))
        except LaneFull:
            return Unavailable("too many passwords are being checked")
        if account is None:
            return NotMine()
        if stored is None:
            if account.digest is None:
                return Rejected("the account has no password; set one")
            right = compare_digest(digest.user_secret(account.name, self._realm, password), account.digest)
        return _accept(account) if right else _WRONG_PASSWORD


def _accept(account: Account, rspauth: str | None = None) -> Verdict:
    if account.disabled:
        return Rejected("the account is disabled")
    return Accepted(Principal(f"user:{account.name}", account.name, account.terms), rspauth)
