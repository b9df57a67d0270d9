# SPDX-License-Identifier: GPL-2.0-or-later
"""Verbs about users: local tunnel accounts, and what each of them gets.

Invariant: an account that is disabled or deleted keeps no tunnel; no answer holds a password or verifier.
Not here: users that an AAA keeps; who may call (`routes`, `control_site`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv6Address, IPv6Network

from ddtb6.addressing.pool import Pool, Use
from ddtb6.auth.passwords import new_account, new_secrets
from ddtb6.broker.ports import Account, Clock, Lease, NoSuchAccount, PastSession
from ddtb6.broker.views import SessionView
from ddtb6.tunnel.reasons import EndReason
from ddtb6.web.tunnels import Books, Tunnels
from ddtb6.web.verbs import ControlError, InThread, Kind

PAST_SHOWN = 10
"""How many sessions of the past `user.show` gives."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """What an account gets in place of what the pools would give it; null: as all."""

    address: IPv6Address | None
    prefix: IPv6Network | None
    address_pool: str | None
    prefix_pool: str | None


@dataclass(frozen=True, slots=True)
class User:
    """A local account, without its secrets."""

    name: str
    disabled: bool
    created: float
    """Epoch seconds."""
    mechanisms: tuple[str, ...]
    """By which it can log in."""
    assigned: Assigned


@dataclass(frozen=True, slots=True)
class UserDetails:
    """A user with what it holds and its last sessions."""

    account: User
    leases: Sequence[Lease]
    live: Sequence[SessionView]
    past: Sequence[PastSession]


@dataclass(frozen=True, slots=True)
class UserChanged:
    """What became of a user."""

    account: User
    disconnected: bool = False
    """It had a session, which was ended."""
    released: Sequence[Lease] = ()
    """What it held and gave up."""


class Accounts:
    """The verbs."""

    def __init__(
        self,
        store: Books,
        tunnels: Tunnels,
        pools: Mapping[str, Pool],
        *,
        realm: str,
        clock: Clock,
        in_thread: InThread,
    ) -> None:
        """`in_thread` hashes passwords."""
        self._store = store
        self._tunnels = tunnels
        self._pools = pools
        self._realm = realm
        self._clock = clock
        self._in_thread = in_thread

    async def add(self, name: str, password: str) -> User:
        """Add a user."""
        account = await self._in_thread(partial(new_account, name, password, self._realm, self._clock.epoch()))
        await self._store.add_account(account)
        return shown(account)

    async def passwd(self, name: str, password: str) -> User:
        """Give a user another password. A session that is up stays up."""
        self._account(name)
        digest, password_hash = await self._in_thread(partial(new_secrets, name, password, self._realm))
        await self._store.set_secrets(name, digest, password_hash)
        return shown(self._account(name))

    async def list(self, search: str = "", after: str = "", limit: int | None = None) -> Sequence[User]:
        """Users by name: those whose name begins with `search`, behind the name `after`, `limit` of them."""
        return [shown(account) for account in await self._store.accounts(search, after, limit)]

    async def show(self, name: str) -> UserDetails:
        """A user, what it holds, and its last sessions."""
        account, owner = self._account(name), f"user:{name}"
        past = await self._store.past_sessions(owner, PAST_SHOWN)
        live = [view for each in past if each.ended is None for view in await self._tunnels.views(each.id)]
        leases = await self._store.leases(owner)
        return UserDetails(shown(account), leases, live, [each for each in past if each.id not in {v.id for v in live}])

    async def assign(
        self,
        name: str,
        address: IPv6Address | None = None,
        prefix: IPv6Network | None = None,
        address_pool: str | None = None,
        prefix_pool: str | None = None,
    ) -> User:
        """Choose what a user gets from its next log-in on; what is left out, the pools decide as for all."""
        account = self._account(name)
        self._require(address, address_pool, Use.ACCOUNTS)
        self._require(prefix, prefix_pool, Use.PREFIXES)
        terms = replace(
            account.terms, address=address, prefix=prefix, address_pool=address_pool, prefix_pool=prefix_pool
        )
        for wanted in (address, prefix):
            first = wanted.network_address if isinstance(wanted, IPv6Network) else wanted
            holding = await self._store.whois(first) if first is not None else None
            if holding is not None and holding.lease.owner != f"user:{name}":
                sentence = f"{holding.lease.owner} holds {holding.lease.prefix}; `ddtb6 lease release` frees it"
                raise ControlError(sentence, Kind.CONFLICT)
        await self._store.set_account_terms(name, terms)
        return shown(self._account(name))

    def _require(self, wanted: IPv6Address | IPv6Network | None, pool: str | None, use: Use) -> None:
        """Raises ControlError for what no log-in could be granted."""
        suitable = [each for each in self._pools.values() if each.use is use]
        if pool is not None and pool not in {each.name for each in suitable}:
            names = ", ".join(each.name for each in suitable) or "none"
            raise ControlError(f'no pool for {use.value} is called "{pool}"; there are: {names}', Kind.CONFLICT)
        if wanted is None:
            return
        network = wanted if isinstance(wanted, IPv6Network) else IPv6Network(wanted)
        if not any(network.subnet_of(each.block) for each in suitable):
            raise ControlError(f"{wanted} is in no pool for {use.value}", Kind.CONFLICT)
        if use is Use.PREFIXES and network.prefixlen > 64:
            raise ControlError(f"{wanted} is longer than a /64, and no such prefix is routed", Kind.CONFLICT)
        if use is Use.ACCOUNTS and any(
            0 <= int(network.network_address) - int(each.block.network_address) < each.first for each in suitable
        ):
            raise ControlError(f"{wanted} is the broker's own", Kind.CONFLICT)

    async def disable(self, name: str) -> UserChanged:
        """Let a user log in no more, and end its session; it keeps its addresses."""
        await self._store.set_disabled(name, True)
        disconnected = await self._tunnels.disconnect(f"user:{name}", EndReason.DISABLED)
        return UserChanged(shown(self._account(name)), disconnected)

    async def enable(self, name: str) -> UserChanged:
        """Let a disabled user log in again."""
        await self._store.set_disabled(name, False)
        return UserChanged(shown(self._account(name)))

    async def delete(self, name: str) -> UserChanged:
        """Remove a user, end its session and release what it holds; its history stays."""
        account, owner = self._account(name), f"user:{name}"
        await self._store.set_disabled(name, True)  # so that nobody logs in between the steps
        disconnected = await self._tunnels.disconnect(owner, EndReason.DISABLED)
        leases = await self._store.leases(owner)
        await self._store.delete_account(name)
        return UserChanged(shown(account), disconnected, leases)

    def _account(self, name: str) -> Account:
        account = self._store.find_account(name)
        if account is None:
            raise NoSuchAccount(name)
        return account


def shown(account: Account) -> User:
    """An account without its secrets."""
    terms = account.terms
    verifiers = (("DIGEST-MD5", account.digest), ("PLAIN", account.password_hash))
    return User(
        name=account.name,
        disabled=account.disabled,
        created=account.created,
        mechanisms=tuple(mechanism for mechanism, verifier in verifiers if verifier),
        assigned=Assigned(terms.address, terms.prefix, terms.address_pool, terms.prefix_pool),
    )
