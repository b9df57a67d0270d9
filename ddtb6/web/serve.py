# SPDX-License-Identifier: GPL-2.0-or-later
"""The web side put together and served: pages and API on `web.listen`, the management verbs on the control socket.

`Web.routes` is the whole table: each part adds its rows there.
Not here: what is answered (the parts), the daemon around it (`app`).
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger
from twisted.web import resource, server

from ddtb6.addressing.endpoint import Endpoint, source_of
from ddtb6.broker.broker import Broker
from ddtb6.broker.events import Bus
from ddtb6.broker.planes import Carried
from ddtb6.broker.ports import Authenticator, Clock
from ddtb6.broker.recording import Recording
from ddtb6.broker.views import EchoView, Overview
from ddtb6.config import Config
from ddtb6.tunnel.spec import TunnelId
from ddtb6.web import api, control_site
from ddtb6.web.control import Control
from ddtb6.web.exchange import NO_STORE, Answer, Refused, Reply, Request, Stream, fields, json_answer, text
from ddtb6.web.http import SECURITY_HEADERS, BoundedRequest, make_site
from ddtb6.web.live import Live, Pulse
from ddtb6.web.login import Login
from ddtb6.web.manage import Manage
from ddtb6.web.metrics import Metrics
from ddtb6.web.owner import Owner
from ddtb6.web.pages import STATIC, static_file
from ddtb6.web.recent import Recent
from ddtb6.web.routes import Desk, Route
from ddtb6.web.staff import token_hash
from ddtb6.web.status import Status
from ddtb6.web.tunnels import Books
from ddtb6.web.verbs import Actor
from ddtb6.web.visitors import Role, Visitor, Visitors

T = TypeVar("T")

log = Logger()


ENDS_SESSIONS: Mapping[str, Role] = {
    "user.passwd": Role.OWNER,
    "user.disable": Role.OWNER,
    "user.delete": Role.OWNER,
    "admin.passwd": Role.ADMINISTRATOR,
    "admin.delete": Role.ADMINISTRATOR,
}
"""Changes after which whoever was logged in by that name no longer is."""


class Lane(Protocol):
    """Runs a slow function elsewhere, or raises `auth.local.LaneFull`."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Daemon:
    """What of the daemon the web side shows and steers."""

    config: Config
    reactor: Any
    clock: Clock
    store: Books
    broker: Broker
    bus: Bus
    overview: Callable[[], Overview]
    recording: Recording
    carried: Callable[[], Carried | None]
    """By all tunnels together, as `planes.DataPlane.carried`."""
    echoes: Callable[[], EchoView] | None
    """What clients answered; None where they are not asked."""
    owners: Authenticator
    """Judges the passwords of tunnel accounts."""
    in_thread: Lane
    """Makes slow hashes."""


