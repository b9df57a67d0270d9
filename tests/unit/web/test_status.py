# SPDX-License-Identifier: GPL-2.0-or-later
"""The status page: what it shows, what it never shows, its headers; over real HTTP parsing, without a socket."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv6Network

import pytest
from support.web import Browser
from twisted.internet.task import Clock
from twisted.trial import unittest

from ddtb6.broker.history import History, Point, Series, TunnelHistory
from ddtb6.broker.views import Activity, Overview, PoolView
from ddtb6.web.exchange import Request
from ddtb6.web.live import Live, Pulse
from ddtb6.web.pages import STATIC, _static, static_file
from ddtb6.web.routes import Desk, Route
from ddtb6.web.serve import make_pages_site
from ddtb6.web.status import Status
from ddtb6.web.visitors import NOBODY, Role, Visitors

OVERVIEW = Overview(
    version="1.2.3",
    started=1_700_000_000.0,
    listening=("udp 0.0.0.0:3653", "tcp [::]:3653"),
    data_plane="tun",
    data_plane_reason="The module utun is not loaded.",
    firewall="nft clamps TCP MSS.",
    encapsulations=("v6udpv4",),
    mechanisms=("DIGEST-MD5", "ANONYMOUS"),
    negotiations=3,
    activity=Activity(
        sessions=12345,
        logins={"DIGEST-MD5": 20000, "ANONYMOUS": 7},
        refusals={"300 Authentication failed": 41, '<b>"quoted"</b>': 1},
        ended={"idle": 5},
        strays={},
        pools=(
            PoolView("links", "accounts", IPv6Network("2001:db8:0:1::/64"), 128, 2**64 - 2, 12345, 0),
            PoolView("home56", "prefixes", IPv6Network("2001:db8:1000::/36"), 56, 2**20, 2**19, 2**18),
        ),
    ),
)


class StoppedClock:
    def monotonic(self) -> float:
        return 0.0

    def epoch(self) -> float:
        return 0.0


class Nothing:
    """A past of which nothing is known."""

    def history(self) -> History:
        empty = Series(60, ())
        return History(empty, empty, empty)

    def latest(self) -> Point | None:
        return None

    async def of_tunnel(self, owner: str) -> TunnelHistory:
        raise AssertionError("nobody's tunnel is asked about")


def page_of(overview: Callable[[], Overview]) -> Status:
    clock = StoppedClock()
    return Status(overview, Nothing(), Pulse(clock, lambda: None), Live(clock), clock)


def render(overview: Overview) -> str:
    return page_of(lambda: overview).show(Request("GET", "/"), NOBODY).body.decode()


def _hash(name: str) -> str:
    return sha256(_static[name]).hexdigest()[:12]


class StatusPage(unittest.TestCase):
    def fetch(
        self, path: str, method: str = "GET", overview: Overview = OVERVIEW, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        def view() -> Overview:
            if overview is None:
                raise RuntimeError("secret of the broker")
            return overview

        table = [*page_of(view).routes(), *(Route("GET", f"/{name}", Role.NOBODY, static_file) for name in STATIC)]
        site = make_pages_site(Desk(table, Visitors(StoppedClock(), bytes)), (), Clock())
        browser = Browser(site)
        got = browser.take(browser.ask(method, path, body))
        return got.status, got.headers, got.body

    def test_page(self) -> None:
        code, headers, body = self.fetch("/")
        text = body.decode()
        assert code == 200
        assert headers["content-type"] == "text/html; charset=utf-8"
        for shown in (
            "1.2.3",
            "2023-11-14 22:13:20Z",
            "12\u202f345",
            "udp 0.0.0.0:3653",
            "The module utun is not loaded.",
            "nft clamps TCP MSS.",
            "nothing known yet",
            "not in sight",
            "DIGEST-MD5, ANONYMOUS",
            "300 Authentication failed",
            "2001:db8:1000::/36",
            "/56",
            'value="0.750"',
            "2^64",
        ):
            assert shown in text
        assert "&lt;b&gt;&#34;quoted&#34;&lt;/b&gt;" in text
        assert re.findall(r"<script[^>]*>", text) == [f'<script src="/app.js?{_hash("app.js")}" defer>']
        assert "style=" not in text

    def test_headers_everywhere(self) -> None:
        for path in ("/", "/status.json", "/style.css", "/healthz", "/nothing"):
            _, headers, _ = self.fetch(path)
            policy = headers["content-security-policy"]
            for rule in ("default-src 'none'", "style-src 'self'", "frame-ancestors 'none'"):
                assert rule in policy, path
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["server"] == "ddtb6", path

    def test_json(self) -> None:
        code, headers, body = self.fetch("/status.json")
        assert (code, headers["content-type"]) == (200, "application/json")
        value = json.loads(body)
        assert value["activity"]["pools"][1]["block"] == "2001:db8:1000::/36"
        assert set(value) == {each.name for each in dataclasses.fields(Overview)}

    def test_style(self) -> None:
        code, headers, body = self.fetch("/style.css")
        assert (code, headers["content-type"]) == (200, "text/css; charset=utf-8")
        assert b"prefers-color-scheme: dark" in body

    def test_health(self) -> None:
        assert self.fetch("/healthz")[::2] == (200, b"ok\n")
        assert self.fetch("/healthz", overview=dataclasses.replace(OVERVIEW, listening=()))[0] == 503

    def test_nothing_else(self) -> None:
        for path in ("/nothing", "/status.json/", "/%00", "/..%2f..%2fetc/passwd", "//", "/style.css/x"):
            code, _, body = self.fetch(path)
            assert code == 404, path
            assert path.encode() not in body
        for method in ("POST", "PUT", "DELETE"):
            assert self.fetch("/", method)[0] == 405
        assert self.fetch("/", "HEAD")[::2] == (200, b"")

    def test_failure_shows_no_inside(self) -> None:
        code, _, body = self.fetch("/", overview=None)  # type: ignore[arg-type]
        assert code == 500
        assert b"secret of the broker" not in body
        assert b"Traceback" not in body
        assert len(self.flushLoggedErrors(RuntimeError)) == 1

    def test_large_body_is_not_kept(self) -> None:
        assert self.fetch("/", body=b"x" * 1000000)[0] == 200

    def test_nothing_happened_yet(self) -> None:
        empty = Activity(sessions=0, logins={}, refusals={}, ended={}, strays={}, pools=())
        text = render(dataclasses.replace(OVERVIEW, activity=empty, listening=(), encapsulations=()))
        assert "There are none." in text
        assert text.count("None.") == 4
        assert "nowhere" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1234567, "1\u202f234\u202f567"), (2**64, "2^64"), (2**64 - 2, "2^64"), (2**33, "2^33")],
)
def test_large_numbers(number: int, text: str) -> None:
    assert f">{text}</td>" in render(
        dataclasses.replace(
            OVERVIEW,
            activity=dataclasses.replace(
                OVERVIEW.activity, pools=(PoolView("p", "accounts", IPv6Network("::/1"), 128, number, 0, 0),)
            ),
        )
    )
