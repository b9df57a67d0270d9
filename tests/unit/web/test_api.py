# SPDX-License-Identifier: GPL-2.0-or-later
"""The API: tokens and cookies, arguments and errors, its rows against the verbs, its document against its answers."""

from __future__ import annotations

import json
import unittest
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.web import Browser, Got
from support.website import WebCase

from ddtb6.broker.admission import Buckets
from ddtb6.web import api
from ddtb6.web.control import VERBS
from ddtb6.web.routes import Desk
from ddtb6.web.serve import make_pages_site
from ddtb6.web.verbs import COUNT, TEXT
from ddtb6.web.visitors import Role, Visitor


class ApiCase(WebCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.browser()
        text = self.call("token.add", name="script", role="administrator")["text"]
        self.root.headers["Authorization"] = f"Bearer {text}"

    def ask(self, method: str, path: str, body: object = None, browser: Browser | None = None, **headers: str) -> Got:
        octets = b"" if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        browser = browser or self.root
        return browser.take(browser.ask(method, f"/api/v1{path}", octets, {**kind, **headers}))


class Rows(ApiCase):
    def test_every_verb_has_a_row_but_those_that_make_rights(self) -> None:
        without = {"admin.add", "admin.passwd", "admin.list", "admin.delete", "token.add"}
        assert {verb for _, _, verb, _ in api.ROWS} == set(VERBS) - without

    def test_reading_is_get_and_changing_is_not(self) -> None:
        for method, _, verb, _ in api.ROWS:
            assert VERBS[verb].changes is (method != "GET"), verb

    def test_a_user_and_its_session(self) -> None:
        assert self.ask("POST", "/users", {"name": "carol", "password": "x"}).json["name"] == "carol"
        assert self.ask("POST", "/users", {"name": "carol", "password": "x"}).status == 409
        session = self.tunnel("carol")
        found = self.ask("GET", "/sessions?search=carol").json
        assert (found["total"], found["sessions"][0]["address"]) == (1, str(session.spec.address))
        assert self.ask("GET", f"/sessions/{session.id}").json["client_version"] == session.client_version
        assert (
            self.ask("PUT", "/users/carol/assigned", {"prefix_pool": "sites"}).json["assigned"]["prefix_pool"]
            == "sites"
        )
        assert self.ask("PUT", "/users/carol/password", {"password": "y"}).status == 200
        assert self.ask("GET", f"/whois?address={session.spec.address}").json["lease"]["owner"] == "user:carol"
        assert self.ask("DELETE", f"/sessions/{session.id}").status == 200
        assert self.ask("GET", f"/sessions/{session.id}").status == 404
        assert self.ask("GET", "/past-sessions?owner=carol").json[0]["reason"] == "disconnected"
        assert self.ask("POST", "/users/carol/disable").json["account"]["disabled"]
        assert len(self.ask("DELETE", "/leases/carol").json) == 2
        assert self.ask("DELETE", "/users/carol").status == 200
        who = {
            (each["who"], each["source"]) for each in self.ask("GET", "/audit").json if each["action"] != "token.add"
        }
        assert who == {("token:script", "192.168.1.1")}
        assert self.ask("GET", "/events?user=carol").json[0]["kind"] == "session-ended"

    def test_lists_come_in_pages(self) -> None:
        for number in range(5):
            self.tunnel(f"user{number}", prefix_pool=None)
            self.call("user.add", name=f"user{number}", password="x")
        page = self.ask("GET", "/leases?limit=2").json
        assert len(page) == 2
        after = page[-1]["prefix"].removesuffix("/128")
        assert len(self.ask("GET", f"/leases?after={after}").json) == 3
        names = [each["name"] for each in self.ask("GET", "/users?search=user&limit=3").json]
        assert names == ["user0", "user1", "user2"]
        assert [each["name"] for each in self.ask("GET", "/users?search=user&after=user2").json] == ["user3", "user4"]
        assert (
            self.ask("GET", "/sessions?sort=user&descending=true&offset=1&limit=1").json["sessions"][0]["user"]
            == "user3"
        )

    def test_what_is_wrong_is_a_problem(self) -> None:
        for method, path, body, status in (
            ("GET", "/sessions/0", None, 400),
            ("GET", "/sessions/x", None, 400),
            ("GET", f"/sessions/{'9' * 5000}", None, 400),
            ("GET", "/sessions?limit=x", None, 400),
            ("GET", "/sessions?limit=0", None, 400),
            ("GET", "/sessions?limit=1001", None, 400),
            ("GET", "/sessions?nonsense=1", None, 400),
            ("GET", "/sessions?descending=perhaps", None, 400),
            ("GET", "/whois", None, 400),
            ("GET", "/whois?address=2001:db8::1&at=nan", None, 400),
            ("GET", "/whois?address=2001:db8::1%25eth0", None, 400),
            ("GET", "/users/%00", None, 400),
            ("GET", "/users/nobody", None, 404),
            ("POST", "/users", [], 400),
            ("POST", "/users", {"name": "x"}, 400),
            ("POST", "/users", {"name": "x", "password": "y", "admin": True}, 400),
            ("PUT", "/users/alice/password", {"name": "bob", "password": "y"}, 400),
            ("PUT", "/users/alice/password?password=x", {}, 400),
            ("GET", "/nothing", None, 404),
            ("PATCH", "/users", None, 405),
        ):
            got = self.ask(method, path, body)
            assert got.status == status, (path, got.text)
            assert got.headers["content-type"] == "application/problem+json"
            assert set(got.json) == {"type", "title", "status", "detail"}
        assert self.ask("GET", "/sessions?limits=1").json["detail"].endswith("did you mean limit?")
        octets = json.dumps({"name": "x", "password": "y"}).encode()
        for body, headers, status in (
            (octets, {}, 415),
            (octets, {"Content-Type": "text/plain"}, 415),
            (b"{" * 5000, {"Content-Type": "application/json"}, 400),
            (b"\xff", {"Content-Type": "application/json"}, 400),
            (b" " * 70000, {"Content-Type": "application/json"}, 413),
        ):
            got = self.root.take(self.root.ask("POST", "/api/v1/users", body, headers))
            assert got.status == status, got.text


class Functions(ApiCase):
    """Rows that are no verbs."""

    def test_arguments_rights_and_description(self) -> None:
        @dataclass(frozen=True)
        class Twice:
            """A number, twice."""

            value: int

        def double(visitor: Visitor, count: int, name: str = "") -> Twice:
            """Double a number.

            For whoever asks.
            """
            return Twice(2 * count + len(name) + len(visitor.name))

        globals()["Twice"] = Twice
        self.addCleanup(globals().pop, "Twice")
        row = api.endpoint("GET", "/double/{count}", Role.OWNER, double, {"count": COUNT}, {"name": TEXT})
        site = make_pages_site(Desk([row, *self.routes()], self.web._visitors), (), self.world.clock)
        owner = self.browser(Role.OWNER)
        owner.site = site
        assert owner.get("/api/v1/double/20?name=ab").json == {"value": 47}
        assert owner.get("/api/v1/double/x").status == 400
        assert self.browser(Role.ADMINISTRATOR).get("/api/v1/double/2").status == 404, "of the other site"
        assert row.operation is not None
        described = api.document([row])["paths"]["/api/v1/double/{count}"]["get"]
        assert (described["summary"], described["description"]) == ("Double a number.", "For whoever asks.")
        assert [(each["name"], each["in"], each["required"]) for each in described["parameters"]] == [
            ("count", "path", True),
            ("name", "query", False),
        ]
        assert described["responses"]["200"]["content"]["application/json"]["schema"] == {
            "$ref": "#/components/schemas/Twice"
        }


class Rights(ApiCase):
    def test_without_a_token_or_with_a_wrong_one(self) -> None:
        stranger = self.browser()
        for header in ({}, {"Authorization": "Bearer ddtb6_wrong"}, {"Authorization": "Basic cm9vdDpz"}):
            got = self.ask("GET", "/users", browser=stranger, **header)
            assert (got.status, got.headers["www-authenticate"]) == (401, "Bearer")
        self.call("token.delete", name="script")
        assert self.ask("GET", "/users").status == 401

    def test_an_owners_token_is_no_administrators(self) -> None:
        text = self.call("token.add", name="mine", role="owner", user="alice")["text"]
        owner = self.browser()
        owner.headers["Authorization"] = f"Bearer {text}"
        assert self.ask("GET", "/users", browser=owner).status == 403
        assert self.ask("DELETE", "/users/bob", browser=owner).status == 403

    def test_a_cookie_needs_the_token_of_its_forms_for_changes(self) -> None:
        browser = self.browser(Role.ADMINISTRATOR)
        assert self.ask("GET", "/users", browser=browser).status == 200
        assert self.ask("POST", "/users/bob/disable", browser=browser).status == 403
        csrf = browser.get("/login").csrf
        got = self.ask("POST", "/users/bob/disable", browser=browser, **{"X-CSRF-Token": csrf})
        assert got.status == 200

    def test_a_wrong_token_is_not_mended_by_a_cookie(self) -> None:
        browser = self.browser(Role.ADMINISTRATOR)
        assert self.ask("GET", "/users", browser=browser, Authorization="Bearer ddtb6_wrong").status == 401


class Described(ApiCase):
    trusted_proxies = ("192.168.1.1",)

    def test_no_secret_is_in_any_answer(self) -> None:
        self.tunnel("alice")
        alice = self.world.store.find_account("alice")
        assert alice is not None
        assert alice.password_hash is not None
        assert alice.digest is not None
        owner = self.browser(Role.OWNER)
        for route in self.routes():
            if route.method == "GET" and route.path.startswith(api.V1):
                path = route.path.removeprefix(api.V1).replace("{id}", "1").replace("{name}", "alice")
                text = self.ask("GET", path, browser=owner if route.role is Role.OWNER else None).text
                for secret in (
                    alice.password_hash,
                    alice.digest.hex(),
                    "scrypt$",
                    self.root.headers["Authorization"][7:],
                ):
                    assert secret not in text, path

    @pytest.mark.slow
    def test_the_document_holds_for_whatever_is_asked(self) -> None:
        try:
            import schemathesis
        except ImportError:
            raise unittest.SkipTest("schemathesis is not installed") from None
        networks = st.integers(0, (1 << 64) - 1).map(lambda high: str(IPv6Network((high << 64, 64))))
        schemathesis.openapi.format("ipv6-prefix", networks)
        through = str(self.tunnel("alice").spec.address)
        self.tunnel("bob")
        owner = f"Bearer {self.call('token.add', name='mine', role='owner', user='alice')['text']}"
        tokens = {Role.OWNER: owner, Role.ADMINISTRATOR: self.root.headers["Authorization"], Role.NOBODY: ""}
        roles = {(each.method, each.path): each.role for each in self.routes()}
        self.web._visitors._strangers = Buckets(1e6, 1e6)  # what asks here without a token is a flood
        schema = schemathesis.openapi.from_wsgi(api.DOCUMENT, self.wsgi)
        failures: list[str] = []
        for result in schema.get_all_operations():
            operation = result.ok()

            token = tokens[roles[operation.method.upper(), operation.path]]
            headers = {"X-Forwarded-For": through, **({"Authorization": token} if token else {})}

            @settings(
                max_examples=25,
                deadline=None,
                phases=(Phase.explicit, Phase.generate),
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy())
            def holds(case: Any) -> None:
                case.call_and_validate(headers=headers)  # noqa: B023 (called within this round)

            try:
                holds()
            except schemathesis.core.failures.FailureGroup as failure:
                failures.append(f"{operation.label}: {failure.exceptions[0]}")
        assert failures == []

    def wsgi(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """The site as WSGI, every request through its HTTP parser."""
        headers = {
            name[5:].replace("_", "-").title(): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        if environ.get("CONTENT_TYPE"):
            headers["Content-Type"] = environ["CONTENT_TYPE"]
        for name in ("Host", "Connection", "Content-Length", "Transfer-Encoding"):
            headers.pop(name, None)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        path = environ.get("REQUEST_URI") or environ["PATH_INFO"]
        if environ.get("QUERY_STRING") and "?" not in path:
            path = f"{path}?{environ['QUERY_STRING']}"
        browser = self.browser()
        got = browser.take(browser.ask(environ["REQUEST_METHOD"], path, environ["wsgi.input"].read(length), headers))
        start(f"{got.status} X", list(got.headers.items()))
        return [got.body]
