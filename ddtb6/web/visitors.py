# SPDX-License-Identifier: GPL-2.0-or-later
"""Who asks: nobody in particular, the owner of a tunnel, an administrator; by cookie or by token; and through which
tunnel.

A session of a browser is kept here, in memory, under the hash of a random id that only the cookie has; a restart ends
all of them. A change needs the session's CSRF token besides the cookie; a visitor without a session gets one for the
log-in form that is bound to a cookie of its own, so that a stranger costs no memory (signed double submit).
Invariants: the number of sessions, over all and of one name, and their life are bounded, and so is what a source that
is not logged in may ask for; ids and tokens are compared
without telling how far they agree; nothing here is logged.
Who asks through a tunnel is known by the source of the connection alone: answers go back into that tunnel, so nobody
else can hold a conversation from there. It gives no role.
Not here: passwords (`login`), what a role may do (`routes`).
"""

from __future__ import annotations

import enum
import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from ddtb6.addressing.endpoint import Endpoint, source_of
from ddtb6.broker.admission import Buckets
from ddtb6.broker.ports import Clock
from ddtb6.tunnel.spec import TunnelId
from ddtb6.web.exchange import Request

LIFE = 12 * 3600.0
"""Seconds after which a session ends whatever happens."""
IDLE = 2 * 3600.0
"""Seconds without a request after which it ends."""
SESSIONS = 10_000
SESSIONS_OF_NAME = 10
"""The oldest goes for one more."""
STRANGER_RATE, STRANGER_BURST = 10, 300
"""Requests a second, and at once, from one source that is not logged in; a page with all it loads is four."""
ENDED_KEPT = 1000
"""Names of which it is remembered that their sessions were ended; a log-in takes seconds."""
SESSION_COOKIE = "ddtb6"
FORM_COOKIE = "ddtb6-form"
TOKEN_LIMIT = 200
"""Characters of a cookie or token that are looked at."""


class Role(enum.Enum):
    """What somebody may see and do."""

    NOBODY = "nobody"
    OWNER = "owner"
    """Has a tunnel account, and sees what is theirs."""
    ADMINISTRATOR = "administrator"


