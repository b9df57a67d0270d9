# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging in and out, sessions and cookies, and what strangers try with them."""

from __future__ import annotations

from typing import Any

from support.stored import now
from support.virtual import account
from support.web import Browser, Got
from support.website import PASSWORD, WebCase
from twisted.internet.defer import Deferred

from ddtb6.auth.chain import Anonymous, Chain
from ddtb6.broker.ports import Rejected
from ddtb6.web.login import NAME_BURST, SOURCE_BURST, WRONG
from ddtb6.web.visitors import IDLE, LIFE, SESSIONS_OF_NAME, Role


def plain(got: Got, *drop: str) -> str:
    """The page without what is different each time."""
    text = got.text
    for each in (*drop, got.csrf):
        text = text.replace(each, "")
    return text


class LogIn(WebCase):
    def test_each_role_gets_home_and_out_again(self) -> None:
        for role, home in ((Role.OWNER, "/tunnel"), (Role.ADMINISTRATOR, "/manage")):
            browser = Browser(self.site)
            name = "alice" if role is Role.OWNER else "root"
            got = browser.log_in(role.value, name, PASSWORD)
            assert (got.status, got.headers["location"]) == (303, home)
            page = browser.get("/")
            assert f">{name}<" in page.text
            assert browser.post("/logout", {"csrf": page.csrf}).headers["location"] == "/"
            assert "ddtb6" not in browser.cookies
            assert ">Log in<" in browser.get("/").text

    def test_one_goes_where_one_wanted_and_nowhere_else(self) -> None:
        for wanted, place in (
            ("/tunnel?x=1", "/tunnel?x=1"),
            ("//evil.example/", "/tunnel"),
            ("https://evil.example/", "/tunnel"),
            ("/\\evil.example", "/tunnel"),
            ("/x\r\nSet-Cookie: a=b", "/tunnel"),
            ("", "/tunnel"),
        ):
            browser = self.browser()
            form = {"csrf": browser.get("/login").csrf, "role": "owner", "name": "alice", "password": PASSWORD}
            got = browser.post("/login", {**form, "next": wanted})
            assert (got.status, got.headers["location"]) == (303, place), wanted

    def test_whatever_is_wrong_the_answer_is_the_same(self) -> None:
        now(self.world.store.add_account(account("carol", PASSWORD, disabled=True)))
        answers = set()
        for role, name, password in (
            ("owner", "alice", "wrong"),
            ("owner", "nobody", PASSWORD),
            ("owner", "carol", PASSWORD),
            ("owner", "root", PASSWORD),
            ("owner", "a" * 100, PASSWORD),
            ("owner", "alice\0", PASSWORD),
            ("owner", "", ""),
        ):
            got = self.browser().log_in(role, name, password)
            assert WRONG in got.text
            assert "set-cookie" not in got.headers
            answers.add((got.status, plain(got, f'value="{name[:64]}"', 'value=""')))
        assert len(answers) == 1
        for name in ("root", "alice"):
            got = self.browser().log_in("administrator", name, "wrong")
            assert (got.status, WRONG in got.text) == (422, True)

    def test_an_authenticator_that_says_why_is_not_quoted(self) -> None:
        class Talkative:
            mechanisms = frozenset({"PLAIN"})

            async def verify(self, credentials: object, link: object) -> Rejected:
                return Rejected("why", message="<script>alert(1)</script>")

        self.web._login._owners = Talkative()  # type: ignore[assignment]
        got = self.browser().log_in("owner", "alice", PASSWORD)
        assert WRONG in got.text
        assert "alert(1)" not in got.text

    def test_attempts_of_a_source_and_at_a_name_are_limited(self) -> None:
        for attempt in range(SOURCE_BURST):
            self.browser().log_in("owner", f"nobody{attempt}", "x")
        browser = self.browser()
        assert browser.log_in("owner", "alice", PASSWORD).status == 422
        self.world.clock.advance(60)
        assert browser.log_in("owner", "alice", PASSWORD).status == 303
        self.world.clock.advance(3600)
        for _ in range(NAME_BURST):
            self.browser().log_in("administrator", "root", "x")
        assert self.browser().log_in("administrator", "root", PASSWORD).status == 422
        self.world.clock.advance(60)
        assert self.browser().log_in("administrator", "root", PASSWORD).status == 303

    def test_administrators_are_written_down_and_owners_are_not(self) -> None:
        self.browser(Role.OWNER)
        self.browser(Role.ADMINISTRATOR)
        self.browser().log_in("administrator", "root", "wrong")
        assert [(each["who"], each["source"], each["action"]) for each in self.call("audit.list")] == [
            ("administrator:root", "192.168.1.1", "login")
        ]

    def test_page_says_that_owners_cannot_where_nobody_judges_passwords(self) -> None:
        assert "Owners cannot log in" not in self.browser().get("/login").text
        self.web._login._owners = Chain([Anonymous()])
        assert "Owners cannot log in" in self.browser().get("/login").text
        assert self.browser().log_in("owner", "alice", PASSWORD).status == 422

    def test_who_is_shut_out_while_the_password_is_checked_is_not_let_in(self) -> None:
        for role, name, verb in (("owner", "alice", "user.disable"), ("administrator", "root", "admin.delete")):
            checks: list[tuple[Any, Deferred[bool]]] = []

            def held(work: Any, checks: list[tuple[Any, Deferred[bool]]] = checks) -> Deferred[bool]:
                checks.append((work, Deferred()))
                return checks[-1][1]

            self.web._login._in_thread = held
            self.world.authenticator._links[0]._in_thread = held  # type: ignore[attr-defined]
            browser = self.browser()
            csrf = browser.get("/login").csrf
            form = {"csrf": csrf, "role": role, "name": name, "password": PASSWORD}
            fetch = browser.submit("/login", form)
            self.call(verb, name=name)
            [(work, answer)] = checks
            assert work()
            answer.callback(True)
            assert fetch.got is not None
            assert fetch.got.status == 422, role

    def test_page_says_how_to_make_the_first_administrator(self) -> None:
        assert "ddtb6 admin add" not in self.browser().get("/login").text
        now(self.world.store.delete_administrator("root"))
        assert "ddtb6 admin add" in self.browser().get("/login").text


