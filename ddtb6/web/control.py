# SPDX-License-Identifier: GPL-2.0-or-later
"""The management verbs: one implementation behind the control socket, the pages, the API, and the tool on a stopped
broker's store.

`VERBS` is the whole interface. Answers of `call` are what JSON can hold; of `run`, the values themselves. Times are
epoch seconds, addresses compressed text.
Invariants: no answer but that of `token.add`, and no error, holds a secret; every change that is carried out or refused
stands in the audit log with who and from where.
Not here: the verbs themselves (`accounts`, `tunnels`, `staff`), HTTP (`control_site`, `api`, `manage`), tables for
people (`cli`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from ddtb6.addressing.pool import Pool
from ddtb6.auth.passwords import InvalidAccount
from ddtb6.broker.ports import AccountExists, Clock, NoSuchAccount, StoreError
from ddtb6.broker.views import Overview, plain
from ddtb6.web.accounts import Accounts
from ddtb6.web.recent import Recent
from ddtb6.web.staff import Staff
from ddtb6.web.tunnels import Books, Broker, Past, Tunnels
from ddtb6.web.verbs import (
    ADDRESS,
    COUNT,
    FLAG,
    ID,
    MOMENT,
    NEW_NAME,
    NUMBER,
    OFFSET,
    OWNER,
    PASSWORD,
    PREFIX,
    ROWS,
    SECRETS,
    SORT,
    TEXT,
    Actor,
    ControlError,
    InThread,
    Kind,
    Verb,
    among,
)

Listener = Callable[[str, Mapping[str, Any], Actor], None]
"""Told of each change that was carried out: verb, arguments as checked, who."""


class Control:
    """Carries out verbs on a store and, where it runs, a broker."""

    def __init__(
        self,
        store: Books,
        broker: Broker | None,
        overview: Callable[[], Overview] | None,
        *,
        realm: str,
        pools: Mapping[str, Pool],
        clock: Clock,
        in_thread: InThread,
        recent: Recent | None = None,
        past: Past | None = None,
    ) -> None:
        """`broker`, `overview`, `recent` and `past` are None where no broker runs. `in_thread` hashes passwords."""
        self._store = store
        self.tunnels = Tunnels(store, broker, overview, recent, past)
        self.accounts = Accounts(store, self.tunnels, pools, realm=realm, clock=clock, in_thread=in_thread)
        self.staff = Staff(store, clock=clock, in_thread=in_thread, random_text=lambda: secrets.token_urlsafe(32))
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """`listener` is called after each change, before it is answered; it must not raise."""
        self._listeners.append(listener)

    async def call(self, verb: str, arguments: object, actor: Actor) -> Any:
        """`run`, and the answer as what JSON can hold."""
        return plain(await self.run(verb, arguments, actor))

    async def run(self, verb: str, arguments: object, actor: Actor) -> Any:
        """Carry out `verb` and return its answer. Raises ControlError, and nothing else whatever the input."""
        entry = VERBS.get(verb)
        if entry is None:
            raise ControlError(f'there is no verb "{verb[:40]}"; there are {", ".join(VERBS)}', Kind.REQUEST)
        return await self.run_checked(verb, entry.check(verb, arguments), actor)

    async def run_checked(self, verb: str, checked: dict[str, Any], actor: Actor) -> Any:
        """`run`, of a verb that there is with arguments that it has checked."""
        entry = VERBS[verb]
        if not entry.changes:
            return await _explained(verb, entry, checked, self)
        try:
            answer = await _explained(verb, entry, checked, self)
        except ControlError as error:
            await self._note(verb, checked, actor, str(error))
            raise
        for listener in self._listeners:
            listener(verb, checked, actor)
        await self._note(verb, checked, actor, "")
        return answer

    async def note_login(self, actor: Actor) -> None:
        """Write down that somebody may change things from now on. Raises ControlError."""
        await self._note("login", {}, actor, "")

    async def note_refused(self, verb: str, subject: Mapping[str, Any], actor: Actor, why: str) -> None:
        """Write down that a change was not let through to its verb. Raises ControlError."""
        await self._note(verb, subject, actor, why)

    async def _note(self, verb: str, checked: Mapping[str, Any], actor: Actor, failed: str) -> None:
        subject = {name: plain(value) for name, value in checked.items() if name not in SECRETS}
        try:
            await self._store.write_audit(actor.who, actor.source, verb, subject, failed)
        except StoreError as error:
            done = "was not done, nor" if failed else "was done, but not"
            raise ControlError(f"{verb} {done} written to the audit log: {error}", Kind.FAILED) from None


async def _explained(verb: str, entry: Verb, checked: Mapping[str, Any], control: Control) -> Any:
    noun = {"admin": "administrator"}.get(verb.partition(".")[0], verb.partition(".")[0])
    name = checked.get("name")
    try:
        return await entry.run(control)(**checked)
    except NoSuchAccount:
        tool = verb.partition(".")[0]
        raise ControlError(f"there is no {noun} {name}; `ddtb6 {tool} list` shows them", Kind.MISSING) from None
    except AccountExists:
        remedy = {
            "user.add": "; `ddtb6 user passwd` changes the password",
            "admin.add": "; `ddtb6 admin passwd` changes the password",
        }
        raise ControlError(f"{noun} {name} exists already{remedy.get(verb, '')}", Kind.CONFLICT) from None
    except InvalidAccount as error:
        raise ControlError(str(error), Kind.REQUEST) from None
    except StoreError as error:
        raise ControlError(str(error), Kind.FAILED) from None


_NAME = {"name": TEXT}
_NEW = {"name": NEW_NAME, "password": PASSWORD}
_WITH_PASSWORD = {"name": TEXT, "password": PASSWORD}

VERBS: Mapping[str, Verb] = {
    "overview": Verb(lambda c: c.tunnels.overview, live=True),
    "history": Verb(lambda c: c.tunnels.whole_history, live=True),
    "session.list": Verb(
        lambda c: c.tunnels.list,
        optional={"user": TEXT, "search": TEXT, "sort": SORT, "descending": FLAG, "offset": OFFSET, "limit": COUNT},
        live=True,
    ),
    "session.show": Verb(lambda c: c.tunnels.show, {"id": ID}, live=True),
    "session.kill": Verb(lambda c: c.tunnels.kill, {"id": ID}, changes=True, live=True),
    "session.past": Verb(lambda c: c.tunnels.past, optional={"owner": OWNER, "limit": ROWS}),
    "lease.list": Verb(
        lambda c: c.tunnels.leases, optional={"owner": OWNER, "released": FLAG, "after": ADDRESS, "limit": ROWS}
    ),
    "lease.release": Verb(lambda c: c.tunnels.release, {"owner": OWNER}, changes=True),
    "whois": Verb(lambda c: c.tunnels.whois, {"address": ADDRESS}, {"at": MOMENT}),
    "event.list": Verb(lambda c: c.tunnels.events, optional={"user": TEXT, "limit": ROWS}, live=True),
    "journal.list": Verb(lambda c: c.tunnels.journal, optional={"limit": ROWS}),
    "user.add": Verb(lambda c: c.accounts.add, _NEW, changes=True),
    "user.passwd": Verb(lambda c: c.accounts.passwd, _WITH_PASSWORD, changes=True),
    "user.list": Verb(lambda c: c.accounts.list, optional={"search": TEXT, "after": TEXT, "limit": ROWS}),
    "user.show": Verb(lambda c: c.accounts.show, _NAME),
    "user.history": Verb(lambda c: c.tunnels.history, _NAME, live=True),
    "user.assign": Verb(
        lambda c: c.accounts.assign,
        _NAME,
        {"address": ADDRESS, "prefix": PREFIX, "address_pool": TEXT, "prefix_pool": TEXT},
        changes=True,
    ),
    "user.disable": Verb(lambda c: c.accounts.disable, _NAME, changes=True),
    "user.enable": Verb(lambda c: c.accounts.enable, _NAME, changes=True),
    "user.delete": Verb(lambda c: c.accounts.delete, _NAME, changes=True),
    "admin.add": Verb(lambda c: c.staff.admin_add, _NEW, changes=True),
    "admin.passwd": Verb(lambda c: c.staff.admin_passwd, _WITH_PASSWORD, changes=True),
    "admin.list": Verb(lambda c: c.staff.admin_list),
    "admin.delete": Verb(lambda c: c.staff.admin_delete, _NAME, changes=True),
    "token.add": Verb(
        lambda c: c.staff.token_add,
        {"name": NEW_NAME, "role": among(("administrator", "owner"))},
        {"user": TEXT},
        changes=True,
    ),
    "token.list": Verb(lambda c: c.staff.token_list),
    "token.delete": Verb(lambda c: c.staff.token_delete, _NAME, changes=True),
    "audit.list": Verb(lambda c: c.staff.audit, optional={"before": NUMBER, "limit": ROWS}),
}
