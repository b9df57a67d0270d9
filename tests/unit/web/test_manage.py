# SPDX-License-Identifier: GPL-2.0-or-later
"""The administrator's pages: what they show, what they change, what strangers put into them, what very many cost."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from unittest import mock

from support.stored import now
from support.web import Browser, Got
from support.website import PASSWORD, WebCase
from twisted.logger import formatEvent, globalLogPublisher

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.auth.passwords import verify_password
from ddtb6.broker import events, tunnels
from ddtb6.broker.registry import Live
from ddtb6.broker.views import AaaView, AccountingView, Overview
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import TunnelId
from ddtb6.web.explained import ENDED, REFUSED
from ddtb6.web.visitors import Role

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: Got) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]


class ManageCase(WebCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.browser(Role.ADMINISTRATOR)

    def submit(self, page: str, form: dict[str, str] | None = None, to: str | None = None) -> Got:
        """Open `page`, fill in its form, send it."""
        csrf = self.root.get(page).csrf
        return self.root.post(to or page, {"csrf": csrf, **(form or {})})

    def follow(self, got: Got) -> str:
        """The page that a change leads to."""
        assert got.status == 303, got.text
        page = self.root.get(got.headers["location"])
        assert page.status == 200
        return page.text


class Users(ManageCase):
    def test_from_the_first_to_the_last(self) -> None:
        page = self.follow(self.submit("/manage/users", {"name": "carol", "password": "x"}))
        assert "Added carol." in page
        assert "Added carol." not in self.root.get("/manage/users/carol").text, "told once"
        page = self.follow(self.submit("/manage/users/carol", {"password": "new"}, to="/manage/users/carol/password"))
        assert "Changed the password of carol." in page
        account = self.world.store.find_account("carol")
        assert account is not None
        assert verify_password("new", account.password_hash or "")
        session = self.tunnel("carol")
        page = self.root.get("/manage/users/carol").text
        for shown in (f"Session {session.id}", str(session.spec.address), str(session.spec.prefix), "198.51.100."):
            assert shown in page
        form = {"address": "", "prefix": "2001:db8:100::/56", "prefix_pool": "homes", "address_pool": ""}
        page = self.follow(self.submit("/manage/users/carol", form, to="/manage/users/carol/assigned"))
        assert 'value="2001:db8:100::/56"' in page
        assert "<option selected>homes</option>" in page
        assert "keeps its addresses" in self.root.get("/manage/users/carol/disable").text
        page = self.follow(self.submit("/manage/users/carol/disable"))
        assert "Disabled carol and ended its session." in page
        assert ENDED[EndReason.DISABLED] in page
        page = self.follow(self.submit("/manage/users/carol", to="/manage/users/carol/enable"))
        assert "Enabled carol." in page
        assert str(session.spec.prefix) in self.root.get("/manage/users/carol/delete").text
        page = self.follow(self.submit("/manage/users/carol/delete"))
        assert f"Deleted carol and released {session.spec.address}/128, {session.spec.prefix}" in page
        page = self.root.get("/manage/users/carol").text
        assert "No account of this name is kept here" in page
        assert ENDED[EndReason.DISABLED] in page
        done = [(each["who"], each["action"]) for each in self.call("audit.list")]
        changes = ("delete", "enable", "disable", "assign", "passwd", "add")
        assert done == [("administrator:root", each) for each in (*(f"user.{verb}" for verb in changes), "login")]

    def test_what_is_refused_stands_beside_the_form(self) -> None:
        for page, form, to, status, sentence in (
            ("/manage/users", {"name": "alice", "password": "x"}, "", 409, "User alice exists already"),
            ("/manage/users", {"name": "a b", "password": "x"}, "", 422, "letters, digits"),
            ("/manage/users", {"name": "", "password": ""}, "", 422, "needs the argument name"),
            ("/manage/users/alice", {"password": "a\tb"}, "/password", 422, "control character"),
            ("/manage/users/alice", {"address": "x"}, "/assigned", 422, "must be an IPv6 address"),
            ("/manage/users/alice", {"address": "2001:db9::1"}, "/assigned", 409, "in no pool"),
        ):
            got = self.submit(page, form, to=page + to)
            assert got.status == status, got.text
            assert 'role="alert"' in got.text
            assert sentence in got.text

    def test_one_that_a_radius_server_keeps_has_a_page(self) -> None:
        session = self.tunnel("far@isp <b>")
        (link,) = re.findall(r'href="(/manage/users/[^"]+)"', self.root.get(f"/manage/sessions/{session.id}").text)
        page = self.root.get(link).text
        for shown in ("far@isp &lt;b&gt;", str(session.spec.address), str(session.spec.prefix), ">live<", "/release"):
            assert shown in page
        for nobody in ("nobody", "%00", "x" * 400):
            assert self.root.get(f"/manage/users/{nobody}").status in (400, 404)

    def test_asking_changes_nothing(self) -> None:
        session = self.tunnel("alice")
        for page in ("users/alice/disable", "users/alice/delete", f"sessions/{session.id}/end", "leases/alice/release"):
            assert self.root.get(f"/manage/{page}").status == 200
        assert [each["action"] for each in self.call("audit.list")] == ["login"]
        assert len(self.world.live()) == 1

    def test_many_come_in_pages(self) -> None:
        alice = self.world.store.find_account("alice")
        assert alice is not None
        for number in range(60):
            now(self.world.store.add_account(replace(alice, name=f"u{number:02}")))
        first = self.root.get("/manage/users?search=u")
        [more] = [each["href"] for each in Tags(first).of("a") if "after=" in (each.get("href") or "")]
        second = self.root.get(str(more)).text
        assert ">u49<" in first.text
        assert ">u50<" in second
        assert ">u59<" in second
        assert "after=" not in second


class Sessions(ManageCase):
    def test_found_sorted_shown_and_ended(self) -> None:
        alice, bob = self.tunnel("alice"), self.tunnel("bob")
        page = self.root.get("/manage/sessions").text
        assert page.index(f">{bob.id}<") < page.index(f">{alice.id}<"), "newest first"
        page = self.root.get("/manage/sessions?sort=user&order=up").text
        assert page.index(f">{alice.id}<") < page.index(f">{bob.id}<")
        assert 'aria-sort="ascending"' in page
        for search in ("alice", str(alice.spec.address), str(alice.spec.prefix)[:-3] + "99", alice.spec.remote.address):
            page = self.root.get(f"/manage/sessions?search={search}").text
            assert "1 to 1 of 1" in page, search
        assert "No live session" in self.root.get("/manage/sessions?search=nobody").text
        page = self.root.get(f"/manage/sessions/{alice.id}").text
        for shown in ("2.0.2", "DIGEST-MD5", "yes: the client believes", str(alice.spec.remote)):
            assert shown in page
        page = self.follow(self.submit(f"/manage/sessions/{alice.id}/end"))
        assert f"Ended session {alice.id} of alice." in page
        assert ENDED[EndReason.DISCONNECTED] in page
        assert self.root.get(f"/manage/sessions/{alice.id}").status == 404
        assert "1 to 1 of 1" in self.root.get("/manage/sessions").text

    def test_refused_packets_are_explained(self) -> None:
        session = self.tunnel("alice")
        self.world.datagram(b"\x60" + bytes(39), session.spec.remote)
        page = self.root.get(f"/manage/sessions/{session.id}").text
        assert any(f"<td>{words}" in page.replace("&#39;", "'") for words in REFUSED.values())

    def test_nonsense_in_the_query_is_the_first_page(self) -> None:
        self.tunnel("alice")
        for query in ("sort=x&order=y&from=z", "from=-1", f"from={'9' * 30}", "search=%00%ff", "sort=&order="):
            assert self.root.get(f"/manage/sessions?{query}").status == 200
        for path in ("sessions/x", "sessions/0", f"sessions/{'9' * 100}"):
            assert self.root.get(f"/manage/{path}").status == 400


class Leases(ManageCase):
    def test_held_released_and_who_had_it(self) -> None:
        session = self.tunnel("alice")
        began = self.world.clock.epoch()
        self.world.clock.advance(1000.0)
        page = self.root.get(f"/manage/leases?address={session.spec.address}").text
        assert '<strong><a href="/manage/users/alice">alice</a></strong> holds' in page
        assert str(session.spec.remote) in page
        page = self.follow(self.submit("/manage/leases/alice/release"))
        assert f"Released {session.spec.address}/128, {session.spec.prefix}, which alice held." in page
        page = self.root.get(f"/manage/leases?address={session.spec.address}").text
        assert f"Nobody holds {session.spec.address}." in page
        for at in (str(began), "2023-11-14 22:30:00"):
            page = self.root.get(f"/manage/leases?address={session.spec.address}&at={at.replace(' ', '%20')}").text
            assert "</strong> had" in page, page
        assert str(session.spec.prefix) in self.root.get("/manage/leases?released=1").text
        for query in ("address=x", "address=::1&at=yesterday", "address=::1&at=1e999"):
            got = self.root.get(f"/manage/leases?{query}")
            assert (got.status, 'role="alert"' in got.text) == (200, True)


class Records(ManageCase):
    def overview(self) -> Overview:
        accounting = AccountingView(3, 4, 1.7e9, None, "no answer of acct1")
        return replace(super().overview(), aaa=AaaView((), accounting))

    def test_events_audit_and_journal(self) -> None:
        session = self.tunnel("alice")
        for path in ("/manage", "/manage/events", "/manage/events?user=alice", "/manage/users/alice"):
            assert f">session {session.id}</a>: user:alice" in self.root.get(path).text, path
        assert "session " not in self.root.get("/manage/events?user=bob").text.partition("<main")[2]
        page = self.root.get("/manage/journal").text
        assert "no answer of acct1" in page
        self.call("user.disable", name="alice")
        assert "local:root" in self.root.get("/manage/audit").text
        assert "user.disable" in self.root.get("/manage").text


class Tokens(ManageCase):
    def test_made_shown_once_used_and_revoked(self) -> None:
        made = self.submit("/manage/tokens", {"name": "backup", "user": ""})
        found = re.search(r"ddtb6_[A-Za-z0-9_-]{43}", made.text)
        assert found
        assert found[0] not in self.root.get("/manage/tokens").text
        script = Browser(self.site)
        script.headers["Authorization"] = f"Bearer {found[0]}"
        assert script.get("/api/v1/users").status == 200
        assert self.submit("/manage/tokens", {"name": "backup", "user": ""}).status == 409
        page = self.follow(self.submit("/manage/tokens/backup/revoke"))
        assert "Revoked the token backup." in page
        assert script.get("/api/v1/users").status == 401
        assert self.root.get("/manage/tokens/backup/revoke").status == 404


class Strangers(ManageCase):
    """What others can write, on every page that shows it."""

    def test_nothing_they_write_becomes_part_of_a_page(self) -> None:
        session = self.tunnel("alice", version=NASTY)
        link = self.opening("alice").link
        self.world.bus.publish(events.LoginRefused(link, "PLAIN", f"wrong password: {NASTY}", user=NASTY))
        self.world.bus.publish(events.RequestRefused(link, f"user:{NASTY}", "300 no", NASTY))
        radius = self.opening(NASTY, version=NASTY)
        odd = now(self.world.store.open_session(radius))
        now(self.world.broker._tunnels.stand(odd, nat=True, by="x"))
        now(self.world.store.write_audit(NASTY, NASTY, "user.add", {"name": NASTY}, NASTY))
        now(self.world.store.set_secrets("alice", None, None))
        quoted = "".join(f"%{octet:02X}" for octet in NASTY.encode())
        pages = [
            "/manage",
            "/manage/users",
            "/manage/users/alice",
            "/manage/sessions",
            f"/manage/sessions/{session.id}",
            f"/manage/sessions/{odd.id}",
            f"/manage/sessions/{odd.id}/end",
            "/manage/leases",
            "/manage/events",
            "/manage/audit",
            "/manage/journal",
            "/manage/tokens",
            *(
                f"/manage/{path}={quoted}"
                for path in ("users?search", "sessions?search", "leases?owner", "leases?address", "events?user")
            ),
            f"/manage/leases/{quoted}/release",
            f"/manage/users/{quoted}",
            f"/login?next={quoted}",
            f"/{quoted}",
        ]
        for path in pages:
            got = self.root.get(path)
            assert got.status in (200, 404), path
            tags = Tags(got)
            assert not tags.of("img"), path
            assert [set(each) for each in tags.of("script")] == [{"src", "defer"}], path
            assert not any(name.startswith("on") or name == "style" for _, each in tags.tags for name in each), path
            assert all((each["href"] or "")[:1] in ("/", "#") for each in tags.of("a")), path
            assert "\r" not in "".join(got.headers.values())
        sessions = self.root.get("/manage/sessions").text
        assert "&lt;script&gt;alert(1)" in sessions

    def test_no_secret_is_on_any_page(self) -> None:
        self.tunnel("alice")
        alice = self.world.store.find_account("alice")
        assert alice is not None
        assert alice.digest is not None
        for route in self.routes():
            if route.method == "GET" and route.path.startswith("/manage"):
                path = route.path.replace("{name}", "alice").replace("{id}", "1").replace("{owner}", "alice")
                text = self.root.get(path).text
                for secret in (PASSWORD, alice.digest.hex(), "scrypt$", self.root.cookies["ddtb6"]):
                    assert secret not in text, path

    def test_no_secret_is_in_the_log(self) -> None:
        kept: list[str] = []
        observer = lambda event: kept.append(f"{formatEvent(event)} {event}")  # noqa: E731
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.browser().log_in("administrator", "root", "wr0ng-secret")
        self.submit("/manage/users", {"name": "carol", "password": "n3w-secret"})
        self.submit("/manage/users", {"name": "a b", "password": "b4d-secret"})
        made = self.submit("/manage/tokens", {"name": "t", "user": ""})
        [token] = re.findall(r"ddtb6_[A-Za-z0-9_-]{43}", made.text)
        self.browser().get("/api/v1/users", Authorization=f"Bearer {token}")
        self.web._control.tunnels._store = None  # type: ignore[assignment]
        broken = self.submit(
            "/manage/users", {"name": "x", "password": "br0ken-secret"}, to="/manage/users/alice/password"
        )
        assert broken.status in (303, 404, 500)
        assert self.root.get("/manage/leases").status == 500
        assert len(self.flushLoggedErrors(AttributeError)) >= 1
        assert kept
        secrets = (
            "wr0ng-secret",
            "n3w-secret",
            "b4d-secret",
            "br0ken-secret",
            PASSWORD,
            token,
            self.root.cookies["ddtb6"],
        )
        assert [each for each in secrets if each in "\n".join(kept)] == []

    def test_forms_name_their_fields_and_change_by_post_with_a_token(self) -> None:
        session = self.tunnel("alice")
        for route in self.routes():
            if route.method != "GET" or not route.path.startswith("/manage"):
                continue
            path = route.path.replace("{name}", "alice").replace("{id}", str(session.id)).replace("{owner}", "alice")
            got = self.root.get(path)
            for form in re.findall(r"<form.*?</form>", got.text, re.DOTALL):
                if 'method="post"' in form:
                    assert 'name="csrf"' in form, path
                for field in re.findall(r"<(?:input|select|textarea)[^>]*>", form):
                    if "hidden" not in field:
                        label = form[: form.index(field)]
                        assert label.rfind("<label") > label.rfind("</label>"), (path, field)


class VeryMany(ManageCase):
    """Work is counted, not timed."""

    def test_a_page_costs_a_page(self) -> None:
        first = self.tunnel("alice")
        crowd = self.world.broker._tunnels._live
        for number in range(2, 3000):
            spec = replace(
                first.spec,
                id=TunnelId(100 + number),
                remote=Endpoint(f"10.0.{number >> 8}.{number & 255}", 4000),
                address=first.spec.address + number,
                prefix=None,
            )
            session = replace(first, id=spec.id, spec=spec, owner=f"user:u{number}", user=f"u{number}")
            crowd.add(Live(session, 0.0, nat=None, established=True, ends_at=None))
        self.addCleanup(lambda: [crowd.remove(each) for each in list(crowd) if each.session.id != first.id])
        made: list[Any] = []
        view = tunnels.session_view
        with mock.patch.object(tunnels, "session_view", lambda *given: made.append(1) or view(*given)):
            for path in (
                "/",
                "/manage",
                "/manage/sessions",
                "/manage/sessions?from=2000",
                "/manage/sessions?sort=user",
                "/manage/sessions?search=u1",
                f"/manage/sessions/{first.id}",
                "/manage/users",
                "/manage/users/alice",
                "/manage/leases",
                "/manage/events",
                "/manage/audit",
                "/api/v1/sessions",
            ):
                before = len(made)
                got = self.root.get(path)
                assert got.status == 200
                assert len(made) - before <= 100, path
                assert len(got.body) < 100_000, path


class Explained(WebCase):
    def test_every_reason_has_words(self) -> None:
        assert set(ENDED) == set(EndReason)
        assert set(REFUSED) == set(Refusal)
