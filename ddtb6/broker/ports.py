# SPDX-License-Identifier: GPL-2.0-or-later
"""The roles the broker needs filled, as protocols; technologies fill them further out.

Invariants: no port names a technology; verbs are idempotent unless they say otherwise; an exception other than the
documented ones is a bug.
Not here: the adapters (`auth`, `store`, `dataplane`) and their wiring (`app`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Protocol

from ddtb6.addressing.endpoint import Encapsulation, Endpoint, Link
from ddtb6.sasl.credentials import Credentials
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import NOTHING_COUNTED, Counters, TunnelId, TunnelSpec

# --- time ---------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """Two readings that must not be mixed."""

    def monotonic(self) -> float:
        """Seconds since some start; for deadlines."""

    def epoch(self) -> float:
        """Seconds since 1970 UTC; for what is written down."""


# --- authentication -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What an authenticator says that a principal gets; what it leaves open, the configuration decides.

    RADIUS attribute numbers in brackets.
    """

    address: IPv6Address | None = None
    """This inner address and no other [168, or 97 as a /128]."""
    interface_id: int | None = None
    """The low 64 bits of the inner address, the rest from the pool [96]."""
    prefix: IPv6Network | None = None
    """This delegated prefix and no other [123]."""
    address_pool: str | None = None
    """Name of the pool to take the address from [100, 172]."""
    prefix_pool: str | None = None
    """Name of the pool to take the prefix from [171]."""
    routes: tuple[IPv6Network, ...] = ()
    """Further networks routed to the client [99]."""
    resolver: IPv6Address | None = None
    """Recursive resolver to tell the client [169]."""
    session_limit: float = 0.0
    """Seconds after which the session ends whatever happens [27]; 0: never."""
    idle_limit: float | None = None
    """Seconds of silence that end it [28]; 0: never."""
    interim_interval: float | None = None
    """Seconds between two interim accounting records [85]; 0: none."""
    tunnels: int | None = None
    """Tunnels that the principal may have [62]; 0 refuses it, more than one is still one."""
    account_class: tuple[bytes, ...] = ()
    """To be sent back in every accounting record, in order, as it came [25]."""
    filter_ids: tuple[str, ...] = ()
    """Names of profiles [11]; kept and shown, not applied."""
    billed_as: str | None = None
    """The name that accounting uses [1 of the accept]."""
    by_radius: bool = False
    """A RADIUS server judged the log-in (Acct-Authentic)."""
    account_session: int = 0
    """What the server was told that the session will be called (Acct-Session-Id) [44]; 0: it was told nothing."""


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who logged in, and what their authenticator says they get."""

    owner: str
    """Key of everything they hold: ``user:NAME``, or ``anonymous:ENDPOINT``. Never empty."""
    user: str | None
    """Account name; None for anonymous clients."""
    terms: Terms = NO_TERMS

    @property
    def anonymous(self) -> bool:
        return self.user is None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The credentials hold."""

    principal: Principal
    rspauth: str | None = None
    """DIGEST-MD5: 32 hexadecimal digits that prove the server to the client."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The credentials do not hold, and nobody else need be asked."""

    why: str
    """For the log."""
    message: str = ""
    """For the client, in place of the standard text of 300 (Reply-Message [18])."""


@dataclass(frozen=True, slots=True)
class NotMine:
    """This authenticator does not know the account; the next in the chain is asked."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No answer could be had; becomes 530, never an accept."""

    why: str


Verdict = Accepted | Rejected | NotMine | Unavailable


class Authenticator(Protocol):
    """Judges credentials."""

    @property
    def mechanisms(self) -> frozenset[str]:
        """SASL mechanisms it can judge, upper case; the CAPABILITY line is computed from these."""

    async def verify(self, credentials: Credentials, link: Link) -> Verdict:
        """Never raises for anything a client sent."""


