# SPDX-License-Identifier: GPL-2.0-or-later
"""Administrators, tokens, the audit log, and what an account is assigned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.stored import now
from support.website import PASSWORD, WebCase
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from ddtb6.broker.ports import StoreError
from ddtb6.store import store as store_module
from ddtb6.web.verbs import Actor, ControlError, Kind
from ddtb6.web.visitors import Role


class Administrators(WebCase):
    def test_made_renamed_and_gone(self) -> None:
        made = self.call("admin.add", name="carol", password="first")
        assert set(made) == {"name", "created"}
        assert [each["name"] for each in self.call("admin.list")] == ["carol", "root"]
        browser = self.browser()
        assert browser.log_in("administrator", "carol", "first").status == 303
        self.call("admin.passwd", name="carol", password="second")
        assert ">Log in<" in browser.get("/").text, "the session is over"
        assert self.browser().log_in("administrator", "carol", "first").status == 422
        assert browser.log_in("administrator", "carol", "second").status == 303
        self.call("admin.delete", name="carol")
        assert ">Log in<" in browser.get("/").text
        assert self.browser().log_in("administrator", "carol", "second").status == 422

    def test_refusals_say_what_to_do(self) -> None:
        for verb, arguments, kind, sentence in (
            ("admin.add", {"name": "root", "password": "x"}, Kind.CONFLICT, "ddtb6 admin passwd"),
            ("admin.add", {"name": "a b", "password": "x"}, Kind.REQUEST, "letters, digits"),
            ("admin.add", {"name": "ab", "password": ""}, Kind.REQUEST, "must be text"),
            ("admin.passwd", {"name": "nobody", "password": "x"}, Kind.MISSING, "ddtb6 admin list"),
            ("admin.delete", {"name": "nobody"}, Kind.MISSING, "no administrator nobody"),
            ("token.delete", {"name": "nobody"}, Kind.MISSING, "ddtb6 token list"),
            ("token.add", {"name": "x", "role": "owner"}, Kind.REQUEST, "user"),
            ("token.add", {"name": "x", "role": "administrator", "user": "alice"}, Kind.REQUEST, "user"),
            ("token.add", {"name": "x", "role": "nobody"}, Kind.REQUEST, "administrator, owner"),
        ):
            with pytest.raises(ControlError, match=sentence) as caught:
                self.call(verb, **arguments)
            assert caught.value.kind is kind

    def test_a_user_whose_password_changes_is_logged_out(self) -> None:
        for verb, more in (("user.passwd", {"password": PASSWORD}), ("user.disable", {}), ("user.delete", {})):
            owner, administrator = self.browser(Role.OWNER), self.browser(Role.ADMINISTRATOR)
            self.call(verb, name="alice", **more)
            assert ">Log in<" in owner.get("/").text, verb
            assert ">root<" in administrator.get("/").text, verb
            if verb == "user.disable":
                self.call("user.enable", name="alice")


class Tokens(WebCase):
    def test_text_is_shown_once_and_kept_nowhere(self) -> None:
        made = self.call("token.add", name="backup", role="administrator")
        text = made["text"]
        assert text.startswith("ddtb6_")
        assert len(text) > 40
        assert text not in str(self.call("token.list"))
        assert text.encode() not in self.world.directory.joinpath("ddtb6.sqlite-wal").read_bytes()
        assert text not in str(self.call("audit.list"))

    def test_revoked_disabled_and_deleted(self) -> None:
        find = self.web._find_token
        of_root = self.call("token.add", name="a", role="administrator")["text"]
        of_alice = self.call("token.add", name="b", role="owner", user="alice")["text"]
        visitor = find(of_alice)
        assert visitor is not None
        assert (visitor.role, visitor.name, visitor.owner) == (Role.OWNER, "alice", "user:alice")
        self.call("user.disable", name="alice")
        assert find(of_alice) is None
        self.call("user.enable", name="alice")
        assert find(of_alice) is not None
        self.call("user.delete", name="alice")
        assert [each["name"] for each in self.call("token.list")] == ["a"]
        assert find(of_root) is not None
        self.call("token.delete", name="a")
        assert find(of_root) is None
        assert find("ddtb6_") is None


class Audit(WebCase):
    def test_every_change_and_refusal_with_who_and_where(self) -> None:
        actor = Actor("administrator:root", "192.0.2.9")
        control = self.web._control
        now(control.call("user.passwd", {"name": "alice", "password": "geheim"}, actor))
        with pytest.raises(ControlError):
            now(control.call("user.delete", {"name": "nobody"}, actor))
        now(control.call("user.list", {}, actor))
        entries = self.call("audit.list")
        assert [(each["who"], each["source"], each["action"], each["subject"]) for each in entries] == [
            ("administrator:root", "192.0.2.9", "user.delete", {"name": "nobody"}),
            ("administrator:root", "192.0.2.9", "user.passwd", {"name": "alice"}),
        ]
        assert entries[0]["failed"] == "there is no user nobody; `ddtb6 user list` shows them"
        assert entries[1]["failed"] == ""
        assert entries[1]["at"] == self.world.clock.epoch()
        assert self.call("audit.list", before=entries[0]["number"]) == entries[1:]

    def test_a_change_that_cannot_be_written_down_says_so(self) -> None:
        store = self.world.store

        def full(*_: object) -> Deferred[None]:
            return fail(Failure(StoreError("The disk is full.")))

        store.write_audit = full  # type: ignore[assignment, method-assign]
        with pytest.raises(ControlError, match="was done, but not written to the audit log: The disk is full"):
            self.call("user.disable", name="alice")

    def test_it_is_bounded_by_age_and_number(self) -> None:
        store, clock = self.world.store, self.world.clock
        for number in range(5):
            now(store.write_audit("local:root", "", "user.add", {"name": str(number)}, ""))
            clock.advance(10.0)
        now(store.prune(clock.epoch() - 35.0))
        assert [each.subject["name"] for each in now(store.audit())] == ["4", "3", "2"]
        self.patch(store_module, "AUDIT_LIMIT", 2)
        now(store.prune(0.0))
        assert [each.subject["name"] for each in now(store.audit())] == ["4", "3"]


class Assigned(WebCase):
    def test_the_next_log_in_gets_it(self) -> None:
        before = self.tunnel("alice")
        self.call("user.assign", name="alice", address="2001:db8:0:1::99", prefix_pool="sites")
        shown = self.call("user.show", name="alice")["account"]["assigned"]
        assert shown == {"address": "2001:db8:0:1::99", "prefix": None, "address_pool": None, "prefix_pool": "sites"}
        account = self.world.store.find_account("alice")
        assert account is not None
        self.call("session.kill", id=before.id)
        opening = replace(self.opening("alice", "sites"), terms=account.terms)
        session = now(self.world.store.open_session(opening))
        assert str(session.spec.address) == "2001:db8:0:1::99"
        assert str(session.spec.prefix).endswith("/48")
        self.call("user.assign", name="alice")
        assert set(self.call("user.show", name="alice")["account"]["assigned"].values()) == {None}

    def test_the_authenticator_hands_it_on(self) -> None:
        from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
        from ddtb6.broker.ports import Accepted
        from ddtb6.sasl.credentials import Plain

        self.call("user.assign", name="alice", prefix="2001:db8:100::/56")
        link = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.1", 1))
        verdict = now(self.world.authenticator.verify(Plain("alice", PASSWORD), link))
        assert isinstance(verdict, Accepted)
        assert str(verdict.principal.terms.prefix) == "2001:db8:100::/56"

    def test_what_no_log_in_could_get_is_refused(self) -> None:
        self.tunnel("bob")
        held = str(self.call("lease.list", owner="bob")[0]["prefix"]).removesuffix("/128")
        for arguments, sentence in (
            ({"address_pool": "homes"}, "there are: links"),
            ({"prefix_pool": "links"}, "there are: homes, sites"),
            ({"address": "2001:db8:ffff::1"}, "in no pool for accounts"),
            ({"address": "2001:db8:0:1::1"}, "the broker's own"),
            ({"address": held}, "user:bob holds"),
            ({"prefix": "2001:db8:100::/65"}, "longer than a /64"),
            ({"prefix": "2001:db8:999::/56"}, "in no pool for prefixes"),
            ({"prefix": "2001:db8:100::1/56"}, "must be an IPv6 prefix"),
            ({"prefix": "2001:db8:100::%1/56"}, "without a scope"),
        ):
            with pytest.raises(ControlError, match=sentence):
                self.call("user.assign", name="alice", **arguments)
