# SPDX-License-Identifier: GPL-2.0-or-later
"""Live tunnels, found by id, by the name the AAA knows, by owner, by outer endpoint, by the inner addresses they carry,
and counted by source.

Invariant: one tunnel for an owner, one for an outer endpoint; `add` is told who must go first.
Not here: the negotiations that are under way (each transport keeps its own).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address

from ddtb6.addressing.endpoint import Endpoint, source_of
from ddtb6.broker.ports import Session
from ddtb6.broker.views import SessionView
from ddtb6.tunnel.spec import Observed, TunnelId


class Live:
    """A tunnel that stands, and what only the running broker knows of it."""

    __slots__ = ("before", "counted", "ends_at", "established", "interim_at", "nat", "quiet_since", "session")

    def __init__(
        self, session: Session, now: float, *, nat: bool | None, established: bool, ends_at: float | None
    ) -> None:
        self.session = session
        self.ends_at = ends_at
        """Monotonic second at which it ends whatever happens; None: it may go on."""
        self.interim_at: float | None = None
        """Monotonic second at which accounting is told of it again; None: it is not."""
        self.nat = nat
        """The client believes it has another outer address than the one we see; None: it said so to an earlier run."""
        self.established = established
        """The client accepted the offer or sent a packet."""
        self.before = session.before
        """What the session had carried when the tunnel that stands was raised, which counts from zero."""
        self.counted = session.carried
        """All it has carried up to the last checkpoint; what is left when the data plane loses its counters."""
        self.quiet_since = now
        """Monotonic second from which silence counts: the raising, or the last packet that was noticed."""


class Registry:
    """All live tunnels."""

    def __init__(self) -> None:
        self._by_id: dict[TunnelId, Live] = {}
        self._by_name: dict[int, Live] = {}
        """Those whose log-in named their session to an AAA."""
        self._by_owner: dict[str, Live] = {}
        self._by_remote: dict[Endpoint, Live] = {}
        self._per_source: dict[str, int] = {}
        self._by_inner: dict[tuple[int, int], Live] = {}
        """First address as a number, and length, of each address, prefix and route."""
        self._lengths: Counter[int] = Counter()
        """How many there are of each length."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Live]:
        return iter(tuple(self._by_id.values()))

    def by_age(self, *, newest_first: bool) -> Iterator[Live]:
        """In the order in which they were added, or the other way round; to be used up at once."""
        return iter(reversed(self._by_id.values()) if newest_first else self._by_id.values())

    def __contains__(self, live: Live) -> bool:
        return self._by_id.get(live.session.id) is live

    def get(self, tunnel: TunnelId) -> Live | None:
        return self._by_id.get(tunnel)

    def named(self, name: int) -> Live | None:
        """By what its session is called in accounting."""
        live = self._by_name.get(name)
        if live is None:
            live = self._by_id.get(TunnelId(name))
            if live is not None and live.session.terms.account_session:
                return None
        return live

    def of_owner(self, owner: str) -> Live | None:
        return self._by_owner.get(owner)

    def at(self, remote: Endpoint) -> Live | None:
        return self._by_remote.get(remote)

    def carrying(self, inner: IPv6Address) -> Live | None:
        """The tunnel that an inner address belongs to: its own, one of its prefix, or of its routes; longest first."""
        number = int(inner)
        for length in sorted(self._lengths, reverse=True):
            live = self._by_inner.get((number >> (128 - length) << (128 - length), length))
            if live is not None:
                return live
        return None

    def from_source(self, remote: Endpoint) -> int:
        """How many tunnels stand from the source of `remote`."""
        return self._per_source.get(source_of(remote), 0)

    def add(self, live: Live) -> None:
        """The owner and the endpoint must be free: remove who has them first."""
        session = live.session
        assert session.owner not in self._by_owner, "one tunnel an owner"
        assert session.spec.remote not in self._by_remote, "one tunnel an endpoint"
        self._by_id[session.id] = live
        if session.terms.account_session:
            self._by_name[session.terms.account_session] = live
        self._by_owner[session.owner] = live
        self._by_remote[session.spec.remote] = live
        source = source_of(session.spec.remote)
        self._per_source[source] = self._per_source.get(source, 0) + 1
        for key in _inner(session):
            if key not in self._by_inner:  # An AAA may name a route twice; the first has it, as in the data plane.
                self._by_inner[key] = live
                self._lengths[key[1]] += 1

    def remove(self, live: Live) -> None:
        """Removing what is not there is a bug: look with `in` first."""
        session = live.session
        del self._by_id[session.id], self._by_owner[session.owner], self._by_remote[session.spec.remote]
        self._by_name.pop(session.terms.account_session, None)
        source = source_of(session.spec.remote)
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]
        for key in _inner(session):
            if self._by_inner.get(key) is live:
                del self._by_inner[key]
                self._lengths[key[1]] -= 1
                if not self._lengths[key[1]]:
                    del self._lengths[key[1]]


def _inner(session: Session) -> Iterator[tuple[int, int]]:
    spec = session.spec
    yield int(spec.address), 128
    if spec.prefix is not None:
        yield int(spec.prefix.network_address), spec.prefix.prefixlen
    for route in spec.routes:
        yield int(route.network_address), route.prefixlen


def session_view(live: Live, seen: Observed | None, now: float) -> SessionView:
    """A tunnel as it is at monotonic second `now`, with what the data plane says of it, if it does."""
    session, spec = live.session, live.session.spec
    last = seen.last_seen if seen else None
    return SessionView(
        id=session.id,
        owner=session.owner,
        user=session.user,
        remote=spec.remote,
        local=spec.local,
        address=spec.address,
        prefix=spec.prefix,
        nat=live.nat,
        mechanism=session.mechanism,
        client_version=session.client_version,
        started=session.started,
        established=live.established or last is not None,
        silent_for=None if last is None else max(0.0, now - last),
        counters=live.before + seen.counters if seen else live.counted,
        accounted_as=f"{session.accounted_as:016x}",
    )
