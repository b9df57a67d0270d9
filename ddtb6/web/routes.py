# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of routes, and the desk that answers by it.

One row is one method of one path: who may, and which function answers. To add a page is to add a row and a function;
the navigation, the permissions and their test read the same rows.
Invariants: a row's role is checked before its function is called; a change by cookie needs the CSRF token, in the field
``csrf`` or the header ``X-CSRF-Token``, and must not come from another site; whatever a function raises, the visitor
learns nothing of the inside.
Not here: who the visitor is (`visitors`), what pages look like (`pages`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from twisted.logger import Logger

from ddtb6.web.exchange import Answering, Entry, Refused, Reply, Request, see_other, segments
from ddtb6.web.pages import refusal
from ddtb6.web.visitors import Role, Visitor, Visitors, is_same

if TYPE_CHECKING:
    from ddtb6.web.api import Operation

Handler = Callable[[Request, Visitor], Answering]
READING = ("GET", "HEAD")
API = "/api/"
"""Below this, refusals are problem JSON, and nobody is sent to the log-in page."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row."""

    method: str
    """GET answers HEAD, too."""
    path: str
    """``/users/{name}``: a part in braces matches one segment, which `Request.values` has under that name."""
    role: Role
    """NOBODY: everybody may. Otherwise this role and no other."""
    handler: Handler
    menu: str = ""
    """What the navigation calls it; empty: it is not in there."""
    through: bool = False
    """Whoever asks through a tunnel may, too; the handler shows them that tunnel."""
    operation: Operation | None = None
    """What the description of the API says of it; None: it is not in there."""

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path[1:].split("/"))

    def admits(self, visitor: Visitor) -> bool:
        return self.role in (Role.NOBODY, visitor.role) or (self.through and visitor.through is not None)


class Desk:
    """Answers requests."""

    log = Logger()

    def __init__(self, routes: Iterable[Route], visitors: Visitors) -> None:
        """Raises ValueError where two rows say the same."""
        self.routes = tuple(routes)
        self._visitors = visitors
        self._exact: dict[tuple[str, ...], dict[str, Route]] = {}
        self._patterns: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in self.routes:
            table = self._patterns if "{" in route.path else self._exact
            if table.setdefault(route.parts, {}).setdefault(route.method, route) is not route:
                raise ValueError(f"{route.method} {route.path} stands in the table twice")

    async def answer(self, request: Request) -> Reply:
        """The answer to `request`. Never raises."""
        visitor = Visitor()
        try:
            visitor = self._visitors.identify(request)
            request = replace(request, menu=self._menu(visitor))
            if self._visitors.is_flood(visitor):
                sentence = "Too many requests come from where you are. Wait a minute, then try again."
                return refusal(request, visitor, 429, sentence, ("Retry-After", "60"))
            if request.flaw:
                raise Refused(400, request.flaw)
            found = self._find(request.path)
            if found is None:
                raise Refused(404, "There is no such page.")
            methods, values = found
            route = methods.get("GET" if request.method == "HEAD" else request.method)
            if route is None:
                allowed = ", ".join(sorted(methods) + (["HEAD"] if "GET" in methods else []))
                sentence = f"This page can only be asked with {allowed}."
                return refusal(request, visitor, 405, sentence, ("Allow", allowed))
            if not route.admits(visitor):
                return _turn_away(request, visitor, route)
            if request.method not in READING:
                require_own_form(request, visitor)
            reply = route.handler(replace(request, values=values), visitor)
            return await reply if inspect.isawaitable(reply) else reply
        except Refused as refused:
            return refusal(request, visitor, refused.status, str(refused))
        except Exception:
            self.log.failure("{method} {path} failed", method=request.method, path=request.path[:200])
            return refusal(request, visitor, 500, "That failed inside the broker; its log has the reason.")

    def _find(self, path: str) -> tuple[Mapping[str, Route], Mapping[str, str]] | None:
        """The rows of a path by method, and what its named parts are."""
        parts = segments(path)
        if parts is None:
            return None
        if parts in self._exact:
            return self._exact[parts], {}
        for pattern, methods in self._patterns.items():
            values = _match(pattern, parts)
            if values is not None:
                return methods, values
        return None

    def _menu(self, visitor: Visitor) -> tuple[Entry, ...]:
        return tuple(Entry(each.path, each.menu) for each in self.routes if each.menu and each.admits(visitor))


def require_own_form(request: Request, visitor: Visitor) -> None:
    """Raises Refused unless a change was meant: sent by a script with its token, or from a page of ours."""
    if request.oversized:
        raise Refused(413, "The request is too large.")
    if visitor.token:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = f"{'https' if request.secure else 'http'}://{request.host}"
    if site not in (None, "same-origin", "none") or (origin is not None and origin.lower() != ours.lower()):
        raise Refused(403, "That came from another site, and was not done. Open the page here, and try again.")
    sent = request.headers.get("x-csrf-token") or request.form().get("csrf", "")
    if not is_same(sent, visitor.csrf):
        raise Refused(403, "The page was too old, and nothing was done. Go back, load it again, and try again.")


def _turn_away(request: Request, visitor: Visitor, route: Route) -> Reply:
    if request.path.startswith(API):
        if visitor.role is Role.NOBODY:
            sentence = "This needs a token: Authorization: Bearer TOKEN. `ddtb6 token add` makes one."
            return refusal(request, visitor, 401, sentence, ("WWW-Authenticate", "Bearer"))
    elif visitor.role is Role.NOBODY and request.method in READING:
        return see_other(f"/login?next={quote(request.path, safe='')[:800]}")
    needed = "an administrator" if route.role is Role.ADMINISTRATOR else "the owner of a tunnel"
    return refusal(request, visitor, 403, f"This is for {needed}. Log in as one.")


def _match(pattern: Sequence[str], parts: Sequence[str]) -> Mapping[str, str] | None:
    if len(pattern) != len(parts):
        return None
    values: dict[str, str] = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{"):
            if not part:
                return None
            values[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return values
