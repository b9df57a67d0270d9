# SPDX-License-Identifier: GPL-2.0-or-later
"""The management verbs: one implementation, called over the control socket and by the tool on a stopped broker's store.

`VERBS` is the whole interface: each verb with its arguments. Answers are what JSON can hold. Times are epoch seconds,
addresses compressed text.
Invariants: no answer and no error holds a password or verifier; an account that is disabled or deleted keeps no tunnel.
Not here: HTTP (`web.control_site`, `web.control_client`), words and tables for people (`cli`).
"""

from __future__ import annotations

import difflib
import enum
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address
from typing import Any, Protocol, TypeVar

from ddtb6.auth.passwords import InvalidAccount, new_account, new_secrets
from ddtb6.broker.ports import (
    Account,
    AccountExists,
    AccountStore,
    Clock,
    Ending,
    Holding,
    Lease,
    NoSuchAccount,
    SessionStore,
    StoreError,
)
from ddtb6.broker.views import Overview, SessionView, plain
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import TunnelId

T = TypeVar("T")

SESSIONS_SHOWN = 1000
"""How many sessions `session.list` gives unless asked for more."""
PAST_SHOWN = 10
"""How many sessions of the past `user.show` gives."""


class Broker(Protocol):
    """What management needs of the running broker."""

    async def sessions(self, only: TunnelId | None = None) -> Sequence[SessionView]:
        """Live sessions, oldest first; or the one asked for, if it lives."""

    async def disconnect(self, tunnel: TunnelId, reason: EndReason) -> bool:
        """End a live session; False when there is none with that id."""

    async def disconnect_owner(self, owner: str, reason: EndReason) -> bool:
        """End the owner's session; False when it has none."""

    async def release(self, owner: str) -> Sequence[Lease]:
        """End the owner's session, then give up its leases; returns what was released."""


class Books(SessionStore, AccountStore, Protocol):
    """The store in both of its roles."""


class InThread(Protocol):
    """Runs a slow function off the reactor's thread, or at once where there is no reactor."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


class Kind(enum.Enum):
    """What sort of failure a `ControlError` is; the value stands in JSON."""

    REQUEST = "request"
    """The verb or an argument is wrong."""
    MISSING = "missing"
    """What was named does not exist."""
    CONFLICT = "conflict"
    """It exists already."""
    STOPPED = "stopped"
    """The verb needs a running broker."""
    FAILED = "failed"
    """Something broke; the daemon's log has the reason."""


class ControlError(Exception):
    """A verb was not carried out; the message is a sentence for the operator."""

    def __init__(self, sentence: str, kind: Kind) -> None:
        super().__init__(sentence)
        self.kind = kind


# --- arguments ----------------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be text")
    return value


def _owner(value: object) -> str:
    """An owner, or the name of a user."""
    text = _text(value)
    return text if ":" in text else f"user:{text}"