# --- leases and sessions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session is opened with; the store grants the leases and writes the session in one transaction."""

    owner: str
    user: str | None
    link: Link
    encapsulation: Encapsulation
    mechanism: str
    client_version: str
    address_pool: str
    prefix_pool: str | None
    """None: no prefix asked for; then none is granted, whatever `terms` name."""
    mtu: int
    idle_limit: float
    """Seconds of silence after which the session ends; 0: never."""
    terms: Terms = NO_TERMS
    """An address or prefix named here is granted instead of one that the store chooses.

    Where a pool is named here, `address_pool` or `prefix_pool` is that one, and what the owner holds of another goes.
    """


@dataclass(frozen=True, slots=True)
class Session:
    """One accounting span of one tunnel, raised to lowered, as the store has it."""

    id: TunnelId
    owner: str
    user: str | None
    spec: TunnelSpec
    mechanism: str
    client_version: str
    idle_limit: float
    started: float
    """Epoch seconds."""
    carried: Counters
    """All that was counted up to the last checkpoint."""
    terms: Terms = NO_TERMS
    before: Counters = NOTHING_COUNTED
    """The part of `carried` that the present tunnel has not counted: a data plane lost the one before it."""

    @property
    def accounted_as(self) -> int:
        """What an AAA that is told of it calls it [44]: the name in its log-in, or else its own id."""
        return self.terms.account_session or self.id


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended."""

    id: TunnelId
    reason: EndReason
    counters: Counters
    """All of it: what was carried before the tunnel that is lowered, plus that tunnel's final counters."""


@dataclass(frozen=True, slots=True)
class Lease:
    """An owner holds an address (a /128), a delegated prefix or a route."""

    pool: str
    """The pool that it is a piece of; empty where a pool moved, or the authenticator named what is none."""
    prefix: IPv6Network
    owner: str
    granted: float
    """Epoch seconds."""
    released: float | None
    """Epoch seconds; None while it is held."""


@dataclass(frozen=True, slots=True)
class Holding:
    """An answer to "who had this address at that second, and from where"."""

    lease: Lease
    sessions: tuple[PastSession, ...]
    """Sessions of the owner that carried it at that second, newest first; empty when it was held and not in use."""


@dataclass(frozen=True, slots=True)
class PastSession:
    """A session as history keeps it."""

    id: TunnelId
    owner: str
    user: str | None
    remote: Endpoint
    local: Endpoint
    address: IPv6Address
    prefix: IPv6Network | None
    mechanism: str
    client_version: str
    started: float
    ended: float | None
    reason: EndReason | None
    counters: Counters


class PoolExhausted(Exception):
    """The pool named in the message has no free index."""


class UnknownPool(Exception):
    """No pool of that name is configured."""


class StoreError(Exception):
    """The store cannot be used, or did not take this write; the message is a sentence for the operator."""


class StoreBusy(StoreError):
    """Too much waits to be written; the client may come back."""


class NotGrantable(Exception):
    """An address or prefix that the authenticator named is not ours to route, or somebody else has it."""