class Session:
    """One browser that is logged in."""

    __slots__ = ("csrf", "name", "notice", "opened", "owner", "role", "seen")

    def __init__(self, role: Role, name: str, owner: str, csrf: str, now: float) -> None:
        self.role = role
        self.name = name
        self.owner = owner
        self.csrf = csrf
        self.opened = self.seen = now
        """Monotonic seconds."""
        self.notice = ""
        """What came of the last change; the next page shows it."""

    def take_notice(self) -> str:
        """The notice, once."""
        notice, self.notice = self.notice, ""
        return notice


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who makes a request."""

    role: Role = Role.NOBODY
    name: str = ""
    """Of the account or administrator; empty for nobody."""
    owner: str = ""
    """Whose tunnel is theirs, as in `broker.ports.Principal`; only of an owner."""
    csrf: str = field(default="", repr=False)
    """What a change must send along; empty: none will do."""
    session: Session | None = field(default=None, repr=False)
    token: str = ""
    """Name of the API token; empty: it came by cookie."""
    source: str = ""
    """Numeric address that they ask from, as trusted proxies tell it."""
    through: TunnelId | None = None
    """The live tunnel that they ask through, whoever they are; None: through none."""

    def tell(self, notice: str) -> None:
        """Show a sentence on the next page."""
        if self.session is not None:
            self.session.notice = notice


NOBODY = Visitor()


class Visitors:
    """All sessions, and who a request comes from."""

    def __init__(
        self,
        clock: Clock,
        random: Callable[[int], bytes],
        find_token: Callable[[str], Visitor | None] = lambda token: None,
        find_tunnel: Callable[[str], TunnelId | None] = lambda source: None,
    ) -> None:
        """`random` gives that many unpredictable octets; `find_token` who has a bearer token; `find_tunnel` the live
        tunnel that a numeric address belongs to.
        """
        self._now = clock.monotonic
        self._random = random
        self._find_token = find_token
        self._find_tunnel = find_tunnel
        self._form_key = random(32)
        self._strangers = Buckets(STRANGER_RATE, STRANGER_BURST)
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._ended: OrderedDict[tuple[Role, str], int] = OrderedDict()
        self.mark = 0
        """Rises with each `close_of`."""

    def __len__(self) -> int:
        return len(self._sessions)

    def identify(self, request: Request) -> Visitor:
        """Who makes `request`. A token goes before a cookie; one that is wrong makes them nobody."""
        return replace(self._named(request), source=request.source, through=self._find_tunnel(request.source))

    def _named(self, request: Request) -> Visitor:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = token.strip()
            return (self._find_token(token) if 0 < len(token) <= TOKEN_LIMIT else None) or NOBODY
        cookies = _cookies(request)
        session = self._session(cookies.get(cookie_name(SESSION_COOKIE, request.secure), ""))
        if session is not None:
            return Visitor(session.role, session.name, session.owner, session.csrf, session)
        form = cookies.get(cookie_name(FORM_COOKIE, request.secure), "")
        return Visitor(csrf=self._form_token(form)) if form else NOBODY

    def is_flood(self, visitor: Visitor) -> bool:
        """Whether one more request of `visitor`'s is too many; never of who is logged in."""
        if visitor.role is not Role.NOBODY:
            return False
        return not self._strangers.take(source_of(Endpoint(visitor.source, 0)), self._now())

    def form_cookie(self, request: Request) -> tuple[str, tuple[tuple[str, str], ...]]:
        """For a form shown to nobody in particular: its CSRF token, and the header that goes with the page."""
        value = self._random(16).hex()
        return self._form_token(value), (set_cookie(FORM_COOKIE, value, request.secure),)

    def open(self, role: Role, name: str, owner: str, request: Request) -> tuple[str, str]:
        """Begin a session; the one that `request` came with, if any, ends. Returns the header that sets its cookie."""
        self.close(request)
        now = self._now()
        for key, session in list(self._sessions.items()):
            if self._is_over(session, now):
                del self._sessions[key]
        same = [key for key, each in self._sessions.items() if each.role is role and each.name == name]
        for key in same[: max(0, len(same) + 1 - SESSIONS_OF_NAME)]:
            del self._sessions[key]
        while len(self._sessions) >= SESSIONS:
            self._sessions.popitem(last=False)
        secret = self._random(32).hex()
        self._sessions[_key(secret)] = Session(role, name, owner, self._random(32).hex(), now)
        return set_cookie(SESSION_COOKIE, secret, request.secure)

    def close(self, request: Request) -> tuple[str, str]:
        """End the session of `request`, if there is one. Returns the header that removes its cookie."""
        secret = _cookies(request).get(cookie_name(SESSION_COOKIE, request.secure), "")
        self._sessions.pop(_key(secret), None)
        return set_cookie(SESSION_COOKIE, "", request.secure, life=0)

    def close_of(self, role: Role, name: str, but: object = None) -> None:
        """End all sessions of a name, such as after its password changed; `but` may go on."""
        for key, each in list(self._sessions.items()):
            if each.role is role and each.name == name and each is not but:
                del self._sessions[key]
        self.mark += 1
        self._ended[role, name] = self.mark
        self._ended.move_to_end((role, name))
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)

    def ended_since(self, role: Role, name: str, mark: int) -> bool:
        """Whether `close_of` of a name came after `mark` was read, such as while its password was checked."""
        return self._ended.get((role, name), 0) > mark

    def _session(self, secret: str) -> Session | None:
        if not 0 < len(secret) <= TOKEN_LIMIT:
            return None
        key, now = _key(secret), self._now()
        session = self._sessions.get(key)
        if session is None:
            return None
        if self._is_over(session, now):
            del self._sessions[key]
            return None
        session.seen = now
        return session

    @staticmethod
    def _is_over(session: Session, now: float) -> bool:
        return now - session.opened >= LIFE or now - session.seen >= IDLE

    def _form_token(self, value: str) -> str:
        return hmac.new(self._form_key, value[:TOKEN_LIMIT].encode("utf-8", "replace"), sha256).hexdigest()


def is_same(sent: str, known: str) -> bool:
    """Whether a token is the known one, which is not empty."""
    return bool(known) and hmac.compare_digest(sent.encode("utf-8", "replace"), known.encode())


def cookie_name(name: str, secure: bool) -> str:
    """By TLS with the prefix that binds a cookie to this host, this path and TLS (RFC 6265bis section 4.1.3.2)."""
    return f"__Host-{name}" if secure else name


def set_cookie(name: str, value: str, secure: bool, life: int | None = None) -> tuple[str, str]:
    """The header; without `life` (seconds) the cookie goes when the browser is closed."""
    parts = [f"{cookie_name(name, secure)}={value}", "Path=/", "HttpOnly", "SameSite=Strict"]
    if secure:
        parts.append("Secure")
    if life is not None:
        parts.append(f"Max-Age={life}")
    return "Set-Cookie", "; ".join(parts)


def _cookies(request: Request) -> Mapping[str, str]:
    """Not by http.cookies: it takes half a second for 16 kB of backslashes (CVE-2024-7592), and drops all where another
    application of this host has set what it cannot read. Ours are never quoted.
    """
    pairs = (each.partition("=") for each in request.headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _key(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "replace")).digest()
