# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics for Prometheus, and whether the broker is well, for load balancers and watchdogs.

Families are made of snapshots at each scrape. Names and units follow Prometheus' conventions: base units, ``_total`` on
what only rises, no user data.
Invariant: labels come from closed lists and the configuration, so their number is bounded. Of single sessions there are
only series where `web.session_metrics` asks for them, on a path of its own, for administrators.
Not here: the numbers (`broker.views`, `broker.recording`), the dashboard (``etc/grafana``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ddtb6.broker.ports import Clock
from ddtb6.broker.search import SessionQuery
from ddtb6.broker.views import AaaView, EchoView, Overview, PoolView, SessionView
from ddtb6.tunnel.spec import Counters
from ddtb6.web.exchange import Answer, Request, text
from ddtb6.web.routes import Route
from ddtb6.web.tunnels import Broker
from ddtb6.web.visitors import Role, Visitor

DIRECTIONS = ("in", "out")
"""From clients, to clients."""


class Metrics:
    """The scrapes."""

    def __init__(
        self,
        overview: Callable[[], Overview],
        carried: Callable[[], Counters],
        echoes: Callable[[], EchoView] | None,
        broker: Broker,
        clock: Clock,
        *,
        of_sessions: int,
    ) -> None:
        """`carried`: by all tunnels since start. `echoes`: None where clients are asked for none.

        `of_sessions`: how many sessions have series; 0: none have.
        """
        self._broker = broker
        self._of_sessions = of_sessions
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Whole(overview, carried, echoes, clock))
        ProcessCollector(registry=self._registry)

    def routes(self) -> list[Route]:
        """The rows."""
        rows = [Route("GET", "/metrics", Role.NOBODY, self._whole)]
        if self._of_sessions:
            rows.append(Route("GET", "/metrics/sessions", Role.ADMINISTRATOR, self._sessions))
        return rows

    def _whole(self, request: Request, visitor: Visitor) -> Answer:
        return _scrape(request, self._registry)

    async def _sessions(self, request: Request, visitor: Visitor) -> Answer:
        page = await self._broker.page(SessionQuery(limit=self._of_sessions))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Sessions(page.sessions))
        return _scrape(request, registry)


def health(overview: Overview) -> Answer:
    """200 as long as the broker listens: a process that does not is to be started again."""
    return text("ok") if overview.listening else text("not listening", 503)


def readiness(overview: Overview) -> Answer:
    """200 while clients can have tunnels: otherwise they are better sent elsewhere."""
    if not overview.listening:
        return text("not listening", 503)
    if overview.reconciled is None:
        return text("the tunnels of the last run are being raised", 503)
    if overview.trouble:
        return text(f"the data plane {overview.data_plane} is in trouble; the log has the reason", 503)
    servers = [each for each in overview.aaa.servers if each.purpose == "log-ins"] if overview.aaa else []
    if servers and not any(each.alive for each in servers):
        return text("no RADIUS server answers", 503)
    return text("ready")


def _scrape(request: Request, registry: CollectorRegistry) -> Answer:
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Answer(encode(registry), content_type)


class _Whole(Collector):
    """The broker as a whole."""

    def __init__(
        self,
        overview: Callable[[], Overview],
        carried: Callable[[], Counters],
        echoes: Callable[[], EchoView] | None,
        clock: Clock,
    ) -> None:
        self._overview = overview
        self._carried = carried
        self._echoes = echoes
        self._epoch = clock.epoch

    def collect(self) -> Iterator[Metric]:
        view = self._overview()
        activity = view.activity
        yield _gauge(
            "ddtb6_build_info",
            "Always 1; the labels tell what runs.",
            [({"version": view.version, "data_plane": view.data_plane}, 1.0)],
        )
        yield _gauge("ddtb6_start_time_seconds", "When the daemon was started, since 1970 UTC.", view.started)
        yield _gauge("ddtb6_ready", "1 while clients can have tunnels, as /readyz.", readiness(view).status == 200)
        yield _gauge("ddtb6_sessions", "Tunnels that stand.", activity.sessions)
        yield _gauge("ddtb6_negotiations", "Clients that are logging in.", view.negotiations)
        yield _counter("ddtb6_logins", "Log-ins that succeeded.", "mechanism", activity.logins.items())
        refusals = [({"code": each[:3], "reason": each[4:]}, float(n)) for each, n in activity.refusals.items()]
        yield _counters("ddtb6_refusals", "Log-ins and requests refused, by TSP status code.", refusals)
        yield _counter("ddtb6_sessions_ended", "Tunnels that went down.", "reason", activity.ended.items())
        yield _counter("ddtb6_stray_packets", "Packets that belong to no tunnel.", "reason", activity.strays.items())
        yield from _traffic(self._carried())
        if self._echoes is not None:
            yield from _latency(self._echoes())
        yield from _pools(activity.pools)
        if view.reconciled is not None:
            yield _gauge(
                "ddtb6_reconciled_timestamp_seconds",
                "When the data plane was last made to match the store: at start, or after trouble.",
                view.reconciled.at,
            )
        if view.aaa is not None:
            yield from _aaa(view.aaa, self._epoch())