class HoldsOther(Exception):
    """The owner holds a prefix of another length; it must be released before one of this pool can be granted."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"{lease.owner} holds {lease.prefix}")
        self.lease = lease


class SessionStore(Protocol):
    """Leases and sessions. What a method returned is on stable storage when its awaitable fires.

    Any method may raise StoreError. What raised changed nothing.
    """

    async def open_session(self, opening: Opening) -> Session:
        """Grant (or find again) the owner's leases and write the session, in one durable transaction.

        An owner that holds an address or prefix gets the same one, unless the terms name another. Raises
        PoolExhausted (its message is the pool's name), UnknownPool, HoldsOther, NotGrantable; then nothing is written.
        """

    async def close_sessions(self, endings: Sequence[Ending]) -> None:
        """Write how sessions ended. Closing twice keeps the first.

        Anonymous owners' leases go with their last one. An anonymous session from whose client no packet came leaves
        no history.
        """

    async def checkpoint(
        self, carried: Mapping[TunnelId, Counters], *, interim: bool = False, anew: bool = False
    ) -> None:
        """Write what live sessions have carried so far; `interim`: and an interim record of each into the journal.

        `anew`: as `Session.before` as well, for their tunnels are about to be raised anew.
        """

    async def change_terms(self, tunnel: TunnelId, terms: Terms) -> None:
        """Write new terms of a live session (dynamic authorization); addresses stay. No such live session: nothing."""

    async def live_sessions(self) -> Sequence[Session]:
        """Sessions not closed, oldest first; what a restarted broker makes true again."""

    async def release(self, owner: str) -> Sequence[Lease]:
        """Give up all that an owner holds; returns what was released. Freed prefixes rest before reuse."""

    async def whois(self, address: IPv6Address, at: float | None = None) -> Holding | None:
        """Who held `address` (as an address, or inside a delegated prefix) in the second that begins at `at`.

        Epoch seconds, by default now. Of two who held it within that second, the later one.
        """

    async def leases(self, owner: str | None = None, *, held: bool = True, limit: int = 1000) -> Sequence[Lease]:
        """Leases in order of granting; `held` False gives the last `limit` that were released instead."""

    async def leases_behind(self, after: IPv6Address | None, limit: int) -> Sequence[Lease]:
        """Up to `limit` leases that are held, in the order of addresses, that begin behind `after`; None: the first."""

    async def past_sessions(self, owner: str | None = None, limit: int = 100) -> Sequence[PastSession]:
        """The newest `limit` sessions, live ones included, newest first."""

    async def pool_usage(self) -> Mapping[str, tuple[int, int]]:
        """Pool name to (pieces held, pieces resting); cheap with 50,000 leases."""

    async def pool_growth(self) -> Mapping[str, float]:
        """Pool name to pieces a day by which what is held grew over the last week; not for those too young to tell."""

    async def prune(self, before: float) -> int:
        """Forget sessions and lease spans that ended before epoch second `before`; returns how many went.

        Who was the last to hold a piece is remembered while it rests. To be called now and then even where history is
        kept for ever, with 0.0: it also frees the addresses of rested pieces that are no pieces of a pool.
        """


# --- accounts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """A local user. Holds verifiers, never the password."""

    name: str
    digest: bytes | None = field(repr=False)
    """The 16 octets of MD5(user:realm:password), for DIGEST-MD5. Password-equivalent there: never logged or shown."""
    password_hash: str | None = field(repr=False)
    """scrypt with its parameters, ``scrypt$N$r$p$salt$hash``; for PLAIN and the web."""
    disabled: bool
    created: float
    """Epoch seconds."""
    terms: Terms = NO_TERMS
    """What it gets in place of what the configuration would give it: pools, address, prefix."""


class NoSuchAccount(Exception):
    """No account has the name in the message."""


class AccountExists(Exception):
    """The name in the message is taken."""


class AccountStore(Protocol):
    """Local users. Writes are durable when their awaitable fires."""

    def find_account(self, name: str) -> Account | None:
        """By exact name; an indexed read on the calling thread, cheap enough for every log-in."""

    async def add_account(self, account: Account) -> None:
        """Raises AccountExists."""

    async def set_secrets(self, name: str, digest: bytes | None, password_hash: str | None) -> None:
        """Replace both verifiers. Raises NoSuchAccount."""

    async def set_disabled(self, name: str, disabled: bool) -> None:
        """Raises NoSuchAccount."""

    async def delete_account(self, name: str) -> None:
        """The account goes, its leases are released, its history stays. Raises NoSuchAccount."""

    async def set_account_terms(self, name: str, terms: Terms) -> None:
        """What the account gets from its next log-in on. Raises NoSuchAccount."""

    async def accounts(self, search: str = "", after: str = "", limit: int | None = None) -> Sequence[Account]:
        """By name: those whose name begins with `search`, behind the name `after`; `limit` of them, or all."""
