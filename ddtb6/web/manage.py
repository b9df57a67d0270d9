# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages for administrators: users, sessions, leases, what happened, what waits, who changed what, tokens.

Every page asks verbs and shows their answers; every change is a verb, behind a page that asks once more where something
would be lost, and is followed by a page that says what came of it.
Not here: what verbs do (`control`), who gets here (`routes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.search import Sort
from ddtb6.web.amounts import moment
from ddtb6.web.api import actor, sentence
from ddtb6.web.control import VERBS, Control
from ddtb6.web.exchange import Answer, Refused, Request, see_other
from ddtb6.web.pages import page
from ddtb6.web.plot import Plot, of_tunnel
from ddtb6.web.routes import Handler, Route
from ddtb6.web.verbs import STATUS, ControlError, Kind
from ddtb6.web.visitors import Role, Visitor

ROWS = 50
"""Rows of a page."""
FARTHEST = 10_000_000
"""Rows before a page at most."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading by which a list can be sorted."""

    title: str
    sort: Sort | None
    number: bool = False


SESSION_COLUMNS = (
    Column("Session", Sort.STARTED, number=True),
    Column("User", Sort.USER),
    Column("From", Sort.REMOTE),
    Column("Address and prefix", Sort.ADDRESS),
    Column("Client", Sort.VERSION),
    Column("Silent for", None, number=True),
    Column("In", Sort.IN, number=True),
    Column("Out", Sort.OUT, number=True),
)


class Manage:
    """The pages."""

    def __init__(self, control: Control, pools: Mapping[str, Pool], epoch: Callable[[], float]) -> None:
        """`epoch` gives the seconds since 1970 UTC."""
        self._control = control
        self._pools = pools
        self._epoch = epoch

    def routes(self) -> list[Route]:
        def row(method: str, path: str, handler: Handler, menu: str = "") -> Route:
            return Route(method, f"/manage{path}", Role.ADMINISTRATOR, handler, menu)

        return [
            row("GET", "", self.home, "Manage"),
            row("GET", "/users", self.users, "Users"),
            row("POST", "/users", self.add_user),
            row("GET", "/users/{name}", self.user),
            row("POST", "/users/{name}/password", self.set_password),
            row("POST", "/users/{name}/assigned", self.assign),
            row("POST", "/users/{name}/enable", self.enable),
            row("GET", "/users/{name}/disable", self.ask_disable),
            row("POST", "/users/{name}/disable", self.disable),
            row("GET", "/users/{name}/delete", self.ask_delete),
            row("POST", "/users/{name}/delete", self.delete),
            row("GET", "/sessions", self.sessions, "Sessions"),
            row("GET", "/sessions/{id}", self.session),
            row("GET", "/sessions/{id}/end", self.ask_end),
            row("POST", "/sessions/{id}/end", self.end),
            row("GET", "/leases", self.leases, "Leases"),
            row("GET", "/leases/{owner}/release", self.ask_release),
            row("POST", "/leases/{owner}/release", self.release),
            row("GET", "/events", self.events, "Events"),
            row("GET", "/journal", self.journal, "Journal"),
            row("GET", "/audit", self.audit, "Audit log"),
            row("GET", "/tokens", self.tokens, "Tokens"),
            row("POST", "/tokens", self.add_token),
            row("GET", "/tokens/{name}/revoke", self.ask_revoke),
            row("POST", "/tokens/{name}/revoke", self.revoke),
        ]

    async def _do(self, request: Request, visitor: Visitor, verb: str, **arguments: object) -> Any:
        """A verb's answer; empty arguments are left out. Raises ControlError."""
        given = {name: value for name, value in arguments.items() if value not in ("", None)}
        return await self._control.run(verb, given, actor(request, visitor))

    async def _show(self, request: Request, visitor: Visitor, verb: str, **arguments: object) -> Any:
        """The same where a refusal is a page of its own. Raises Refused."""
        try:
            return await self._do(request, visitor, verb, **arguments)
        except ControlError as error:
            raise Refused(STATUS[error.kind], sentence(error)) from None

    # --- overview -------------------------------------------------------------------------------------------------

    async def home(self, request: Request, visitor: Visitor) -> Answer:
        return page(
            request,
            visitor,
            "manage/home.html",
            view=await self._show(request, visitor, "overview"),
            events=await self._show(request, visitor, "event.list", limit=10),
            audit=await self._show(request, visitor, "audit.list", limit=5),
            journal=await self._show(request, visitor, "journal.list", limit=1),
        )

    # --- users ----------------------------------------------------------------------------------------------------

    async def users(
        self, request: Request, visitor: Visitor, wrong: ControlError | None = None, name: str = ""
    ) -> Answer:
        search, after = _text(request, "search"), _text(request, "after")
        users = await self._show(request, visitor, "user.list", search=search, after=after, limit=ROWS)
        more = _link(request, search=search, after=users[-1].name) if len(users) == ROWS else ""
        shown = {"users": users, "search": search, "more": more, "name": name}
        return page(request, visitor, "manage/users.html", _status(wrong), wrong=_wrong(wrong), **shown)

    async def add_user(self, request: Request, visitor: Visitor) -> Answer:
        form = request.form()
        name = form.get("name", "")
        try:
            await self._do(request, visitor, "user.add", name=name, password=form.get("password", ""))
        except ControlError as error:
            return await self.users(request, visitor, error, name[:64])
        visitor.tell(f"Added {name}. It can log in now; its client needs the name and the password.")
        return see_other(_path("users", name))

    async def user(self, request: Request, visitor: Visitor) -> Answer:
        try:
            return await self._user(request, visitor)
        except Refused:
            # Lists link to accounts that a RADIUS server keeps, and to deleted ones, too.
            owner = f"user:{request.values['name']}"
            past = await self._show(request, visitor, "session.past", owner=owner, limit=ROWS)
            if not past:
                raise
        leases = await self._show(request, visitor, "lease.list", owner=owner)
        events = await self._show(request, visitor, "event.list", user=owner.removeprefix("user:"), limit=10)
        shown = {"owner": owner, "past": past, "leases": leases, "events": events}
        return page(request, visitor, "manage/elsewhere.html", **shown)

    async def _user(self, request: Request, visitor: Visitor, wrong: ControlError | None = None) -> Answer:
        name = request.values["name"]
        return page(
            request,
            visitor,
            "manage/user.html",
            _status(wrong),
            wrong=_wrong(wrong),
            details=await self._show(request, visitor, "user.show", name=name),
            events=await self._show(request, visitor, "event.list", user=name, limit=10),
            address_pools=self._names(Use.ACCOUNTS),
            prefix_pools=self._names(Use.PREFIXES),
        )

    def _names(self, use: Use) -> list[str]:
        return [each.name for each in self._pools.values() if each.use is use]

    async def set_password(self, request: Request, visitor: Visitor) -> Answer:
        name, password = request.values["name"], request.form().get("password", "")
        try:
            await self._do(request, visitor, "user.passwd", name=name, password=password)
        except ControlError as error:
            return await self._user(request, visitor, error)
        visitor.tell(f"Changed the password of {name}. A session that is up stays up; the client needs the new one.")
        return see_other(_path("users", name))

    async def assign(self, request: Request, visitor: Visitor) -> Answer:
        name, form = request.values["name"], request.form()
        wanted = {key: form.get(key, "").strip() for key in VERBS["user.assign"].optional}
        try:
            await self._do(request, visitor, "user.assign", name=name, **wanted)
        except ControlError as error:
            return await self._user(request, visitor, error)
        visitor.tell(
            f"{name} gets this from its next log-in on. To have it now, end its session: its client comes back."
        )
        return see_other(_path("users", name))

    async def enable(self, request: Request, visitor: Visitor) -> Answer:
        name = request.values["name"]
        await self._show(request, visitor, "user.enable", name=name)
        visitor.tell(f"Enabled {name}. Its client comes back by itself.")
        return see_other(_path("users", name))

    async def ask_disable(self, request: Request, visitor: Visitor) -> Answer:
        name = request.values["name"]
        await self._show(request, visitor, "user.show", name=name)
        return _confirm(
            request,
            visitor,
            f"Disable {name}?",
            "Its session ends, and it cannot log in until it is enabled again. It keeps its addresses.",
            "Disable",
            _path("users", name),
        )

    async def disable(self, request: Request, visitor: Visitor) -> Answer:
        name = request.values["name"]
        changed = await self._show(request, visitor, "user.disable", name=name)
        ended = " and ended its session" if changed.disconnected else ""
        visitor.tell(f"Disabled {name}{ended}. It keeps its addresses until it is deleted.")
        return see_other(_path("users", name))

    async def ask_delete(self, request: Request, visitor: Visitor) -> Answer:
        name = request.values["name"]
        details = await self._show(request, visitor, "user.show", name=name)
        held = ", ".join(str(each.prefix) for each in details.leases) or "nothing"
        return _confirm(
            request,
            visitor,
            f"Delete {name}?",
            f"Its session ends, its tokens are revoked, and what it holds is released: {held}. Its history stays.",
            "Delete",
            _path("users", name),
        )

    async def delete(self, request: Request, visitor: Visitor) -> Answer:
        name = request.values["name"]
        changed = await self._show(request, visitor, "user.delete", name=name)
        held = ", ".join(str(each.prefix) for each in changed.released) or "nothing"
        visitor.tell(f"Deleted {name} and released {held}. Leases still answer who had it in the past.")
        return see_other("/manage/users")

    # --- sessions -------------------------------------------------------------------------------------------------

    async def sessions(self, request: Request, visitor: Visitor) -> Answer:
        search = _text(request, "search")
        sort = next((each for each in Sort if each.value == request.query.get("sort")), Sort.STARTED)
        descending = request.query.get("order", "down") != "up"
        offset = _number(request, "from")
        found = await self._show(
            request,
            visitor,
            "session.list",
            search=search,
            sort=sort.value,
            descending=descending,
            offset=offset,
            limit=ROWS,
        )
        order = {"search": search, "sort": sort.value, "order": "down" if descending else "up"}
        headings = [
            (each, each.sort is sort, "" if each.sort is None else _link(request, **_turned(order, each.sort, sort)))
            for each in SESSION_COLUMNS
        ]
        beyond = offset + len(found.sessions)
        return page(
            request,
            visitor,
            "manage/sessions.html",
            search=search,
            order=order,
            total=found.total,
            sessions=found.sessions,
            headings=headings,
            first=offset + 1,
            last=beyond,
            before=_link(request, **order, **{"from": max(0, offset - ROWS)}) if offset else "",
            more=_link(request, **order, **{"from": beyond}) if beyond < found.total else "",
        )

    async def session(self, request: Request, visitor: Visitor) -> Answer:
        view = await self._show(request, visitor, "session.show", id=_id(request))
        plots: Sequence[Plot] = ()
        if view.user is not None:
            plots = of_tunnel(await self._show(request, visitor, "user.history", name=view.user), self._epoch())
        return page(request, visitor, "manage/session.html", each=view, plots=plots)

    async def ask_end(self, request: Request, visitor: Visitor) -> Answer:
        view = await self._show(request, visitor, "session.show", id=_id(request))
        return _confirm(
            request,
            visitor,
            f"End session {view.id} of {view.user or view.owner}?",
            "Its client will probably log in again within a minute. To keep it away, disable the user.",
            "End it",
            _path("sessions", str(view.id)),
        )

    async def end(self, request: Request, visitor: Visitor) -> Answer:
        view = await self._show(request, visitor, "session.kill", id=_id(request))
        visitor.tell(f"Ended session {view.id} of {view.user or view.owner}. Its client will probably come back.")
        return see_other("/manage/sessions" if view.user is None else _path("users", view.user))

    # --- leases ---------------------------------------------------------------------------------------------------

    async def leases(self, request: Request, visitor: Visitor) -> Answer:
        owner, after, address = (_text(request, each) for each in ("owner", "after", "address"))
        at, released = _text(request, "at"), request.query.get("released") == "1"
        wrong, holding = "", None
        if address:
            try:
                second = moment(at) if at else None
                holding = await self._do(request, visitor, "whois", address=address.strip("[]"), at=second)
            except ControlError as error:
                wrong = sentence(error)
            except ValueError as error:
                wrong = f"{error}."
        leases = await self._show(
            request, visitor, "lease.list", owner=owner, after=after, released=released or None, limit=ROWS
        )
        paged = not released and not owner and len(leases) == ROWS
        more = _link(request, after=str(leases[-1].prefix.network_address)) if paged else ""
        return page(
            request,
            visitor,
            "manage/leases.html",
            owner=owner,
            released=released,
            address=address,
            at=at,
            wrong=wrong,
            holding=holding,
            leases=leases,
            more=more,
        )

    async def ask_release(self, request: Request, visitor: Visitor) -> Answer:
        owner = request.values["owner"]
        leases = await self._show(request, visitor, "lease.list", owner=owner)
        held = ", ".join(str(each.prefix) for each in leases) or "nothing"
        return _confirm(
            request,
            visitor,
            f"Release what {owner} holds?",
            f"Its session ends, and it gives up {held}. Its next log-in gets other addresses.",
            "Release",
            "/manage/leases?" + urlencode({"owner": owner}),
        )

    async def release(self, request: Request, visitor: Visitor) -> Answer:
        owner = request.values["owner"]
        released = await self._show(request, visitor, "lease.release", owner=owner)
        held = ", ".join(str(each.prefix) for each in released)
        visitor.tell(f"Released {held}, which {owner} held. It rests before somebody else gets it.")
        return see_other("/manage/leases")

    # --- what happened, what waits, who changed what --------------------------------------------------------------

    async def events(self, request: Request, visitor: Visitor) -> Answer:
        user = _text(request, "user")
        events = await self._show(request, visitor, "event.list", user=user, limit=4 * ROWS)
        return page(request, visitor, "manage/events.html", events=events, user=user)

    async def journal(self, request: Request, visitor: Visitor) -> Answer:
        view = await self._show(request, visitor, "journal.list", limit=ROWS)
        return page(request, visitor, "manage/journal.html", view=view)

    async def audit(self, request: Request, visitor: Visitor) -> Answer:
        before = _number(request, "before") or None
        entries = await self._show(request, visitor, "audit.list", before=before, limit=ROWS)
        more = _link(request, before=entries[-1].number) if len(entries) == ROWS else ""
        return page(request, visitor, "manage/audit.html", entries=entries, more=more)

    # --- tokens ---------------------------------------------------------------------------------------------------

    async def tokens(
        self, request: Request, visitor: Visitor, wrong: ControlError | None = None, made: Any = None
    ) -> Answer:
        tokens = await self._show(request, visitor, "token.list")
        return page(
            request, visitor, "manage/tokens.html", _status(wrong), wrong=_wrong(wrong), made=made, tokens=tokens
        )

    async def add_token(self, request: Request, visitor: Visitor) -> Answer:
        form = request.form()
        user = form.get("user", "").strip()
        role = "owner" if user else "administrator"
        try:
            made = await self._do(request, visitor, "token.add", name=form.get("name", ""), role=role, user=user)
        except ControlError as error:
            return await self.tokens(request, visitor, error)
        return await self.tokens(request, visitor, made=made)

    async def ask_revoke(self, request: Request, visitor: Visitor) -> Answer:
        name = request.values["name"]
        if name not in {each.name for each in await self._show(request, visitor, "token.list")}:
            raise Refused(404, f"There is no token {name}.")
        what = "What uses it is refused from then on. It cannot be had back; another can be made."
        return _confirm(request, visitor, f"Revoke the token {name}?", what, "Revoke", "/manage/tokens")

    async def revoke(self, request: Request, visitor: Visitor) -> Answer:
        name = request.values["name"]
        await self._show(request, visitor, "token.delete", name=name)
        visitor.tell(f"Revoked the token {name}. The audit log shows what was changed with it.")
        return see_other("/manage/tokens")


def _confirm(request: Request, visitor: Visitor, title: str, what: str, button: str, back: str) -> Answer:
    """A page that asks once more; its form goes to the address that it was asked for by."""
    return page(request, visitor, "manage/confirm.html", title=title, what=what, button=button, back=back)


def _path(*parts: str) -> str:
    return "/".join(("/manage", *(quote(each, safe="") for each in parts)))


def _link(request: Request, **query: object) -> str:
    """The same page with another query; what is empty is left out."""
    said = {name: value for name, value in query.items() if value not in ("", None)}
    return f"{request.path}?{urlencode(said)}"


def _turned(order: Mapping[str, str], wanted: Sort, now: Sort) -> dict[str, str]:
    """The order after a click on a heading: the other way round where it is sorted by that already."""
    first = "up" if wanted in (Sort.USER, Sort.REMOTE, Sort.ADDRESS, Sort.VERSION) else "down"
    other = "up" if order["order"] == "down" else "down"
    return {**order, "sort": wanted.value, "order": other if wanted is now else first}


def _text(request: Request, name: str) -> str:
    """A field of the query, without blanks around it; what no verb would take is nothing."""
    return request.query.get(name, "").strip().replace("\0", "")[:300]


def _number(request: Request, name: str) -> int:
    text = request.query.get(name, "")
    return min(int(text), FARTHEST) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _id(request: Request) -> object:
    return VERBS["session.show"].arguments["id"].read(request.values["id"])


def _status(wrong: ControlError | None) -> int:
    if wrong is None:
        return 200
    return 422 if wrong.kind is Kind.REQUEST else STATUS[wrong.kind]


def _wrong(wrong: ControlError | None) -> str:
    return "" if wrong is None else sentence(wrong)
