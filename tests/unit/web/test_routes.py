# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may ask for what: every row of the table times every role, forged requests, requests that are none."""

from __future__ import annotations

import re
from unittest import mock
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.website import WebCase

from ddtb6.web.exchange import Answer, Request, fields, is_local, segments
from ddtb6.web.http import BODY_LIMIT
from ddtb6.web.routes import Desk, Route
from ddtb6.web.visitors import STRANGER_BURST, Role, Visitors


def example(route: Route) -> str:
    """A path that the row matches."""
    return re.sub(r"\{[^}]*\}", "1", route.path)


class Permissions(WebCase):
    def test_every_row_times_every_role(self) -> None:
        for role in Role:
            for route in self.routes():
                browser = self.browser(role)
                self.world.clock.advance(600)
                path = example(route)
                if route.method == "GET":
                    fetch = browser.ask("GET", path)
                else:
                    csrf = browser.get("/login").csrf
                    fetch = browser.ask(route.method, path, headers={"X-CSRF-Token": csrf})
                got, api = fetch.got, path.startswith("/api/")
                fetch.hang_up()
                what = f"{route.method} {path} as {role}: {got and got.status}"
                if route.role in (Role.NOBODY, role):
                    assert got is not None, what
                    assert got.status not in (401, 403, 405, 500), what
                    assert "/login" not in got.headers.get("location", ""), what
                elif role is Role.NOBODY:
                    assert got is not None, what
                    expected = 401 if api else 303 if route.method == "GET" else 403
                    assert got.status == expected, what
                else:
                    assert got is not None, what
                    assert got.status == 403, what
                assert "content-security-policy" in got.headers, what
                assert got.headers["x-frame-options"] == "DENY", what

    def test_what_is_for_somebody_is_never_kept_by_caches(self) -> None:
        browsers = {role: self.browser(role) for role in Role}
        for route in self.routes():
            if route.role is not Role.NOBODY and route.method == "GET":
                fetch = browsers[route.role].ask("GET", example(route))
                assert fetch.got is not None
                assert fetch.got.headers["cache-control"] == "no-store", route.path
                fetch.hang_up()

    def test_no_two_rows_are_the_same(self) -> None:
        rows = [Route("GET", "/x", role, lambda request, visitor: Answer()) for role in Role]
        with pytest.raises(ValueError, match="GET /x"):
            Desk(rows, Visitors(self.world.clock, bytes))


class ThroughATunnel(WebCase):
    """The same for nobody in particular who asks through a tunnel, and for an administrator who does."""

    trusted_proxies = ("192.168.1.1",)

    def test_every_row(self) -> None:
        address = str(self.tunnel("alice").spec.address)
        for role in Role:
            for route in self.routes():
                browser = self.browser(role)
                self.world.clock.advance(60)
                browser.headers["X-Forwarded-For"] = address
                headers = {} if route.method == "GET" else {"X-CSRF-Token": browser.get("/login").csrf}
                fetch = browser.ask(route.method, example(route), headers=headers)
                assert fetch.got is not None or route.role is Role.NOBODY, route.path
                status = 200 if fetch.got is None else fetch.got.status
                place = "" if fetch.got is None else fetch.got.headers.get("location", "")
                fetch.hang_up()
                may = route.through or route.role in (Role.NOBODY, role)
                turned_away = status in (401, 403) or "/login" in place
                assert turned_away is not may, f"{route.method} {route.path} as {role}: {status}"

    def test_there_is_one_row_more_and_it_reads(self) -> None:
        assert [(each.method, each.path) for each in self.routes() if each.through] == [("GET", "/tunnel")]


class Forgery(WebCase):
    def test_every_change_needs_the_token_of_its_session(self) -> None:
        for role in Role:
            browser = self.browser(role)
            stolen = self.browser(role).get("/login").csrf
            for route in self.routes():
                if route.method in ("GET", "HEAD") or route.role not in (Role.NOBODY, role):
                    continue
                for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": stolen}):
                    got = browser.take(browser.ask(route.method, example(route), headers=headers))
                    assert got.status == 403, (route.path, role, headers)

    def test_another_site_can_do_nothing_even_with_the_token(self) -> None:
        browser = self.browser(Role.OWNER)
        csrf = browser.get("/").csrf
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "https://broker"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Origin": "http://broker"},
        ):
            got = browser.post("/logout", {"csrf": csrf}, **headers)
            assert (got.status, "another site" in got.text) == (403, True), headers
        got = browser.post("/logout", {"csrf": csrf}, **{"Origin": "http://broker", "Sec-Fetch-Site": "same-origin"})
        assert got.status == 303