class Web:
    """All that is served by HTTP."""

    def __init__(self, daemon: Daemon) -> None:
        """Opens nothing yet."""
        config, store = daemon.config, daemon.store
        self._daemon = daemon
        self._ports: list[Any] = []
        self._visitors = Visitors(daemon.clock, secrets.token_bytes, self._find_token, self._find_tunnel)
        self._recent = Recent(daemon.clock)
        daemon.bus.subscribe(self._recent.note)
        self._control = Control(
            store,
            daemon.broker,
            daemon.overview,
            realm=config.server.realm,
            pools=config.pools,
            clock=daemon.clock,
            in_thread=daemon.in_thread,
            recent=self._recent,
            past=daemon.recording,
        )
        self._control.subscribe(self._changed)
        pulse = Pulse(daemon.clock, daemon.carried)
        self._live = Live(daemon.clock)
        self._status = Status(daemon.overview, daemon.recording, pulse, self._live, daemon.clock)
        self._metrics = Metrics(
            daemon.overview,
            daemon.recording.carried,
            daemon.echoes,
            daemon.broker,
            daemon.clock,
            of_sessions=config.web.session_metrics,
        )
        self._login = Login(
            self._visitors, daemon.clock, daemon.owners, store, daemon.in_thread, self._control.note_login
        )
        self._owner = Owner(self._control, store.find_account, config, self._login, daemon.clock.epoch)

    def _changed(self, verb: str, arguments: Mapping[str, Any], actor: Actor) -> None:
        """After some changes, those who logged in before must do so again."""
        role = ENDS_SESSIONS.get(verb)
        if role is not None:
            self._visitors.close_of(role, arguments["name"], but=actor.session)

    def _find_token(self, text: str) -> Visitor | None:
        """Who has that API token. An owner's is worth nothing while the account is disabled."""
        store = self._daemon.store
        token = store.find_token(token_hash(text))
        if token is None:
            return None
        if token.role == Role.ADMINISTRATOR.value:
            return Visitor(Role.ADMINISTRATOR, token.name, token=token.name)
        account = store.find_account(token.user)
        if account is not None and account.disabled:
            return None
        return Visitor(Role.OWNER, token.user, f"user:{token.user}", token=token.name)

    def _find_tunnel(self, source: str) -> TunnelId | None:
        """The live tunnel that a numeric address belongs to."""
        try:
            address = IPv6Address(source)
        except ValueError:
            return None
        session = None if address.scope_id else self._daemon.broker.session_carrying(address)
        return session.id if session is not None else None

    def routes(self) -> list[Route]:
        """The table."""
        table = [
            *(Route("GET", f"/{name}", Role.NOBODY, static_file) for name in STATIC),
            *self._status.routes(),
            *self._metrics.routes(),
            *self._login.routes(),
            *self._owner.routes(),
            *Manage(self._control, self._daemon.config.pools, self._daemon.clock.epoch).routes(),
            *api.routes(self._control),
        ]
        described = json_answer(api.document(table))
        return [*table, Route("GET", api.DOCUMENT, Role.NOBODY, lambda request, visitor: described)]

    def site(self) -> server.Site:
        """The pages and the API."""
        config, reactor = self._daemon.config, self._daemon.reactor
        return make_pages_site(Desk(self.routes(), self._visitors), config.web.trusted_proxies, reactor)

    async def start(self) -> None:
        """Listen. Raises twisted's CannotListenError, OSError, StoreError."""
        config, reactor = self._daemon.config, self._daemon.reactor
        if config.web.listen:
            port: Any = await serverFromString(reactor, config.web.listen).listen(self.site())
            self._ports.append(port)
            host = port.getHost()
            scheme = "https" if config.web.listen.startswith("ssl:") else "http"
            if hasattr(host, "port"):
                log.info("web: {scheme}://{at}/", scheme=scheme, at=Endpoint(host.host, host.port))
            if not self._daemon.store.any_administrator():
                log.info("nobody may manage the broker on its pages yet: `ddtb6 admin add NAME` makes one who may")
        control = control_site.make_control_site(self._control, reactor)
        self._ports.append(await control_site.listen(control, config.server.control, reactor))

    def tick(self) -> None:
        """Once a second."""
        self._status.tick()

    async def stop(self) -> None:
        """Listen no more."""
        self._live.close()
        while self._ports:
            await self._ports.pop().stopListening()


def make_pages_site(desk: Desk, proxies: Sequence[str], reactor: Any) -> server.Site:
    """The site that `desk` answers for; X-Forwarded-* counts from `proxies`, addresses or networks."""
    trusted = _Proxies(proxies)
    return make_site(_Everything(desk, trusted), reactor, trusted.limited)


def plain_address(host: str) -> str:
    """An IPv4 address that a socket for both families has as ``::ffff:192.0.2.1``, as itself; all else as it is."""
    try:
        mapped = IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if mapped is None else str(mapped)