class Sessions(WebCase):
    def test_cookie_is_for_this_site_and_no_script(self) -> None:
        got = self.browser().log_in("owner", "alice", PASSWORD)
        name, _, rest = got.headers["set-cookie"].partition("=")
        assert name == "ddtb6"
        assert [each.strip() for each in rest.split(";")[1:]] == ["Path=/", "HttpOnly", "SameSite=Strict"]
        assert len(rest.split(";")[0]) == 64

    def test_a_log_in_never_takes_over_the_id_it_came_with(self) -> None:
        browser = self.browser()
        csrf = browser.get("/login").csrf
        browser.cookies["ddtb6"] = "0" * 64
        form = {"csrf": csrf, "role": "owner", "name": "alice", "password": PASSWORD}
        assert browser.post("/login", form).status == 303
        first = browser.cookies["ddtb6"]
        assert first != "0" * 64
        csrf = browser.get("/login").csrf
        assert browser.post("/login", {**form, "csrf": csrf}).status == 303
        assert browser.cookies["ddtb6"] != first
        browser.cookies["ddtb6"] = first
        assert ">Log in<" in browser.get("/").text, "the old session is over"

    def test_a_cookie_is_worth_nothing_after_its_log_out(self) -> None:
        browser = self.browser(Role.ADMINISTRATOR)
        stolen = dict(browser.cookies)
        browser.post("/logout", {"csrf": browser.get("/").csrf})
        thief = self.browser()
        thief.cookies = stolen
        assert thief.get("/manage/users").status == 303
        assert thief.get("/api/v1/users").status == 401

    def test_sessions_end(self) -> None:
        for step, steps in ((IDLE, 1), (IDLE / 2, int(2 * LIFE / IDLE))):
            browser = self.browser(Role.OWNER)
            for _ in range(steps):
                assert ">alice<" in browser.get("/").text
                self.world.clock.advance(step)
            assert ">Log in<" in browser.get("/").text

    def test_sessions_of_a_name_are_bounded(self) -> None:
        browsers = []
        for _ in range(SESSIONS_OF_NAME + 1):
            browsers.append(self.browser(Role.OWNER))
            self.world.clock.advance(60)
        assert len(self.web._visitors) == SESSIONS_OF_NAME
        assert ">Log in<" in browsers[0].get("/").text
        assert ">alice<" in browsers[1].get("/").text

    def test_nonsense_in_cookies_and_tokens_is_nobody(self) -> None:
        for headers in (
            {"Cookie": "ddtb6=" + "é" * 1000},
            {"Cookie": ";;;=;\x7f=\udcff"},
            {"Cookie": "ddtb6"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer " + "x" * 10000},
            {"Authorization": "Basic YTpi"},
        ):
            got = self.browser().get("/", **headers)
            assert (got.status, ">Log in<" in got.text) == (200, True), headers

    def test_cookies_of_other_applications_hide_ours_from_nobody(self) -> None:
        browser = self.browser(Role.ADMINISTRATOR)
        for other in ('{"a": "b"}', "a@b", '"', "\\" * 8000, "a=b=c", ""):
            browser.cookies = {"of another": other, "ddtb6": browser.cookies["ddtb6"], "last": other}
            assert browser.get("/manage").status == 200, other[:20]


class BehindAProxy(WebCase):
    trusted_proxies = ("192.168.1.1", "10.0.0.0/8")

    def test_forwarded_by_a_trusted_proxy_only(self) -> None:
        browser = self.browser()
        tls = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "broker.example"}
        csrf = browser.take(browser.ask("GET", "/login", headers=tls)).csrf
        assert set(browser.cookies) == {"__Host-ddtb6-form"}, "StringTransport's peer is 192.168.1.1"
        form = {"csrf": csrf, "role": "owner", "name": "alice", "password": PASSWORD}
        got = browser.post("/login", form, Origin="https://broker.example", **tls)
        assert got.status == 303
        assert got.headers["set-cookie"].startswith("__Host-ddtb6=")
        assert got.headers["set-cookie"].endswith("; Secure")

    def test_limits_are_of_who_is_behind(self) -> None:
        for attempt in range(SOURCE_BURST + 1):
            browser = self.browser()
            browser.headers["X-Forwarded-For"] = "203.0.113.66, 203.0.113.9, 10.1.2.3"
            browser.log_in("owner", f"nobody{attempt}", "x")
        assert browser.log_in("owner", "alice", PASSWORD).status == 422
        browser = self.browser()
        browser.headers["X-Forwarded-For"] = "203.0.113.9, 203.0.113.66"
        assert browser.log_in("owner", "alice", PASSWORD).status == 303

    def test_sockets_for_both_families_tell_ipv4_sources_apart(self) -> None:
        for attempt in range(SOURCE_BURST + 1):
            browser = self.browser()
            browser.headers["X-Forwarded-For"] = "::ffff:203.0.113.66"
            browser.log_in("owner", f"nobody{attempt}", "x")
        browser = self.browser()
        browser.headers["X-Forwarded-For"] = "::ffff:203.0.113.9"
        assert browser.log_in("owner", "alice", PASSWORD).status == 303


class WithoutAProxy(WebCase):
    def test_nobody_says_who_they_are(self) -> None:
        browser = self.browser()
        browser.headers.update({"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"})
        browser.get("/login")
        assert set(browser.cookies) == {"ddtb6-form"}
