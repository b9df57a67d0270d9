# SPDX-License-Identifier: GPL-2.0-or-later
"""The broker: admits, and answers what negotiations ask.

Invariants: a lease and a session are durable before the reply that announces them is given out; an endpoint moves only
by an authenticated negotiation.
Not here: the tunnels that stand (`tunnels`), who speaks (`transport`), what is said (`tsp`), where it is kept
(`store`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

from ddtb6.addressing.endpoint import Encapsulation, Link, resolve, source_of, translated
from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker import events, lease, planes, ports
from ddtb6.broker.admission import Admission, Gate
from ddtb6.broker.history import Meter
from ddtb6.broker.search import SessionQuery
from ddtb6.broker.tally import Tally
from ddtb6.broker.tunnels import Tunnels
from ddtb6.broker.views import Activity, Reconciliation, SessionPage, SessionView, pool_view
from ddtb6.sasl.mechanisms import Mechanism, mechanism
from ddtb6.tsp.effects import (
    Answer,
    Ask,
    Establish,
    Established,
    Grant,
    Granted,
    Judge,
    Judged,
    Query,
    Refused,
    Why,
    Withdraw,
    Withdrawn,
)
from ddtb6.tsp.messages import Capability, Create, Keepalive, Offer
from ddtb6.tsp.negotiation import MechanismFactory, Negotiation
from ddtb6.tsp.status import (
    AuthenticationFailed,
    NoMoreTunnels,
    ServerBusy,
    ServerError,
    TspError,
    UnsupportedTunnelType,
)
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import TunnelId

PRUNING_INTERVAL = 3600.0
"""Seconds between two prunings of history."""
USAGE_INTERVAL = 5.0
"""Seconds between two countings of the pools, for the overview."""
GROWTH_INTERVAL = 600.0
"""The same of how fast they grow, which looks at each lease."""
SILENT_LIMIT = 86400.0
"""Seconds of silence that end the tunnel of a client that announced no keepalives; its silence means little."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration decides, as the broker needs it. Times in seconds."""

    realm: str
    mechanisms: tuple[str, ...]
    pools: Mapping[str, Pool]
    mtu: int = 1280
    keepalive: int = 30
    idle_limit: float = 180.0
    """Silence after which a tunnel whose client sends keepalives is taken down; 0: never."""
    lifetime: int = 604800
    resolver: IPv6Address | None = None
    domain: str = ""
    interim_interval: float = 0.0
    """Between two interim accounting records where the authenticator says nothing; 0: none."""
    interim_fixed: bool = False
    """The interval above goes before the authenticator's (RFC 2869 section 2.1), not the other way round."""
    history: float = 0.0
    """How long ended sessions and leases are remembered; 0: for ever."""
    negotiation_timeout: float = 60.0
    per_source_tunnels: int = 64


class Visitor:
    """Who is at the other end of one negotiation, and what has come of it so far."""

    __slots__ = ("link", "logged_in", "negotiation", "principal", "tunnel")

    def __init__(self, link: Link, negotiation: Negotiation) -> None:
        self.link = link
        self.logged_in = 0.0
        """Monotonic second at which its credentials were accepted."""
        self.negotiation = negotiation
        self.principal: ports.Principal | None = None
        self.tunnel: TunnelId | None = None


