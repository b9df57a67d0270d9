# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging in and out: administrators by their own accounts, owners by their tunnel account.

A tunnel account is judged by the same chain that judges its client, by PLAIN: local accounts and those of a RADIUS
server alike. Slow hashes run in threads.
Invariants: whatever is wrong (name, password, account disabled, too many attempts, nobody could judge) the answer is
the same; the attempts of a source and at a name are limited, in bounded memory; a log-in begins a new session, whatever
cookie came with it. A stranger can keep a name's attempts used up: `ddtb6` on the machine itself needs no log-in.
Not here: sessions (`visitors`), how administrators are made (`ddtb6 admin`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from twisted.logger import Logger

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link, source_of
from ddtb6.auth.local import LaneFull
from ddtb6.auth.passwords import NAME_LIMIT, PASSWORD_LIMIT, verify_password
from ddtb6.broker.admission import Buckets
from ddtb6.broker.management import Administrator
from ddtb6.broker.ports import Accepted, Authenticator, Clock, StoreError
from ddtb6.sasl.credentials import Plain
from ddtb6.web.exchange import Answer, Request, is_local, see_other
from ddtb6.web.pages import page
from ddtb6.web.routes import Route
from ddtb6.web.verbs import Actor
from ddtb6.web.visitors import Role, Visitor, Visitors

SOURCE_RATE, SOURCE_BURST = 1 / 6, 20
"""Attempts a second that one source may make, and at once."""
NAME_RATE, NAME_BURST = 1 / 30, 10
"""The same for attempts at one name, from wherever."""
AT_ONCE = 16
"""Passwords under way at once, so that log-ins of tunnels keep their turn."""
HOME = {Role.OWNER: "/tunnel", Role.ADMINISTRATOR: "/manage"}
"""Where one goes who came from nowhere in particular."""
WRONG = "That did not work. Check the name and the password; after several attempts, wait a minute before the next."

# Nothing hashes to it, and checking it takes as long as any.
_NO_PASSWORD = f"scrypt$16384$8$1${'A' * 22}==${'A' * 43}="


class Administrators(Protocol):
    """What of `broker.management.ManagementStore` is needed here."""

    def find_administrator(self, name: str) -> Administrator | None: ...

    def any_administrator(self) -> bool: ...


class Login:
    """The log-in page and what becomes of it."""

    log = Logger()

    def __init__(
        self,
        visitors: Visitors,
        clock: Clock,
        owners: Authenticator,
        administrators: Administrators,
        in_thread: Callable[[Callable[[], bool]], Awaitable[bool]],
        note: Callable[[Actor], Awaitable[None]],
    ) -> None:
        """`in_thread` runs a slow function elsewhere, or raises LaneFull; `note` writes down who may change things."""
        self._visitors = visitors
        self._now = clock.monotonic
        self._owners = owners
        self._administrators = administrators
        self._in_thread = in_thread
        self._note = note
        self._sources = Buckets(SOURCE_RATE, SOURCE_BURST)
        self._names = Buckets(NAME_RATE, NAME_BURST)
        self._under_way = 0

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/login", Role.NOBODY, self.show),
            Route("POST", "/login", Role.NOBODY, self.submit),
            Route("POST", "/logout", Role.NOBODY, self.leave),
        ]

    def show(self, request: Request, visitor: Visitor) -> Answer:
        asked = request.query.get("as", "")
        wanted = request.query.get("next", "")
        role = Role.ADMINISTRATOR if asked == "administrator" or wanted.startswith("/manage") else Role.OWNER
        return self._form(request, visitor, role, wanted)

    def _form(
        self, request: Request, visitor: Visitor, role: Role, wanted: str, name: str = "", wrong: str = ""
    ) -> Answer:
        csrf, headers = (visitor.csrf, ()) if visitor.csrf else self._visitors.form_cookie(request)
        return page(
            request,
            visitor,
            "login.html",
            422 if wrong else 200,
            headers,
            csrf=csrf,
            role=role.value,
            wanted=wanted if is_local(wanted) else "",
            name=name,
            wrong=wrong,
            nobody_yet=not self._administrators.any_administrator(),
            owners_may=Plain.mechanism in self._owners.mechanisms,
        )

    async def submit(self, request: Request, visitor: Visitor) -> Answer:
        form = request.form()
        role = Role.ADMINISTRATOR if form.get("role") == "administrator" else Role.OWNER
        name, password, wanted = form.get("name", ""), form.get("password", ""), form.get("next", "")
        owner = await self.judge(request.source, role, name, password)
        if owner is None:
            return self._form(request, visitor, role, wanted, name[:NAME_LIMIT], WRONG)
        if role is Role.ADMINISTRATOR:
            await self._note(Actor(f"{role.value}:{name}", request.source))
        cookie = self._visitors.open(role, name, owner, request)
        return see_other(wanted if is_local(wanted) else HOME[role], cookie)

    async def judge(self, source: str, role: Role, name: str, password: str) -> str | None:
        """The owner that a name and password belong to, empty for an administrator; None: not let in.

        `source` is the numeric address that they come from, whose attempts are limited.
        """
        if not 0 < len(name) <= NAME_LIMIT or not 0 < len(password) <= PASSWORD_LIMIT or "\0" in name + password:
            return None
        now, remote = self._now(), Endpoint(source, 0)
        of_source = self._sources.take(source_of(remote), now)
        if not of_source or not self._names.take(f"{role.value} {name}", now) or self._under_way >= AT_ONCE:
            return None
        self._under_way += 1
        mark = self._visitors.mark
        try:
            if role is Role.ADMINISTRATOR:
                owner = await self._administrator(name, password)
            else:
                owner = await self._owner(Plain(name, password), remote)
            # Deleted, disabled, or given another password while the hash was being made.
            return None if self._visitors.ended_since(role, name, mark) else owner
        except (StoreError, LaneFull):
            return None
        finally:
            self._under_way -= 1

    async def _administrator(self, name: str, password: str) -> str | None:
        known = self._administrators.find_administrator(name)
        stored = _NO_PASSWORD if known is None else known.password_hash
        right = await self._in_thread(lambda: verify_password(password, stored))
        return "" if right and known is not None else None

    async def _owner(self, credentials: Plain, remote: Endpoint) -> str | None:
        if credentials.mechanism not in self._owners.mechanisms:
            return None
        link = Link(Carrier.TCP, Endpoint("::" if remote.family == 6 else "0.0.0.0", 0), remote)
        verdict = await self._owners.verify(credentials, link)
        return verdict.principal.owner if isinstance(verdict, Accepted) else None

    def leave(self, request: Request, visitor: Visitor) -> Answer:
        return see_other("/", self._visitors.close(request))