def _id(value: object) -> TunnelId:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 32:
        raise ValueError("must be a session id")
    return TunnelId(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("must be a whole number above 0")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _moment(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("must be epoch seconds")
    return float(value)


def _address(value: object) -> IPv6Address:
    try:
        return IPv6Address(_text(value))
    except ValueError:
        raise ValueError("must be an IPv6 address") from None


# --- verbs --------------------------------------------------------------------------------------------------------


class Control:
    """Carries out verbs on a store and, where it runs, a broker."""

    def __init__(
        self,
        store: Books,
        broker: Broker | None,
        overview: Callable[[], Overview] | None,
        *,
        realm: str,
        clock: Clock,
        in_thread: InThread,
    ) -> None:
        """`broker` and `overview` are None where no broker runs. `in_thread` hashes passwords."""
        self._store = store
        self._broker = broker
        self._overview = overview
        self._realm = realm
        self._clock = clock
        self._in_thread = in_thread

    async def call(self, verb: str, arguments: object) -> Any:
        """Carry out `verb` and return its answer. Raises ControlError, and nothing else whatever the input."""
        entry = VERBS.get(verb)
        if entry is None:
            raise ControlError(f'there is no verb "{verb[:40]}"; there are {", ".join(VERBS)}', Kind.REQUEST)
        checked = entry.check(verb, arguments)
        try:
            return plain(await entry.run(self, **checked))
        except NoSuchAccount:
            raise ControlError(
                f"there is no user {checked.get('name')}; `ddtb6 user list` shows them", Kind.MISSING
            ) from None
        except AccountExists:
            raise ControlError(
                f"user {checked.get('name')} exists already; `ddtb6 user passwd` changes the password", Kind.CONFLICT
            ) from None
        except InvalidAccount as error:
            raise ControlError(str(error), Kind.REQUEST) from None
        except StoreError as error:
            raise ControlError(str(error), Kind.FAILED) from None

    @property
    def _live(self) -> Broker:
        if self._broker is None:
            raise _stopped()
        return self._broker

    async def overview(self) -> Overview:
        if self._overview is None:
            raise _stopped()
        return self._overview()

    # --- sessions ---

    async def session_list(self, user: str | None = None, limit: int = SESSIONS_SHOWN) -> object:
        found = [each for each in await self._live.sessions() if user is None or each.user == user]
        return {"total": len(found), "sessions": found[:limit]}

    async def session_show(self, id: TunnelId) -> SessionView:
        views = await self._live.sessions(id)
        if not views:
            raise ControlError(f"there is no live session {id}; `ddtb6 session list` shows them", Kind.MISSING)
        return views[0]

    async def session_kill(self, id: TunnelId) -> SessionView:
        view = await self.session_show(id)
        await self._live.disconnect(id, EndReason.DISCONNECTED)
        return view

    # --- leases ---

    async def lease_list(self, owner: str | None = None, released: bool = False) -> Sequence[Lease]:
        return await self._store.leases(owner, held=not released)

    async def lease_release(self, owner: str) -> Sequence[Lease]:
        if self._broker is not None:
            released = await self._broker.release(owner)
        else:
            await self._disconnect(owner, EndReason.DISCONNECTED)
            released = await self._store.release(owner)
        if not released:
            raise ControlError(f"{owner} holds nothing; `ddtb6 lease list` shows who does", Kind.MISSING)
        return released

    async def whois(self, address: IPv6Address, at: float | None = None) -> Holding:
        holding = await self._store.whois(address, at)
        if holding is None:
            sentence = f"nobody holds {address}" if at is None else f"nobody held {address} at that time"
            raise ControlError(sentence, Kind.MISSING)
        return holding

    # --- accounts ---

    async def user_add(self, name: str, password: str) -> object:
        account = await self._in_thread(partial(new_account, name, password, self._realm, self._clock.epoch()))
        await self._store.add_account(account)
        return _shown(account)

    async def user_passwd(self, name: str, password: str) -> object:
        digest, password_hash = await self._in_thread(partial(new_secrets, name, password, self._realm))
        await self._store.set_secrets(name, digest, password_hash)
        return _shown(self._account(name))

    async def user_list(self) -> object:
        return [_shown(account) for account in await self._store.accounts()]

    async def user_show(self, name: str) -> object:
        account, owner = self._account(name), f"user:{name}"
        past = await self._store.past_sessions(owner, PAST_SHOWN)
        live = [
            view for each in past if each.ended is None and self._broker for view in await self._live.sessions(each.id)
        ]
        return {
            "account": _shown(account),
            "leases": await self._store.leases(owner),
            "live": live,
            "past": [each for each in past if each.id not in {view.id for view in live}],
        }

    async def user_disable(self, name: str) -> object:
        await self._store.set_disabled(name, True)
        disconnected = await self._disconnect(f"user:{name}", EndReason.DISABLED)
        return {"account": _shown(self._account(name)), "disconnected": disconnected}

    async def user_enable(self, name: str) -> object:
        await self._store.set_disabled(name, False)
        return {"account": _shown(self._account(name))}

    async def user_delete(self, name: str) -> object:
        account, owner = self._account(name), f"user:{name}"
        await self._store.set_disabled(name, True)  # so that nobody logs in between the steps
        disconnected = await self._disconnect(owner, EndReason.DISABLED)
        leases = await self._store.leases(owner)
        await self._store.delete_account(name)
        return {"account": _shown(account), "disconnected": disconnected, "released": leases}

    def _account(self, name: str) -> Account:
        account = self._store.find_account(name)
        if account is None:
            raise NoSuchAccount(name)
        return account

    async def _disconnect(self, owner: str, reason: EndReason) -> bool:
        """End the owner's session; a stopped broker's in the store, or its next start would raise it again."""
        if self._broker is not None:
            return await self._broker.disconnect_owner(owner, reason)
        sessions = [each for each in await self._store.live_sessions() if each.owner == owner]
        await self._store.close_sessions([Ending(each.id, reason, each.carried) for each in sessions])
        return bool(sessions)


def _stopped() -> ControlError:
    return ControlError("the broker is not running", Kind.STOPPED)


def _shown(account: Account) -> Mapping[str, object]:
    """An account without its secrets."""
    return {
        "name": account.name,
        "disabled": account.disabled,
        "created": account.created,
        "mechanisms": [
            mechanism
            for mechanism, verifier in (("DIGEST-MD5", account.digest), ("PLAIN", account.password_hash))
            if verifier
        ],
    }


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb and its arguments."""

    run: Callable[..., Awaitable[Any]]
    needed: Mapping[str, Callable[[object], Any]]
    optional: Mapping[str, Callable[[object], Any]]
    changes: bool
    """It changes something, and is logged."""
    live: bool
    """It needs a running broker."""

    def check(self, verb: str, arguments: object) -> dict[str, Any]:
        """The arguments converted. Raises ControlError."""
        if not isinstance(arguments, dict):
            raise ControlError("the arguments must be a JSON object", Kind.REQUEST)
        known = {**self.needed, **self.optional}
        for name in arguments:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean {close[0]}?" if close else ""
                raise ControlError(f'{verb} has no argument "{name[:40]}"{meant}', Kind.REQUEST)
        for name in self.needed:
            if name not in arguments:
                raise ControlError(f"{verb} needs the argument {name}", Kind.REQUEST)
        checked = {}
        for name, value in arguments.items():
            try:
                checked[name] = known[name](value)
            except ValueError as error:
                raise ControlError(f"{name} {error}", Kind.REQUEST) from None
        return checked


def _verb(
    run: Callable[..., Awaitable[Any]],
    needed: Mapping[str, Callable[[object], Any]] | None = None,
    optional: Mapping[str, Callable[[object], Any]] | None = None,
    *,
    changes: bool = False,
    live: bool = False,
) -> Verb:
    return Verb(run, needed or {}, optional or {}, changes, live)


VERBS: Mapping[str, Verb] = {
    "overview": _verb(Control.overview, live=True),
    "session.list": _verb(Control.session_list, optional={"user": _text, "limit": _count}, live=True),
    "session.show": _verb(Control.session_show, {"id": _id}, live=True),
    "session.kill": _verb(Control.session_kill, {"id": _id}, changes=True, live=True),
    "lease.list": _verb(Control.lease_list, optional={"owner": _owner, "released": _flag}),
    "lease.release": _verb(Control.lease_release, {"owner": _owner}, changes=True),
    "whois": _verb(Control.whois, {"address": _address}, {"at": _moment}),
    "user.add": _verb(Control.user_add, {"name": _text, "password": _text}, changes=True),
    "user.passwd": _verb(Control.user_passwd, {"name": _text, "password": _text}, changes=True),
    "user.list": _verb(Control.user_list),
    "user.show": _verb(Control.user_show, {"name": _text}),
    "user.disable": _verb(Control.user_disable, {"name": _text}, changes=True),
    "user.enable": _verb(Control.user_enable, {"name": _text}, changes=True),
    "user.delete": _verb(Control.user_delete, {"name": _text}, changes=True),
}