class NoRequests(WebCase):
    def test_large_bodies_are_refused_and_not_kept(self) -> None:
        browser = self.browser()
        csrf = browser.get("/login").csrf
        got = browser.post("/login", {"csrf": csrf, "name": "x" * BODY_LIMIT})
        assert got.status == 413

    def test_too_many_fields(self) -> None:
        assert self.browser().get("/?" + "a=1&" * 300).status == 400

    def test_paths_that_are_none(self) -> None:
        for path in ("/%ff", "/%00", "//", "/.", "/login/", "/login/x", "/static/../login", "http://broker/login"):
            got = self.browser().get(path)
            assert got.status == 404, path
            assert got.headers["content-type"] == "text/html; charset=utf-8"
        got = self.browser().get("/api/nothing")
        assert (got.status, got.headers["content-type"]) == (404, "application/problem+json")
        assert got.json["status"] == 404

    def test_methods(self) -> None:
        browser = self.browser()
        got = browser.take(browser.ask("DELETE", "/login"))
        assert (got.status, got.headers["allow"]) == (405, "GET, POST, HEAD")
        assert browser.take(browser.ask("BREW", "/login")).status == 405


class Floods(WebCase):
    def test_strangers_get_so_many_answers(self) -> None:
        alice, stranger = self.browser(Role.OWNER), self.browser()
        stranger.headers["Authorization"] = "Bearer of nothing"
        answers = [stranger.get("/healthz").status for _ in range(STRANGER_BURST + 1)]
        assert (answers[0], answers[-1]) == (200, 429)
        assert b" 429 Too Many Requests\r\n" in stranger.ask("GET", "/").transport.value()
        got = stranger.get("/api/v1/overview")
        assert (got.status, got.headers["retry-after"], got.json["status"]) == (429, "60", 429)
        assert "Wait a minute" in stranger.get("/login").text
        assert alice.get("/tunnel").status == 200, "who is logged in is known"
        self.world.clock.advance(60)
        assert stranger.get("/healthz").status == 200

    def test_a_picture_is_drawn_once_a_minute(self) -> None:
        recording = self.world.recording
        with mock.patch.object(recording, "history", wraps=recording.history) as asked:
            pages = {self.browser().get("/").text.partition("Last hour")[2] for _ in range(5)}
            assert (len(pages), asked.call_count) == (1, 1)
            self.world.clock.advance(60)
            self.browser().get("/")
            assert asked.call_count == 2


class Nonsense(WebCase):
    """Whatever stands in the path, the query and the body, an administrator who sends it gets an answer."""

    def test_every_row_with_any_text(self) -> None:
        text = st.text(max_size=30)
        rows = [each for each in self.routes() if each.role is not Role.OWNER and each.path != "/logout"]
        browser = self.browser(Role.ADMINISTRATOR)
        csrf = browser.get("/").csrf

        @settings(max_examples=300, deadline=None)
        @given(
            row=st.sampled_from(rows),
            part=text,
            names=st.lists(st.sampled_from(FIELDS), max_size=4),
            values=st.lists(text, min_size=4, max_size=4),
            body=st.one_of(st.none(), st.binary(max_size=50)),
        )
        def ask(row: Route, part: str, names: list[str], values: list[str], body: bytes | None) -> None:
            path = re.sub(r"\{[^}]*\}", quote(part.encode("utf-8", "replace"), safe=""), row.path)
            fields = urlencode(dict(zip(names, values, strict=False)), errors="replace")
            headers = {"X-CSRF-Token": csrf}
            if row.method == "GET":
                path = f"{path}?{fields}"
            else:
                kind = "application/json" if path.startswith("/api/") else "application/x-www-form-urlencoded"
                headers["Content-Type"] = kind
            sent = body if body is not None else b"" if row.method == "GET" else fields.encode()
            fetch = browser.ask(row.method, path, sent, headers)
            fetch.hang_up()
            if fetch.got is not None:
                assert fetch.got.status < 500, (row, path, fetch.got.text)

        ask()


FIELDS = (
    *(
        "name",
        "password",
        "role",
        "next",
        "search",
        "after",
        "sort",
        "order",
        "from",
        "limit",
        "offset",
        "at",
        "address",
    ),
    *("prefix", "address_pool", "prefix_pool", "owner", "user", "released", "before", "descending", "id", "csrf"),
)


@given(st.binary(max_size=300))
def test_whatever_comes_is_read(octets: bytes) -> None:
    found = fields(octets)
    assert all(isinstance(value, str) for value in found.values())
    segments(octets.decode("latin-1"))
    Request("POST", "/", body=octets, headers={"content-type": "application/x-www-form-urlencoded"}).form()


@given(st.text(max_size=50))
def test_local_paths_stay_here(path: str) -> None:
    if is_local(path):
        assert path[0] == "/"
        assert path[1:2] not in ("/", "\\")
        assert path.isprintable()