class _Sessions(Collector):
    """Some single sessions."""

    def __init__(self, sessions: Iterable[SessionView]) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        octets = CounterMetricFamily("ddtb6_session_bytes", "Carried by one session.", labels=_OF_SESSION)
        packets = CounterMetricFamily("ddtb6_session_packets", "Carried by one session.", labels=_OF_SESSION)
        refused = CounterMetricFamily(
            "ddtb6_session_refused_packets", "Not carried by one session.", labels=(*_OF_SESSION[:2], "reason")
        )
        silence = GaugeMetricFamily(
            "ddtb6_session_silence_seconds", "Since the last packet of one session's client.", labels=_OF_SESSION[:2]
        )
        for each in self._sessions:
            who, counters = (str(each.id), each.owner), each.counters
            octets.add_metric((*who, "in"), counters.octets_in)
            octets.add_metric((*who, "out"), counters.octets_out)
            packets.add_metric((*who, "in"), counters.packets_in)
            packets.add_metric((*who, "out"), counters.packets_out)
            for reason, count in counters.refused.items():
                refused.add_metric((*who, reason.value), count)
            if each.silent_for is not None:
                silence.add_metric(who, each.silent_for)
        yield from (octets, packets, refused, silence)


_OF_SESSION = ("session", "owner", "direction")
Labelled = Iterable[tuple[dict[str, str], float]]


def _gauge(name: str, words: str, value: float | Labelled) -> Metric:
    return _filled(GaugeMetricFamily, name, words, [({}, value)] if isinstance(value, int | float) else value)


def _counter(name: str, words: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    return _counters(name, words, [({label: key}, value) for key, value in values])


def _counters(name: str, words: str, values: Labelled) -> Metric:
    return _filled(CounterMetricFamily, name, words, values)


def _filled(kind: Any, name: str, words: str, values: Labelled) -> Metric:
    rows = list(values)
    family: Metric = kind(name, words, labels=tuple(rows[0][0]) if rows else ())
    for labels, value in rows:
        family.add_metric(tuple(labels.values()), float(value))  # type: ignore[attr-defined]
    return family


def _traffic(carried: Counters) -> Iterator[Metric]:
    octets, packets = (carried.octets_in, carried.octets_out), (carried.packets_in, carried.packets_out)
    words = "Inner IPv6 of all tunnels, from and to clients; counted once a minute."
    yield _counter("ddtb6_tunnel_bytes", words, "direction", zip(DIRECTIONS, octets, strict=True))
    yield _counter("ddtb6_tunnel_packets", words, "direction", zip(DIRECTIONS, packets, strict=True))
    refused = [(reason.value, count) for reason, count in carried.refused.items()]
    yield _counter("ddtb6_tunnel_refused_packets", "Packets of tunnels that were not carried.", "reason", refused)


def _latency(echoes: EchoView) -> Iterator[Metric]:
    words = "Echo requests sent to accounts' clients through their tunnels, one a minute."
    yield _counters("ddtb6_echo_requests", words, [({}, float(echoes.asked))])
    total, buckets = 0, []
    for bound, count in echoes.classes:
        total += count
        buckets.append((floatToGoString(bound), float(total)))
    buckets.append(("+Inf", float(total)))
    yield HistogramMetricFamily(
        "ddtb6_echo_seconds", "From an echo request to its answer.", buckets=buckets, sum_value=echoes.seconds
    )


def _pools(pools: Iterable[PoolView]) -> Iterator[Metric]:
    labelled = [({"pool": each.name, "use": each.use}, each) for each in pools]
    yield _gauge(
        "ddtb6_pool_capacity", "Addresses or prefixes that a pool has.", [(at, float(p.capacity)) for at, p in labelled]
    )
    yield _gauge("ddtb6_pool_held", "Those that somebody holds.", [(at, float(p.held)) for at, p in labelled])
    words = "Those that were given back, and rest before somebody else gets them."
    yield _gauge("ddtb6_pool_resting", words, [(at, float(p.resting)) for at, p in labelled])


def _aaa(aaa: AaaView, now: float) -> Iterator[Metric]:
    labelled = [({"server": each.name, "purpose": each.purpose}, each) for each in aaa.servers]
    yield _gauge("ddtb6_aaa_server_up", "1 while it answers.", [(at, float(each.alive)) for at, each in labelled])
    answered = [(at, now - each.answered_ago) for at, each in labelled if each.answered_ago is not None]
    yield _gauge("ddtb6_aaa_server_last_answer_timestamp_seconds", "When it last answered.", answered)
    trips = [(at, each.round_trip) for at, each in labelled if each.round_trip is not None]
    yield _gauge("ddtb6_aaa_server_round_trip_seconds", "From request to answer, smoothed.", trips)
    words = "Requests that were given up."
    yield _counters("ddtb6_aaa_server_unanswered", words, [(at, float(each.unanswered)) for at, each in labelled])
    words = "Datagrams that were not believed."
    dropped = [(at | {"reason": why}, float(n)) for at, each in labelled for why, n in each.dropped.items()]
    yield _counters("ddtb6_aaa_server_dropped", words, dropped)
    words = "Disconnect and CoA, and what was dropped at that port."
    requests = [({"outcome": outcome}, float(n)) for outcome, n in aaa.requests.items()]
    yield _counters("ddtb6_dynamic_requests", words, requests)
    accounting = aaa.accounting
    if accounting is not None:
        yield _gauge("ddtb6_accounting_records_waiting", "Not acknowledged by any server.", accounting.waiting)
        yield _counters("ddtb6_accounting_records_delivered", "Acknowledged.", [({}, float(accounting.delivered))])
        oldest = accounting.oldest
        yield _gauge(
            "ddtb6_accounting_oldest_age_seconds",
            "How long the oldest record has waited.",
            0.0 if oldest is None else max(0.0, now - oldest),
        )
        since = accounting.outage_since
        words = "For how long no server has acknowledged anything that was sent."
        yield _gauge("ddtb6_accounting_outage_seconds", words, 0.0 if since is None else max(0.0, now - since))