class _Proxies:
    """Who is at the other end, believing proxies that are trusted."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = [ip_network(each, strict=False) for each in trusted]

    def look_behind(self, peer: str, forwarded: str) -> str:
        """The last address in `forwarded` (X-Forwarded-For) that is no trusted proxy, if `peer` is one."""
        source = peer
        for each in reversed(forwarded.split(",")):
            if not self.trusts(source):
                break
            try:
                source = plain_address(str(ip_address(each.strip())))
            except ValueError:
                break
        return source

    def trusts(self, address: str) -> bool:
        if not address:  # a unix socket, whose mode is the permission
            return True
        try:
            known = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(known in network for network in self._trusted)

    def limited(self, host: str) -> str:
        """Whose connections from `host` are; empty for a proxy, which has those of many."""
        address = plain_address(host)
        return "" if self.trusts(address) else source_of(Endpoint(address, 0))


class _Everything(resource.Resource):
    """Stands for every path."""

    isLeaf = True

    def __init__(self, desk: Desk, proxies: _Proxies) -> None:
        super().__init__()
        self._desk = desk
        self._proxies = proxies

    def render(self, request: BoundedRequest) -> int:
        Deferred.fromCoroutine(_converse(request, self._desk, self._proxies))
        return server.NOT_DONE_YET


async def _converse(request: BoundedRequest, desk: Desk, proxies: _Proxies) -> None:
    """Answer, unless the other end went away meanwhile. Never raises."""
    stop: list[Callable[[], None]] = []
    gone = request.notifyFinish()

    def end(_: object) -> None:
        while stop:
            stop.pop()()

    gone.addBoth(end)
    try:
        reply = await desk.answer(read(request, proxies))
    except Exception:
        log.failure("a page of refusal could not be made")
        reply = text("That failed inside the broker; its log has the reason.", 500)
    if gone.called:
        return
    _head(request, reply)
    if isinstance(reply, Answer):
        request.write(reply.body)
    elif request.method != b"HEAD":
        request.write(b"")
        sink = _RequestSink(request)
        request.registerProducer(sink, True)
        stop.append(reply.begin(sink))
        return
    request.finish()


class _RequestSink:
    """`exchange.Sink`, and the producer that the connection pauses while much waits to be sent."""

    def __init__(self, request: BoundedRequest) -> None:
        self._request = request
        self.stalled = False
        self._ended = False

    def __call__(self, octets: bytes) -> None:
        if not self._ended:
            self._request.write(octets)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._request.unregisterProducer()
            self._request.finish()

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._request.channel.forceAbortClient()

    def pauseProducing(self) -> None:
        self.stalled = True

    def resumeProducing(self) -> None:
        self.stalled = False

    def stopProducing(self) -> None:
        self._ended = True


def read(request: BoundedRequest, proxies: _Proxies) -> Request:
    """What HTTP brought, as a value."""
    headers = {
        name.decode("latin-1").lower(): values[-1].decode("utf-8", "replace")
        for name, values in request.requestHeaders.getAllRawHeaders()
        if values
    }
    peer = plain_address(getattr(request.getClientAddress(), "host", ""))
    secure = bool(request.isSecure())
    host = headers.get("host", "")
    if proxies.trusts(peer):
        forwarded = b",".join(request.requestHeaders.getRawHeaders(b"x-forwarded-for") or [])
        source = proxies.look_behind(peer, forwarded.decode("latin-1"))
        secure = secure or headers.get("x-forwarded-proto", "").lower() == "https"
        host = headers.get("x-forwarded-host", host)
    else:
        source = peer
    path, _, query = request.uri.partition(b"?")
    flaw = ""
    try:
        asked = fields(query)
    except Refused as refused:
        asked, flaw = {}, str(refused)
    return Request(
        method=request.method.decode("latin-1"),
        path=path.decode("latin-1"),
        query=asked,
        flaw=flaw,
        headers=headers,
        body=request.body,
        oversized=request.oversized,
        source=source,
        secure=secure,
        host=host,
    )


def _head(request: BoundedRequest, reply: Reply) -> None:
    """Status and headers."""
    for name, value in SECURITY_HEADERS.items():
        request.setHeader(name.encode("ascii"), value.encode("ascii"))
    request.setHeader(b"Content-Type", reply.content_type.encode("ascii"))
    if isinstance(reply, Stream):
        request.setHeader(b"Cache-Control", NO_STORE.encode("ascii"))
        request.setHeader(b"X-Accel-Buffering", b"no")  # nginx would collect some kilooctets first.
        return
    request.setResponseCode(reply.status, HTTPStatus(reply.status).phrase.encode("ascii"))  # Twisted lacks some
    request.setHeader(b"Cache-Control", reply.cache.encode("ascii"))
    request.setHeader(b"Content-Length", str(len(reply.body)).encode("ascii"))
    for name, value in reply.headers:
        request.responseHeaders.addRawHeader(name.encode("ascii"), value.encode("ascii"))
