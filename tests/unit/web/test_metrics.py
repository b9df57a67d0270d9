# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics: names by the conventions, few series, nobody's name; the dashboard asks for what there is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from support.stored import now
from support.virtual import SERVER
from support.website import WebCase, overview_of

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker.events import LoggedIn, LoginRefused
from ddtb6.broker.views import AaaServerView, AaaView, AccountingView, Overview, Reconciliation
from ddtb6.tunnel.reasons import EndReason
from ddtb6.web.visitors import Role

UNITS = ("_seconds", "_bytes", "_info")
COUNTED = re.compile(
    "ddtb6_(ready|sessions|negotiations|logins|refusals|sessions_ended|.*_packets|pool_(capacity|held|resting)|.*_up"
    "|.*_unanswered|.*_dropped|dynamic_requests|accounting_records_.*|echo_requests)"
)
"""Numbers of something, which have no unit."""
GRAFANA = Path(__file__).parents[3] / "etc" / "grafana" / "ddtb6.json"
AAA = AaaView(
    (
        AaaServerView("isp", "log-ins", Endpoint("192.0.2.9", 1812), True, 3.0, 0.004, 2),
        AaaServerView(
            "isp", "accounting", Endpoint("192.0.2.9", 1813), False, None, None, 7, {"wrong-authenticator": 3}
        ),
    ),
    AccountingView(5, 100, 1_700_000_000.0, None, ""),
    {"disconnected": 2, "wrong-source": 9},
)


class MetricsCase(WebCase):
    changes: dict[str, Any] = {}  # noqa: RUF012

    def overview(self) -> Overview:
        return replace(overview_of(self.world), **self.changes)

    def families(self, path: str = "/metrics") -> dict[str, Any]:
        return {each.name: each for each in text_string_to_metric_families(self.browser().get(path).text)}

    def busy(self) -> None:
        """All that can be counted is."""
        self.changes = {"aaa": AAA}
        session = self.tunnel()
        self.world.ping(session)
        link = Link(Carrier.UDP, SERVER, Endpoint("198.51.100.200", 9))
        self.world.udp.receive(self.world.socket, b"\x60" + bytes(59), link.local, link.remote)  # type: ignore[arg-type]
        self.world.bus.publish(LoggedIn(link, "user:alice", "PLAIN", "2.0.2"))
        self.world.bus.publish(LoginRefused(link, "PLAIN", "the password is wrong"))
        self.world.ping(self.tunnel("bob"))
        now(self.world.broker.disconnect(session.id, EndReason.DISCONNECTED))
        self.world.pass_time(62)


class Whole(MetricsCase):
    def test_numbers(self) -> None:
        self.busy()
        families = self.families()

        def value(name: str, **labels: str) -> float:
            [found] = [
                each.value
                for each in families[name.removesuffix("_total")].samples
                if each.name == name and labels.items() <= each.labels.items()
            ]
            return float(found)

        assert value("ddtb6_sessions") == 1
        assert value("ddtb6_sessions_ended_total", reason="disconnected") == 1
        assert value("ddtb6_tunnel_packets_total", direction="in") == 2
        assert value("ddtb6_logins_total", mechanism="PLAIN") == 1
        assert value("ddtb6_refusals_total", code="300", reason="Authentication failed") == 1
        assert value("ddtb6_stray_packets_total", reason="unknown-endpoint") == 1
        assert value("ddtb6_tunnel_bytes_total", direction="out") > 40
        assert value("ddtb6_pool_held", pool="links") == 2
        assert value("ddtb6_pool_capacity", pool="homes") == 4
        assert value("ddtb6_aaa_server_up", purpose="log-ins") == 1
        assert value("ddtb6_aaa_server_unanswered_total", purpose="accounting") == 7
        assert value("ddtb6_aaa_server_dropped_total", purpose="accounting", reason="wrong-authenticator") == 3
        assert value("ddtb6_dynamic_requests_total", outcome="wrong-source") == 9
        assert value("ddtb6_accounting_records_waiting") == 5
        assert value("ddtb6_ready") == 1
        assert value("process_resident_memory_bytes") > 1e6

    def test_conventions(self) -> None:
        self.busy()
        families = self.families()
        assert len(families) > 25
        for name, family in families.items():
            assert re.fullmatch("[a-z][a-z0-9_]+", name)
            assert family.documentation.endswith("."), name
            assert family.type in ("counter", "gauge", "histogram"), name
            keys = [(each.name, tuple(sorted(each.labels.items()))) for each in family.samples]
            assert len(keys) == len(set(keys)), name
            if name.startswith("process_"):
                continue
            assert name.startswith("ddtb6_")
            assert name.endswith(UNITS) or COUNTED.fullmatch(name), name
            assert ("_timestamp" in name or name == "ddtb6_start_time_seconds") or "time" not in name
            assert not name.endswith(("_total", "_count", "_sum", "_bucket"))
            if family.type == "counter":
                assert all(each.name in (f"{name}_total", f"{name}_created") for each in family.samples)
        assert not {each for each in families if each.endswith("_created")}

    def test_openmetrics(self) -> None:
        self.busy()
        got = self.browser().get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert got.headers["content-type"].startswith("application/openmetrics-text")
        assert "ddtb6_sessions" in {each.name for each in read_openmetrics(got.text)}

    def test_series_do_not_grow_with_sessions_and_name_nobody(self) -> None:
        self.busy()

        def samples() -> int:
            return sum(len(each.samples) for each in self.families().values())

        before = samples()
        for number in range(1, 30):
            self.tunnel("u" * number, prefix_pool=None, version=f"client {number}")
        assert samples() == before
        text = self.browser().get("/metrics").text
        for private in ("alice", "bob", "uuu", "198.51.100.", "2001:db8", "client 1"):
            assert private not in text

    def test_single_sessions_are_not_there(self) -> None:
        assert self.browser(Role.ADMINISTRATOR).get("/metrics/sessions").status == 404

    def test_it_begins_empty(self) -> None:
        assert self.families()["ddtb6_sessions"].samples[0].value == 0