class Broker:
    """One for the process."""

    def __init__(
        self,
        policy: Policy,
        gate: Gate,
        clock: ports.Clock,
        authenticator: ports.Authenticator,
        store: ports.SessionStore,
        plane: planes.DataPlane,
        nonce: Callable[[], bytes],
        bus: events.Bus,
    ) -> None:
        self._policy = policy
        self._gate = gate
        self._clock = clock
        self._authenticator = authenticator
        self._store = store
        self._plane = plane
        self._nonce = nonce
        self._mechanisms: MechanismFactory = self._mechanism  # Bound once for all negotiations.
        self._bus = bus
        self._tunnels = Tunnels(clock, store, plane, bus, policy.negotiation_timeout)
        self._pool_usage: Mapping[str, tuple[int, int]] = {}
        self._pool_growth: Mapping[str, float] = {}
        self._usage_due = self._growth_due = self._pruning_due = clock.monotonic()
        self._shut_out: dict[str, float] = {}
        self._granting: Counter[str] = Counter()
        """Tunnels by source that are being written and do not stand yet."""
        self._tally = Tally()
        bus.subscribe(self._tally.count)
        carried = [Encapsulation.V6V4, Encapsulation.V6UDPV4, Encapsulation.V4V6]
        self.capability = Capability(tuple(each for each in carried if each in plane.encapsulations), policy.mechanisms)
        """What every negotiation is told: what the data plane carries and somebody can verify."""

    # --- negotiations ---------------------------------------------------------------------------------------------

    def admit(self, link: Link, under_way: int) -> Admission:
        """May a newcomer at `link` begin, with `under_way` negotiations there already?"""
        verdict = self._gate.newcomer(link.remote, under_way, self._clock.monotonic())
        if verdict is not Admission.WELCOME:
            self._bus.publish(events.NewcomerRefused(link))
        return verdict

    def may_echo(self, link: Link) -> bool:
        """May an ECHO REQUEST over `link` be answered?"""
        return self._gate.echo(link.remote, self._clock.monotonic())

    def welcome(self, link: Link) -> Visitor:
        """Open a negotiation for an admitted newcomer."""
        now = self._clock.monotonic()
        return Visitor(link, Negotiation(self.capability, self._mechanisms, self._policy.negotiation_timeout, now))

    def _mechanism(self, name: str, version: tuple[int, ...]) -> Mechanism | None:
        if name not in self._policy.mechanisms:
            return None
        return mechanism(name, realm=self._policy.realm, nonce=self._nonce, version=version)

    async def answer(self, ask: Ask, visitor: Visitor) -> Answer:
        """The answer to what `visitor`'s negotiation asks. Raises only on bugs and when the store fails."""
        token, question = ask.token, ask.question
        try:
            match question:
                case Judge():
                    return await self._judge(token, question, visitor)
                case Grant(create):
                    return Granted(token, await self._grant(visitor, create))
                case Establish():
                    self._establish(visitor)
                    return Established(token)
                case Query():
                    return Granted(token, self._query(visitor))
                case Withdraw(why):
                    await self._withdraw(visitor, why)
                    return Withdrawn(token)
        except Exception as error:
            said = lease.refusal(error)
            if said is None:
                raise
            owner = visitor.principal.owner if visitor.principal else ""
            self._bus.publish(events.RequestRefused(visitor.link, owner, said.line, str(error)))
            return Refused(token, said)

    async def _judge(self, token: int, question: Judge, visitor: Visitor) -> Answer:
        verdict = await self._authenticator.verify(question.credentials, visitor.link)
        mechanism = question.credentials.mechanism
        error: TspError
        match verdict:
            case ports.Accepted(principal, rspauth):
                visitor.principal, visitor.logged_in = principal, self._clock.monotonic()
                version = visitor.negotiation.version
                self._bus.publish(events.LoggedIn(visitor.link, principal.owner, mechanism, version))
                return Judged(token, rspauth)
            case ports.Unavailable(why):
                error = ServerBusy()
            case ports.Rejected(why, message):
                self._gate.failed(visitor.link.remote, self._clock.monotonic())
                error = AuthenticationFailed(message)
            case ports.NotMine():
                why, error = "no authenticator knows the account", AuthenticationFailed()
        user = getattr(question.credentials, "user", "")
        self._bus.publish(events.LoginRefused(visitor.link, mechanism, why, error.code, user))
        return Refused(token, error)

    async def _grant(self, visitor: Visitor, create: Create) -> Offer:
        principal, link = visitor.principal, visitor.link
        assert principal is not None, "commands are taken after the log-in only"
        if self._is_shut_out(visitor, principal):
            raise AuthenticationFailed
        if principal.terms.tunnels == 0:
            raise NoMoreTunnels("This account may have no tunnel")
        nat = translated(create.client_address, link.remote)
        encapsulation = resolve(create.encapsulation, link, self._plane.encapsulations, nat=nat)
        if encapsulation is None:
            raise UnsupportedTunnelType
        if not self._gate.another_tunnel(principal.owner, self._clock.monotonic()):
            raise ServerBusy("Too many requests from this account")
        sources = lease.sources(self._policy.pools.values(), principal, create)
        source = source_of(link.remote)
        under_way = self._granting[source]
        if self._tunnels.others_from(link.remote, principal.owner) + under_way >= self._policy.per_source_tunnels:
            raise NoMoreTunnels("Too many tunnels from your address")
        self._granting[source] += 1
        try:
            session = await self._open(visitor, principal, encapsulation, sources, create)
        finally:
            self._granting[source] -= 1
            if not self._granting[source]:
                del self._granting[source]
        if principal.terms.account_session:  # The name that the AAA knows is for one session.
            visitor.principal = replace(principal, terms=replace(principal.terms, account_session=0))
        if self._is_shut_out(visitor, principal):  # While it was being written.
            self._tunnels.drop(session, EndReason.DISABLED)
            raise AuthenticationFailed
        await self._tunnels.stand(session, nat=nat, by=str(link.remote))
        visitor.tunnel = session.id
        return self._offer(session, create.client_address, keepalive=create.keepalive is not None)

    def _is_shut_out(self, visitor: Visitor, principal: ports.Principal) -> bool:
        return self._shut_out.get(principal.owner, -1.0) >= visitor.logged_in

    async def _open(
        self,
        visitor: Visitor,
        principal: ports.Principal,
        encapsulation: Encapsulation,
        sources: lease.Sources,
        create: Create,
    ) -> ports.Session:
        while True:
            opening = ports.Opening(
                owner=principal.owner,
                user=principal.user,
                link=visitor.link,
                encapsulation=encapsulation,
                mechanism=visitor.negotiation.mechanism,
                client_version=visitor.negotiation.version,
                address_pool=sources.address[0],
                prefix_pool=sources.prefix[0] if sources.prefix else None,
                mtu=self._policy.mtu,
                idle_limit=self._idle_limit(principal.terms, keepalive=create.keepalive is not None),
                terms=self._settled(principal.terms),
            )
            try:
                return await self._store.open_session(opening)
            except ports.PoolExhausted as full:
                sources = sources.without(str(full))

    def _idle_limit(self, terms: ports.Terms, *, keepalive: bool) -> float:
        if terms.idle_limit is not None:
            return terms.idle_limit
        if not self._policy.idle_limit:
            return 0.0
        return max(self._policy.idle_limit if keepalive else SILENT_LIMIT, 5.0 * self._policy.keepalive)

    def _settled(self, terms: ports.Terms) -> ports.Terms:
        """`terms` with the interim interval that holds."""
        policy = self._policy
        if not policy.interim_interval or (terms.interim_interval is not None and not policy.interim_fixed):
            return terms
        return replace(terms, interim_interval=policy.interim_interval)

    def _offer(self, session: ports.Session, claimed: str, *, keepalive: bool) -> Offer:
        spec = session.spec
        server = next(
            (
                pool.broker_address
                for pool in self._policy.pools.values()
                if pool.use is not Use.PREFIXES and spec.address in pool.block
            ),
            None,
        )
        if server is None:  # The pool was taken out of the configuration while the tunnel stood.
            raise ServerError
        interval = self._policy.keepalive
        return Offer(
            encapsulation=spec.encapsulation,
            lifetime=min(self._policy.lifetime, int(session.terms.session_limit) or self._policy.lifetime),
            server_outer=spec.local.address,
            server_inner=server,
            client_outer=claimed,
            client_inner=spec.address,
            prefix=spec.prefix,
            name=f"{session.user}.{self._policy.domain}" if session.user and self._policy.domain else None,
            resolver=session.terms.resolver or self._policy.resolver,
            keepalive=Keepalive(interval, server) if keepalive and interval else None,
        )

    def _establish(self, visitor: Visitor) -> None:
        if visitor.tunnel is None or not self._tunnels.establish(visitor.tunnel):
            raise ServerError("The tunnel is gone, another log-in has replaced it")

    def _query(self, visitor: Visitor) -> Offer:
        session = self._session_of(visitor)
        return self._offer(session, session.spec.remote.address, keepalive=True)

    async def _withdraw(self, visitor: Visitor, why: Why) -> None:
        if why is Why.DELETE:
            await self._tunnels.end(self._session_of(visitor).id, EndReason.DELETED)
        elif visitor.tunnel is not None:
            # An offer may have been overtaken by a log-in from elsewhere, whose tunnel is not this one's to reject.
            await self._tunnels.end(visitor.tunnel, EndReason.REJECTED)

    def _session_of(self, visitor: Visitor) -> ports.Session:
        assert visitor.principal is not None, "commands are taken after the log-in only"
        session = self._tunnels.of_owner(visitor.principal.owner)
        if session is None:
            raise ServerError("There is no tunnel")
        return session

    # --- life and management --------------------------------------------------------------------------------------

    def measure(self, meter: Meter) -> None:
        """Have `meter` told what tunnels carry; before the start."""
        self._tunnels.meter = meter

    async def start(self) -> None:
        """Start the data plane and make true again what the store says should be. Raises DataPlaneError, StoreError."""
        await self._tunnels.start()

    async def stop(self) -> None:
        """Write down what is known and let go of the data plane.

        Sessions stay open: a restarted broker resumes them.
        """
        await self._tunnels.stop()

    async def tick(self) -> None:
        """To be called once a second, never twice at once. Raises StoreError, DataPlaneError; the next goes on."""
        await self._tunnels.tick()
        now = self._clock.monotonic()
        if now >= self._usage_due:
            self._usage_due = now + USAGE_INTERVAL
            self._pool_usage = await self._store.pool_usage()
        if now >= self._growth_due:
            self._growth_due = now + GROWTH_INTERVAL
            self._pool_growth = await self._store.pool_growth()
        if now >= self._pruning_due:
            self._pruning_due = now + PRUNING_INTERVAL
            history = self._policy.history
            await self._store.prune(self._clock.epoch() - history if history else 0.0)

    async def sessions(self, only: TunnelId | None = None) -> Sequence[SessionView]:
        """Live sessions, oldest first; or the one asked for, if it lives."""
        return await self._tunnels.views(only)

    async def page(self, query: SessionQuery) -> SessionPage:
        """The live sessions that a query asks for; cheap with 50,000 of them."""
        return await self._tunnels.page(query)

    async def disconnect(self, tunnel: TunnelId, reason: EndReason) -> bool:
        """End a session now, durably; False when there is none of that id."""
        return await self._tunnels.end(tunnel, reason)

    def session_named(self, name: int) -> ports.Session | None:
        """The live session that accounting calls `name`: its `Terms.account_session`, or without one its id."""
        return self._tunnels.named(name)

    def session(self, tunnel: TunnelId) -> ports.Session | None:
        """A live session."""
        return self._tunnels.session(tunnel)

    def established(self) -> Iterator[ports.Session]:
        """Sessions whose tunnels are in use, oldest first."""
        return self._tunnels.established()

    def session_of(self, owner: str) -> ports.Session | None:
        """The live session of an owner."""
        return self._tunnels.of_owner(owner)

    def session_carrying(self, inner: IPv6Address) -> ports.Session | None:
        """The live session whose tunnel an inner address belongs to."""
        return self._tunnels.carrying(inner)

    def live_sessions(self) -> Iterator[ports.Session]:
        """Sessions whose tunnels stand, oldest first."""
        return self._tunnels.sessions()

    async def change_terms(self, tunnel: TunnelId, terms: ports.Terms) -> bool:
        """Let a session go on under other terms, durably; False when there is none of that id."""
        return await self._tunnels.change_terms(tunnel, terms)

    async def disconnect_owner(self, owner: str, reason: EndReason) -> bool:
        """End the owner's session now, durably; False when it has none.

        With the reason DISABLED a client that has logged in already is granted nothing any more.
        """
        if reason is EndReason.DISABLED:
            self._shut_out[owner] = self._clock.monotonic()
        session = self._tunnels.of_owner(owner)
        return session is not None and await self._tunnels.end(session.id, reason)

    async def release(self, owner: str) -> Sequence[ports.Lease]:
        """End the owner's session, if any, and give up all it holds."""
        await self.disconnect_owner(owner, EndReason.DISCONNECTED)
        released = await self._store.release(owner)
        # One that was being written when this began stands by now, on what was just released.
        await self.disconnect_owner(owner, EndReason.DISCONNECTED)
        return released

    @property
    def reconciled(self) -> Reconciliation | None:
        """What was done the last time that the data plane was made to match the store."""
        return self._tunnels.reconciled

    @property
    def in_trouble(self) -> bool:
        """The data plane is lost, and the next round makes it match the store again."""
        return self._tunnels.in_trouble

    def activity(self) -> Activity:
        """Counts for the overview, as of now; pools as of the last tick."""
        usage, growth = self._pool_usage, self._pool_growth
        pools = tuple(
            pool_view(each, *usage.get(each.name, (0, 0)), growth.get(each.name, 0.0))
            for each in self._policy.pools.values()
        )
        return Activity(
            sessions=len(self._tunnels),
            logins=dict(self._tally.logins),
            refusals=dict(self._tally.refusals),
            ended=dict(self._tally.ended),
            strays={reason.value: count for reason, count in self._tunnels.strays().items() if count},
            pools=pools,
        )
