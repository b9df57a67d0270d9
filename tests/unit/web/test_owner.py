# SPDX-License-Identifier: GPL-2.0-or-later
"""The owner's page and API: what they show and of whom, the change of the password, and who asks through a tunnel."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from unittest import mock

from support.stored import now
from support.virtual import SERVER
from support.web import Browser, Got
from support.website import PASSWORD, WebCase
from twisted.internet.defer import Deferred

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.auth.chain import Chain
from ddtb6.auth.passwords import verify_password
from ddtb6.broker import events
from ddtb6.broker.ports import Accepted, Principal, Rejected, Session
from ddtb6.broker.views import SessionPage
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import Counters
from ddtb6.web.explained import ENDED, REFUSED, STATUS
from ddtb6.web.login import NAME_BURST
from ddtb6.web.owner import Owner
from ddtb6.web.visitors import Role

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"
PROXY = "192.168.1.1"
"""Where `support.web.Browser` connects from."""


class Page(WebCase):
    def test_all_that_is_theirs(self) -> None:
        session = self.tunnel("alice")
        other = self.tunnel("bob")
        carried = Counters(1000, 2_000_000, 3000, 4_000_000, {Refusal.SPOOFED_SOURCE: 7})
        view = now(self.world.broker.sessions(session.id))[0]
        with mock.patch.object(self.world.broker._tunnels, "page") as page:
            page.return_value = SessionPage(1, (replace(view, counters=carried),))
            text = unescape(self.browser(Role.OWNER).get("/tunnel").text)
        for shown in (
            str(session.spec.address),
            str(session.spec.prefix),
            str(session.spec.remote),
            "There is one on the way",
            "TSP 2.0.2, logged in by DIGEST-MD5",
            "2.0 MB",
            "4.0 MB",
            "spoofed-source",
            REFUSED[Refusal.SPOOFED_SOURCE],
            "<td>Logged in</td>",
            "Traffic, last day",
            "Latency, last week",
        ):
            assert shown in text, shown
        for hidden in (str(other.spec.address), str(other.spec.remote), "bob", PASSWORD):
            assert hidden not in text

    def test_without_a_tunnel_it_says_what_is_held_and_what_to_do(self) -> None:
        owner = self.browser(Role.OWNER)
        text = owner.get("/tunnel").text
        for shown in (">down<", "the first log-in of a client grants it", "ddtb6 connect --server broker --user alice"):
            assert shown in text, shown
        session = self.tunnel("alice")
        now(self.world.broker.disconnect(session.id, EndReason.IDLE))
        text = owner.get("/tunnel").text
        assert f"<code>{session.spec.address}</code>, yours since" in text
        assert ENDED[EndReason.IDLE] in text
        assert f"--server {SERVER.address}" in text, "where the last log-in came to"

    def test_refusals_come_with_what_to_do(self) -> None:
        link = Link(Carrier.UDP, SERVER, Endpoint("198.51.100.9", 5000))
        self.world.bus.publish(events.LoginRefused(link, "DIGEST-MD5", "wrong password", 300, "alice"))
        self.world.bus.publish(events.RequestRefused(link, "user:alice", "507 Requested prefix length", "no pool"))
        self.world.bus.publish(events.LoginRefused(link, "PLAIN", "wrong password", 300, "bob"))
        text = self.browser(Role.OWNER).get("/tunnel").text
        assert text.count("wrong password") == 1
        for code in ("300", "507"):
            assert STATUS[code] in text

    def test_what_others_wrote_is_harmless(self) -> None:
        link = Link(Carrier.UDP, SERVER, Endpoint("198.51.100.9", 5000))
        self.world.bus.publish(events.LoginRefused(link, NASTY, NASTY, 300, "alice"))
        self.tunnel("alice", version=NASTY)
        text = self.browser(Role.OWNER).get("/tunnel").text
        assert "<script>" not in text
        assert "<img" not in text
        assert text.count("&lt;script&gt;") >= 3

    def test_the_api_says_the_same(self) -> None:
        session = self.tunnel("alice")
        token = self.call("token.add", name="script", role="owner", user="alice")["text"]
        browser = Browser(self.site)
        browser.headers["Authorization"] = f"Bearer {token}"
        own = browser.get("/api/v1/tunnel").json
        assert (own["account"], own["password_kept_here"]) == ("alice", True)
        assert own["tunnel"]["address"] == str(session.spec.address)
        assert {each["prefix"] for each in own["leases"]} == {f"{session.spec.address}/128", str(session.spec.prefix)}
        assert [each["id"] for each in own["past"]] == [session.id]
        assert browser.get("/api/v1/tunnel/history").json["week"]["step"] > 0
        assert "openwrt" in {each["id"] for each in own["setups"]}


class Passwords(WebCase):
    def change(self, browser: Browser, old: str, new: str, again: str | None = None) -> Got:
        csrf = browser.get("/tunnel").csrf
        form = {"csrf": csrf, "old_password": old, "password": new, "again": new if again is None else again}
        return browser.post("/tunnel/password", form)

    def kept(self, name: str = "alice") -> str:
        account = self.world.store.find_account(name)
        assert account is not None
        return account.password_hash or ""

    def test_changed_with_the_old_one(self) -> None:
        here, elsewhere = self.browser(Role.OWNER), self.browser(Role.OWNER)
        got = self.change(here, PASSWORD, "another")
        assert (got.status, got.headers["location"]) == (303, "/tunnel")
        assert "Changed the password." in here.get("/tunnel").text
        assert verify_password("another", self.kept())
        assert elsewhere.get("/tunnel").status == 303, "other log-ins end"
        entry = self.call("audit.list")[0]
        assert (entry["who"], entry["action"], entry["subject"]) == ("user:alice", "user.passwd", {"name": "alice"})
        assert "another" not in json.dumps(self.call("audit.list"))

    def test_refused_and_why(self) -> None:
        browser = self.browser(Role.OWNER)
        for old, new, again, status, sentence in (
            ("wrong", "another", None, 422, "The old password is not right"),
            ("", "another", None, 422, "The old password is not right"),
            (PASSWORD, "another", "typo", 422, "are not the same"),
            (PASSWORD, "a\tb", None, 422, "control character"),
            (PASSWORD, "", None, 422, "password"),
        ):
            got = self.change(browser, old, new, again)
            assert (got.status, sentence in got.text) == (status, True), got.text
            assert 'role="alert"' in got.text
        assert verify_password(PASSWORD, self.kept())
        failed = [each["failed"] for each in self.call("audit.list") if each["action"] == "user.passwd"]
        assert "the old password was not right" in failed

    def test_guesses_are_limited_as_log_ins_are(self) -> None:
        browser = self.browser(Role.OWNER)
        for _ in range(NAME_BURST):
            self.change(browser, "guess", "another")
        assert self.change(browser, PASSWORD, "another").status == 422
        assert Browser(self.site).log_in("owner", "alice", PASSWORD).status == 422, "one limit for both"
        self.world.clock.advance(600)
        assert self.change(browser, PASSWORD, "another").status == 303

    def test_whoever_is_logged_out_meanwhile_changes_nothing(self) -> None:
        browser = self.browser(Role.OWNER)
        csrf = browser.get("/tunnel").csrf
        held: list[Deferred[None]] = []
        verify = self.world.authenticator.verify

        async def slowly(*arguments: object) -> object:
            held.append(Deferred())
            await held[-1]
            return await verify(*arguments)  # type: ignore[arg-type]

        with mock.patch.object(self.world.authenticator, "verify", slowly):
            form = {"csrf": csrf, "old_password": PASSWORD, "password": "another", "again": "another"}
            fetch = browser.submit("/tunnel/password", form)
            self.call("user.disable", name="alice")
            self.call("user.enable", name="alice")
            held[0].callback(None)
        assert browser.take(fetch).status == 422
        assert verify_password(PASSWORD, self.kept())

    def test_by_the_api(self) -> None:
        browser = Browser(self.site)
        token = self.call("token.add", name="script", role="owner", user="alice")["text"]
        browser.headers.update({"Authorization": f"Bearer {token}", "Content-Type": "application/json"})

        def put(old: str, new: str) -> Got:
            body = json.dumps({"old_password": old, "password": new}).encode()
            return browser.take(browser.ask("PUT", "/api/v1/tunnel/password", body))

        assert put("wrong", "another").status == 403
        assert put(PASSWORD, "another").json == {"account": "alice"}
        assert verify_password("another", self.kept())
        assert self.call("audit.list")[0]["who"] == "token:script"
        assert verify_password(PASSWORD, self.kept("bob"))


class KeptElsewhere(WebCase):
    """Accounts of a RADIUS server."""

    def setUp(self) -> None:
        super().setUp()

        class Radius:
            mechanisms = frozenset({"PLAIN"})

            async def verify(self, credentials: object, link: object) -> object:
                user, right = credentials.user, credentials.password == PASSWORD  # type: ignore[attr-defined]
                return Accepted(Principal(f"user:{user}", user)) if right else Rejected("wrong")

        self.world.authenticator._links = (*self.world.authenticator._links, Radius())
        assert isinstance(self.world.authenticator, Chain)

    def log_in(self, name: str) -> Browser:
        chain = self.world.authenticator
        chain._links = chain._links[-1:]
        browser = Browser(self.site)
        assert browser.log_in("owner", name, PASSWORD).status == 303
        return browser

    def test_it_says_where_the_password_is(self) -> None:
        browser = self.log_in("dora@isp.example")
        page = browser.get("/tunnel").text
        assert "not kept here" in page
        assert 'action="/tunnel/password"' not in page
        form = {"csrf": browser.get("/tunnel").csrf, "old_password": PASSWORD, "password": "x", "again": "x"}
        got = browser.post("/tunnel/password", form)
        assert (got.status, "not kept here" in got.text) == (409, True)

    def test_any_name_is_quoted(self) -> None:
        page = self.log_in("ISP\\dora $HOME '\"%u").get("/tunnel").text
        assert "--user &#39;ISP\\dora $HOME &#39;&#34;&#39;&#34;&#39;&#34;%u&#39;" in page
        page = self.log_in("two\nlines").get("/tunnel").text
        assert "characters that configurations cannot" in page
        assert "<textarea" not in page


class ThroughATunnel(WebCase):
    """Who asks is known by the connection; the browser of these tests connects from a proxy that is trusted."""

    trusted_proxies = (PROXY,)

    def at(self, source: str) -> Browser:
        browser = self.browser()
        browser.headers["X-Forwarded-For"] = source
        return browser

    def test_sees_that_tunnel_and_no_name(self) -> None:
        session = self.tunnel("alice")
        assert session.spec.prefix is not None
        for source in (session.spec.address, session.spec.prefix[0], session.spec.prefix[-1]):
            browser = self.at(str(source))
            text = browser.get("/tunnel").text
            assert "The tunnel you came through" in text
            assert str(session.spec.prefix) in text
            for hidden in ("alice", "<form", "<textarea"):
                assert hidden not in text, hidden
            assert "/tunnel" in browser.get("/").text, "the navigation has it"
            assert browser.get("/api/v1/tunnel/through").json["id"] == session.id
            assert browser.get("/api/v1/tunnel").status == 401
            csrf = browser.get("/login").csrf
            assert browser.post("/tunnel/password", {"csrf": csrf}).status == 403
            assert browser.get("/manage").status == 303
        assert self.at(str(session.spec.prefix[0])).get("/tunnel").headers["cache-control"] == "no-store"

    def test_nobody_elses(self) -> None:
        session, other = self.tunnel("alice"), self.tunnel("bob")
        assert str(session.spec.address) not in self.at(str(other.spec.address)).get("/tunnel").text
        now(self.world.broker.disconnect(session.id, EndReason.IDLE))
        assert self.at(str(session.spec.address)).get("/tunnel").status == 303, "no tunnel stands there any more"
        assert self.at(str(session.spec.address)).get("/api/v1/tunnel/through").status == 404

    def test_a_log_in_goes_before_it(self) -> None:
        self.tunnel("alice")
        bobs = self.tunnel("bob")
        browser = self.browser(Role.OWNER)
        browser.headers["X-Forwarded-For"] = str(bobs.spec.address)
        assert "Account <strong>alice</strong>" in browser.get("/tunnel").text
        browser = self.browser(Role.ADMINISTRATOR)
        browser.headers["X-Forwarded-For"] = str(bobs.spec.address)
        assert "The tunnel you came through" in browser.get("/tunnel").text

    def test_sources_that_are_none(self) -> None:
        session = self.tunnel("alice")
        for source in (
            "",
            "x",
            "198.51.100.98",
            f"{session.spec.address}%eth0",
            f"[{session.spec.address}]",
            f"{session.spec.address}, 203.0.113.9",
            "::ffff:192.168.1.1",
            "fe80::1",
            "\xff",
        ):
            assert self.at(source).get("/tunnel").status == 303, source


class ForgedSources(WebCase):
    """From whom no proxy is trusted, no header says who asks."""

    def test_no_header_is_believed(self) -> None:
        session = self.tunnel("alice")
        address = str(session.spec.address)
        for headers in (
            {"X-Forwarded-For": address},
            {"X-Forwarded-For": f"{address}, {PROXY}"},
            {"Forwarded": f'for="[{address}]"'},
            {"X-Real-IP": address},
            {"True-Client-IP": address},
            {"CF-Connecting-IP": address},
            {"X-Client-IP": address},
            {"Client-IP": address},
            {"Via": address},
            {"Host": f"[{address}]"},
            {"X-Forwarded-Host": address},
        ):
            browser = self.browser()
            browser.headers.update(headers)
            assert browser.get("/tunnel").status == 303, headers
            assert browser.get("/api/v1/tunnel/through").status == 404, headers


class Values(WebCase):
    def test_the_broker_is_named_as_configured(self) -> None:
        daemon = self.web._daemon
        web = replace(daemon.config.web, broker="broker.example.net:3654")
        control, find, clock = self.web._control, self.world.store.find_account, self.world.clock
        owner = Owner(control, find, replace(daemon.config, web=web), self.web._login, clock.epoch)
        session: Session = self.tunnel("alice")
        request = mock.Mock(host="[::1]:80")
        past = now(self.world.store.past_sessions("user:alice", 1))
        assert owner._server(request, past) == "broker.example.net:3654"
        assert self.web._daemon.config.web.broker == ""
        plain = Owner(control, find, daemon.config, self.web._login, clock.epoch)
        assert plain._server(request, past) == session.spec.local.address
        assert plain._server(request, ()) == "BROKER"
        for host in ("127.0.0.1:8653", "localhost", "", "a b", "-x"):
            assert plain._server(mock.Mock(host=host), ()) == "BROKER"
        assert plain._server(mock.Mock(host="tunnel.example.net:8653"), ()) == "tunnel.example.net"

    def test_what_stands_for_an_unknown_name_is_said(self) -> None:
        browser, words = self.browser(Role.OWNER), "BROKER stands for"
        assert words not in browser.get("/tunnel").text
        assert words in browser.take(browser.ask("GET", "/tunnel", host="localhost")).text