class Sessions(MetricsCase):
    session_metrics = 2

    def test_for_administrators_and_bounded(self) -> None:
        for name in ("alice", "bob", "carol"):
            session = self.tunnel(name, prefix_pool=None)
            self.world.ping(session)
        assert self.browser().get("/metrics/sessions").status == 303
        assert self.browser(Role.OWNER).get("/metrics/sessions").status == 403
        script = self.browser()
        script.headers["Authorization"] = f"Bearer {self.call('token.add', name='p', role='administrator')['text']}"
        got = script.get("/metrics/sessions")
        assert got.status == 200
        families = {each.name: each for each in text_string_to_metric_families(got.text)}
        assert {each.labels["owner"] for each in families["ddtb6_session_bytes"].samples} == {"user:bob", "user:carol"}
        assert {each.value for each in families["ddtb6_session_packets"].samples} == {1.0}
        assert len(families["ddtb6_session_silence_seconds"].samples) == 2

    def test_a_name_cannot_break_out_of_its_label(self) -> None:
        name = 'a"} 1\nevil{x="y'
        self.tunnel(name, prefix_pool=None)
        got = self.browser(Role.ADMINISTRATOR).get("/metrics/sessions")
        families = {each.name: each for each in text_string_to_metric_families(got.text)}
        assert "evil" not in families
        assert {each.labels["owner"] for each in families["ddtb6_session_bytes"].samples} == {f"user:{name}"}


class Health(MetricsCase):
    def get(self, path: str, **changes: object) -> tuple[int, str]:
        self.changes = changes
        got = self.browser().get(path)
        return got.status, got.text.strip()

    def test_alive(self) -> None:
        assert self.get("/healthz") == (200, "ok")
        assert self.get("/healthz", listening=()) == (503, "not listening")
        assert self.get("/healthz", trouble=True)[0] == 200, "starting it again would not help"

    def test_ready(self) -> None:
        dead = replace(AAA, servers=tuple(replace(each, alive=False) for each in AAA.servers))
        assert self.get("/readyz") == (200, "ready")
        assert self.get("/readyz", aaa=AAA)[0] == 200
        assert self.get("/readyz", listening=()) == (503, "not listening")
        assert self.get("/readyz", aaa=dead) == (503, "no RADIUS server answers")
        assert self.get("/readyz", trouble=True)[0] == 503

    def test_not_ready_before_the_tunnels_stand(self) -> None:
        self.world.broker._tunnels.reconciled = None
        assert self.get("/readyz")[0] == 503
        self.world.broker._tunnels.reconciled = Reconciliation(0.0, 0, 0, 0, 0)
        assert self.get("/readyz")[0] == 200

    def test_trouble_is_told_until_it_is_over(self) -> None:
        self.world.plane.lose()
        assert self.world.broker.in_trouble
        self.world.pass_time(1)
        assert not self.world.broker.in_trouble


class Dashboard(MetricsCase):
    def test_it_asks_for_what_there_is(self) -> None:
        self.busy()
        there = {each.name for family in self.families().values() for each in family.samples}
        dashboard = json.loads(GRAFANA.read_text())
        asked = [each["expr"] for panel in dashboard["panels"] for each in panel.get("targets", [])]
        asked += [each["expr"] for each in dashboard["annotations"]["list"]]
        names = {name for expr in asked for name in re.findall(r"\b(?:ddtb6|process)_[a-z_0-9]+", expr)}
        assert len(asked) > 20
        assert names - there <= {"ddtb6_tunnel_refused_packets_total"}, "nothing of a tunnel is refused here"
        assert all(expr.count("(") == expr.count(")") and expr.count("{") == expr.count("}") for expr in asked)
        assert all('instance=~"$instance"' in expr for expr in asked)

    def test_nothing_lies_on_something_else(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(GRAFANA.read_text())["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells
