# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of a tunnel's owner, and what anybody sees who asks through a tunnel: that tunnel, without its owner.

Invariants: an owner sees and changes what is theirs and nothing else; changing the password takes the old one, which is
judged as a log-in is, under the same limits; what is shown without a log-in is read-only and names nobody.
Not here: who asks, and through which tunnel (`visitors`), set-ups (`setups`), words (`explained`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Use
from ddtb6.broker.history import TunnelHistory
from ddtb6.broker.ports import Account, Lease, PastSession, StoreError
from ddtb6.broker.views import SessionView
from ddtb6.config import Config
from ddtb6.tunnel.spec import Counters, TunnelId
from ddtb6.web import api, plot
from ddtb6.web.control import Control
from ddtb6.web.exchange import Answer, Refused, Request, see_other
from ddtb6.web.login import Login
from ddtb6.web.pages import page
from ddtb6.web.recent import Happening
from ddtb6.web.routes import Route
from ddtb6.web.setups import PORT, Setup, Values, setups
from ddtb6.web.verbs import PASSWORD, STATUS, ControlError, Kind
from ddtb6.web.visitors import Role, Visitor

PAST = 10
HAPPENINGS = 20
WRONG = "The old password is not right; after several attempts, wait a minute before the next."
NOT_KEPT_HERE = "the password of this account is not kept here, but by your provider, who can change it"


@dataclass(frozen=True, slots=True)
class TunnelState:
    """A live tunnel, without whose it is."""

    id: TunnelId
    address: IPv6Address
    prefix: IPv6Network | None
    remote: Endpoint
    """Outer endpoint of the client as the broker sees it."""
    local: Endpoint
    """Outer endpoint of the broker."""
    nat: bool | None
    """The client believes it has another outer address than the one we see; null: the broker was restarted since."""
    client_version: str
    mechanism: str
    """By which it logged in."""
    started: float
    """Epoch seconds."""
    established: bool
    """The client accepted the offer or sent a packet."""
    silent_for: float | None
    """Seconds since the last packet from the client; null before the first."""
    counters: Counters


@dataclass(frozen=True, slots=True)
class OwnTunnel:
    """All that is an owner's."""

    account: str
    password_kept_here: bool
    """False: a RADIUS server keeps it."""
    tunnel: TunnelState | None
    """Null: none is up."""
    leases: Sequence[Lease]
    past: Sequence[PastSession]
    """Their last sessions, the live one included."""
    events: Sequence[Happening]
    setups: Sequence[Setup]


@dataclass(frozen=True, slots=True)
class PasswordChanged:
    """The account has another password."""

    account: str


class Owner:
    """The pages and the rows of the API."""

    def __init__(
        self,
        control: Control,
        find_account: Callable[[str], Account | None],
        config: Config,
        login: Login,
        epoch: Callable[[], float],
    ) -> None:
        """`find_account` raises StoreError; `epoch` gives the seconds since 1970 UTC."""
        self._control = control
        self._find_account = find_account
        self._config = config
        self._login = login
        self._epoch = epoch

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/tunnel", Role.OWNER, self.show, "Your tunnel", through=True),
            Route("POST", "/tunnel/password", Role.OWNER, self.set_password),
            api.endpoint("GET", "/tunnel", Role.OWNER, self.own),
            api.endpoint("GET", "/tunnel/history", Role.OWNER, self.history),
            api.endpoint("GET", "/tunnel/through", Role.NOBODY, self.passed_through),
            api.endpoint(
                "PUT",
                "/tunnel/password",
                Role.OWNER,
                self.change_password,
                {"old_password": PASSWORD, "password": PASSWORD},
            ),
        ]

    # --- pages ----------------------------------------------------------------------------------------------------

    async def show(self, request: Request, visitor: Visitor) -> Answer:
        if visitor.role is Role.OWNER:
            return await self._own_page(request, visitor)
        try:
            state = await self.passed_through(request, visitor)
        except ControlError as error:
            raise Refused(STATUS[error.kind], api.sentence(error)) from None
        return page(request, visitor, "through.html", tunnel=state)

    async def _own_page(self, request: Request, visitor: Visitor, wrong: str = "", status: int = 200) -> Answer:
        try:
            own = await self.own(request, visitor)
            plots = plot.of_tunnel(await self.history(request, visitor), self._epoch())
        except ControlError as error:
            raise Refused(STATUS[error.kind], api.sentence(error)) from None
        shown: dict[str, Any] = {
            "own": own,
            "tunnel": own.tunnel,
            "plots": plots,
            "echoes": self._config.tunnel.latency,
        }
        return page(request, visitor, "tunnel.html", status, wrong=wrong, **shown)

    async def set_password(self, request: Request, visitor: Visitor) -> Answer:
        form = request.form()
        old, password, again = (form.get(each, "") for each in ("old_password", "password", "again"))
        if password != again:
            wrong = "The two new passwords are not the same; nothing was changed."
            return await self._own_page(request, visitor, wrong, 422)
        try:
            await self.change_password(request, visitor, old, password)
        except Refused as refused:
            return await self._own_page(request, visitor, str(refused), 422)
        except ControlError as error:
            status = 422 if error.kind is Kind.REQUEST else STATUS[error.kind]
            return await self._own_page(request, visitor, api.sentence(error), status)
        visitor.tell("Changed the password. Your tunnel stays up; its client needs the new one for its next log-in.")
        return see_other("/tunnel")

    # --- what pages and API share ---------------------------------------------------------------------------------

    async def own(self, request: Request, visitor: Visitor) -> OwnTunnel:
        """Your own tunnel: its state, what you hold, your last sessions, what happened lately, set-ups for clients."""
        ask = partial(self._ask, request, visitor)
        name = visitor.owner.removeprefix("user:")
        found = await ask("session.list", user=name, limit=1)
        leases = await ask("lease.list", owner=visitor.owner)
        past = await ask("session.past", owner=visitor.owner, limit=PAST)
        view = found.sessions[0] if found.sessions else None
        return OwnTunnel(
            account=name,
            password_kept_here=self._kept_here(name),
            tunnel=_state(view) if view is not None else None,
            leases=leases,
            past=past,
            events=await ask("event.list", user=name, limit=HAPPENINGS),
            setups=setups(self._values(request, name, leases, past)),
        )

    async def history(self, request: Request, visitor: Visitor) -> TunnelHistory:
        """What your tunnel carried, and how long its echoes took, in the last day and week."""
        history: TunnelHistory = await self._ask(
            request, visitor, "user.history", name=visitor.owner.removeprefix("user:")
        )
        return history

    async def passed_through(self, request: Request, visitor: Visitor) -> TunnelState:
        """The tunnel that this request came through; no token is needed for it."""
        if visitor.through is None:
            raise ControlError("this request came through no tunnel of this broker", Kind.MISSING)
        return _state(await self._ask(request, visitor, "session.show", id=visitor.through))

    async def change_password(
        self, request: Request, visitor: Visitor, old_password: str, password: str
    ) -> PasswordChanged:
        """Change the password of your account; other log-ins to these pages end. Attempts are limited as log-ins are.

        A tunnel that is up stays up.
        """
        who, name = api.actor(request, visitor), visitor.owner.removeprefix("user:")
        if not self._kept_here(name):
            raise ControlError(NOT_KEPT_HERE, Kind.CONFLICT)
        if await self._login.judge(visitor.source, Role.OWNER, name, old_password) != visitor.owner:
            await self._control.note_refused("user.passwd", {"name": name}, who, "the old password was not right")
            raise Refused(403, WRONG)
        await self._control.run("user.passwd", {"name": name, "password": password}, who)
        return PasswordChanged(name)

    async def _ask(self, request: Request, visitor: Visitor, verb: str, **arguments: object) -> Any:
        """A verb that changes nothing. Raises ControlError."""
        return await self._control.run(verb, arguments, api.actor(request, visitor))

    def _kept_here(self, name: str) -> bool:
        try:
            return self._find_account(name) is not None
        except StoreError as error:
            raise ControlError(str(error), Kind.FAILED) from None

    def _values(self, request: Request, name: str, leases: Sequence[Lease], past: Sequence[PastSession]) -> Values:
        prefix = next((each.prefix for each in leases if each.prefix.prefixlen <= 64), None)
        lengths = [each.length for each in self._config.pools.values() if each.use is Use.PREFIXES]
        length = prefix.prefixlen if prefix is not None else min(lengths, key=lambda each: abs(each - 56), default=None)
        return Values(self._server(request, past), name, prefix, length)

    def _server(self, request: Request, past: Sequence[PastSession]) -> str:
        """How clients reach the broker: as configured; where the last log-in came to; by the name of this page."""
        if self._config.web.broker:
            return self._config.web.broker
        for each in past:
            if each.local.family == 4:
                return each.local.address if each.local.port == PORT else str(each.local)
        host = request.host.partition(":")[0]
        usable = re.fullmatch(r"(?!127\.|localhost$)[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?", host)
        return host if usable else "BROKER"


def _state(view: SessionView) -> TunnelState:
    return TunnelState(
        id=view.id,
        address=view.address,
        prefix=view.prefix,
        remote=view.remote,
        local=view.local,
        nat=view.nat,
        client_version=view.client_version,
        mechanism=view.mechanism,
        started=view.started,
        established=view.established,
        silent_for=view.silent_for,
        counters=view.counters,
    )
