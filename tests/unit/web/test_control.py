# SPDX-License-Identifier: GPL-2.0-or-later
"""The management verbs on a real store, with a broker and without, in process and over the unix socket."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer, reactor, task, threads
from twisted.internet.error import CannotListenError
from twisted.trial import unittest

from ddtb6.addressing.endpoint import Carrier, Encapsulation, Endpoint, Link
from ddtb6.addressing.pool import Pool, Use
from ddtb6.auth.passwords import verify_password
from ddtb6.broker.ports import Lease, Opening, Session
from ddtb6.broker.search import SessionQuery
from ddtb6.broker.views import Activity, Overview, SessionPage, SessionView
from ddtb6.sasl.digest import user_secret
from ddtb6.store.store import Store, open_store
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters, TunnelId
from ddtb6.web import control_site
from ddtb6.web.control import VERBS, Control
from ddtb6.web.control_client import ControlClient, NotPermitted, NotRunning
from ddtb6.web.recent import Recent
from ddtb6.web.verbs import Actor, ControlError, Kind

POOLS = {
    pool.name: pool
    for pool in (
        Pool("links", IPv6Network("2001:db8:0:1::/64"), Use.ACCOUNTS, 128, 60.0),
        Pool("home", IPv6Network("2001:db8:1000::/36"), Use.PREFIXES, 56, 60.0),
    )
}
OVERVIEW = Overview(
    version="1",
    started=1000.0,
    listening=("udp 192.0.2.1:3653",),
    data_plane="memory",
    data_plane_reason="It was asked for.",
    firewall="None.",
    encapsulations=("v6udpv4",),
    mechanisms=("PLAIN",),
    negotiations=0,
    activity=Activity(sessions=1, logins={"PLAIN": 1}, refusals={}, ended={}, strays={}, pools=()),
)


ACTOR = Actor("administrator:root", "192.0.2.99")


class FixedClock:
    """2000 seconds after the epoch, until it is told otherwise."""

    now = 2000.0

    def monotonic(self) -> float:
        return self.now

    def epoch(self) -> float:
        return self.now


class SessionsOfTheStore:
    """Stands where the broker stands, on the sessions of a real store, and carries nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ended: list[tuple[int, EndReason]] = []

    async def page(self, query: SessionQuery) -> SessionPage:
        found = [each for each in await self.sessions() if query.user in (None, each.user)]
        return SessionPage(len(found), tuple(found[query.offset : query.offset + query.limit]))

    async def sessions(self, only: TunnelId | None = None) -> Sequence[SessionView]:
        return [_view(each) for each in await self.store.live_sessions() if only in (None, each.id)]

    async def disconnect(self, tunnel: TunnelId, reason: EndReason) -> bool:
        self.ended.append((tunnel, reason))
        return bool(await self.sessions(tunnel))

    async def disconnect_owner(self, owner: str, reason: EndReason) -> bool:
        live = [each.id for each in await self.sessions() if each.owner == owner]
        self.ended += [(each, reason) for each in live]
        return bool(live)

    async def release(self, owner: str) -> Sequence[Lease]:
        await self.disconnect_owner(owner, EndReason.DISCONNECTED)
        return await self.store.release(owner)


def _view(session: Session) -> SessionView:
    return SessionView(
        id=session.id,
        owner=session.owner,
        user=session.user,
        remote=session.spec.remote,
        local=session.spec.local,
        address=session.spec.address,
        prefix=session.spec.prefix,
        nat=True,
        mechanism=session.mechanism,
        client_version=session.client_version,
        started=session.started,
        established=True,
        silent_for=None,
        counters=Counters(1, 2, 3, 4),
        accounted_as=f"{session.accounted_as:016x}",
    )


class ControlCase(unittest.TestCase):
    """A store in a temporary file, and `call` on it."""

    running = False

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ddtb6-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.clock = FixedClock()
        self.store = open_store(self.directory / "store", POOLS, self.clock, in_thread=defer.execute)
        self.addCleanup(lambda: defer.Deferred.fromCoroutine(self.store.close()))
        self.broker = SessionsOfTheStore(self.store)
        self.control = Control(
            self.store,
            self.broker if self.running else None,
            (lambda: OVERVIEW) if self.running else None,
            realm="realm",
            pools=POOLS,
            clock=self.clock,
            in_thread=defer.execute,
            recent=Recent(self.clock) if self.running else None,
        )

    def now(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(defer.Deferred.fromCoroutine(work))

    def call(self, verb: str, **arguments: object) -> Any:
        answer = self.now(self.control.call(verb, arguments, ACTOR))
        json.dumps(answer)
        return answer

    def refused(self, verb: str, kind: Kind, **arguments: object) -> str:
        failure = self.failureResultOf(
            defer.Deferred.fromCoroutine(self.control.call(verb, arguments, ACTOR)), ControlError
        )
        assert failure.value.kind is kind
        return str(failure.value)

    def log_in(self, user: str) -> Session:
        opening = Opening(
            owner=f"user:{user}",
            user=user,
            link=Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.7", 4000 + len(user))),
            encapsulation=Encapsulation.V6UDPV4,
            mechanism="DIGEST-MD5",
            client_version="2.0.2",
            address_pool="links",
            prefix_pool="home",
            mtu=1280,
            idle_limit=180.0,
        )
        session: Session = self.now(self.store.open_session(opening))
        return session


class Accounts(ControlCase):
    def test_added_account_has_working_secrets_and_shows_none(self) -> None:
        answer = self.call("user.add", name="alice", password="s3cret")
        assert answer == {
            "name": "alice",
            "disabled": False,
            "created": 2000.0,
            "mechanisms": ["DIGEST-MD5", "PLAIN"],
            "assigned": dict.fromkeys(("address", "prefix", "address_pool", "prefix_pool")),
        }
        account = self.store.find_account("alice")
        assert account is not None
        assert account.digest == user_secret("alice", "realm", "s3cret")
        assert verify_password("s3cret", account.password_hash or "")

    def test_password_change_replaces_both_secrets(self) -> None:
        self.call("user.add", name="alice", password="old")
        self.call("user.passwd", name="alice", password="new")
        account = self.store.find_account("alice")
        assert account is not None
        assert account.digest == user_secret("alice", "realm", "new")
        assert verify_password("new", account.password_hash or "")

    def test_what_is_refused(self) -> None:
        self.call("user.add", name="alice", password="x")
        assert "exists already" in self.refused("user.add", Kind.CONFLICT, name="alice", password="y")
        assert "user list" in self.refused("user.show", Kind.MISSING, name="bob")
        for verb in ("user.disable", "user.enable", "user.delete"):
            self.refused(verb, Kind.MISSING, name="bob")
        self.refused("user.passwd", Kind.MISSING, name="bob", password="x")
        self.refused("user.add", Kind.REQUEST, name="no spaces", password="x")
        self.refused("user.add", Kind.REQUEST, name="bob", password="line\nend")
        self.refused("user.add", Kind.REQUEST, name="bob", password="")
        assert "needs the argument password" in self.refused("user.add", Kind.REQUEST, name="bob")
        assert "did you mean name?" in self.refused("user.add", Kind.REQUEST, nam="bob", password="x")
        assert "there is no verb" in self.refused("user.explode", Kind.REQUEST)
        assert [each["name"] for each in self.call("user.list")] == ["alice"]

    def test_arguments_of_any_sort_give_control_errors_only(self) -> None:
        for verb in VERBS:
            for arguments in (None, [], "x", {"name": 3}, {"id": True}, {"id": 0}, {"at": "now"}, {"owner": ["x"]}):
                work = defer.Deferred.fromCoroutine(self.control.call(verb, arguments, ACTOR))
                self.failureResultOf(work, ControlError)

    def test_deleting_releases_and_keeps_history(self) -> None:
        self.call("user.add", name="alice", password="x")
        prefix = self.log_in("alice").spec.prefix
        self.clock.now = 2500.0
        answer = self.call("user.delete", name="alice")
        assert str(prefix) in [each["prefix"] for each in answer["released"]]
        assert answer["disconnected"]
        assert self.call("user.list") == []
        assert prefix is not None
        self.clock.now = 3000.0
        self.refused("whois", Kind.MISSING, address=str(prefix[1]))
        assert self.call("whois", address=str(prefix[1]), at=2000)["lease"]["owner"] == "user:alice"


class Stopped(ControlCase):
    """Without a broker."""

    def test_live_verbs_say_so(self) -> None:
        for verb, entry in VERBS.items():
            if entry.live:
                arguments = {name: {"id": 1}.get(name, "alice") for name in entry.needed}
                assert self.refused(verb, Kind.STOPPED, **arguments) == "the broker is not running"

    def test_leases_and_whois(self) -> None:
        session = self.log_in("alice")
        assert [(each["prefix"], each["pool"], each["owner"]) for each in self.call("lease.list", owner="alice")] == [
            (f"{session.spec.address}/128", "links", "user:alice"),
            (str(session.spec.prefix), "home", "user:alice"),
        ]
        found = self.call("whois", address=str(session.spec.address))
        assert found["sessions"][0]["remote"] == "198.51.100.7:4005"
        assert self.call("lease.list", owner="user:bob") == []

    def test_release_ends_the_session_that_the_next_start_would_raise(self) -> None:
        self.log_in("alice")
        self.log_in("robert")
        released = self.call("lease.release", owner="alice")
        assert len(released) == 2
        assert [each.user for each in self.now(self.store.live_sessions())] == ["robert"]
        assert "holds nothing" in self.refused("lease.release", Kind.MISSING, owner="alice")
        assert len(self.call("lease.list", released=True)) == 2

    def test_disabling_ends_the_session_in_the_store(self) -> None:
        self.call("user.add", name="alice", password="x")
        self.log_in("alice")
        assert self.call("user.disable", name="alice")["disconnected"]
        (past,) = self.call("user.show", name="alice")["past"]
        assert past["reason"] == "disabled"
        assert len(self.call("lease.list", owner="alice")) == 2
        assert not self.call("user.enable", name="alice")["account"]["disabled"]


class Running(ControlCase):
    """With a broker."""

    running = True

    def test_overview(self) -> None:
        assert self.call("overview")["activity"]["logins"] == {"PLAIN": 1}

    def test_sessions(self) -> None:
        alice, bob = self.log_in("alice"), self.log_in("bob")
        assert self.call("session.list", limit=1)["total"] == 2
        assert [each["id"] for each in self.call("session.list", limit=1)["sessions"]] == [alice.id]
        assert [each["user"] for each in self.call("session.list", user="bob")["sessions"]] == ["bob"]
        assert self.call("session.show", id=bob.id)["address"] == str(bob.spec.address)
        self.refused("session.show", Kind.MISSING, id=99)
        self.refused("session.kill", Kind.MISSING, id=99)
        assert self.call("session.kill", id=bob.id)["user"] == "bob"
        assert self.broker.ended == [(bob.id, EndReason.DISCONNECTED)]

    def test_disabling_and_deleting_disconnect(self) -> None:
        self.call("user.add", name="alice", password="x")
        session = self.log_in("alice")
        assert len(self.call("user.show", name="alice")["live"]) == 1
        assert self.call("user.disable", name="alice")["disconnected"]
        self.call("user.delete", name="alice")
        assert self.broker.ended == [(session.id, EndReason.DISABLED)] * 2

    def test_release_goes_through_the_broker(self) -> None:
        session = self.log_in("alice")
        assert len(self.call("lease.release", owner="alice")) == 2
        assert self.broker.ended == [(session.id, EndReason.DISCONNECTED)]


class OverTheSocket(ControlCase):
    """The same verbs by HTTP, the client in a thread as the tool is in another process."""

    running = True

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "below" / "control"
        self.site = control_site.make_control_site(self.control, reactor)

    async def listen(self) -> None:
        port = await control_site.listen(self.site, self.path, reactor)
        self.addCleanup(port.stopListening)

    def away(self, work: Callable[[], Any]) -> defer.Deferred[Any]:
        return threads.deferToThread(work)

    def test_verbs(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            await self.listen()
            client = ControlClient(self.path)
            await self.away(lambda: client.call("user.add", name="älice", password="pässword"))
            listed = await self.away(lambda: client.call("user.list"))
            assert [each["name"] for each in listed] == ["älice"]
            error = await self.assertFailure(
                self.away(lambda: client.call("user.add", name="älice", password="x")), ControlError
            )
            assert error.kind is Kind.CONFLICT
            assert "älice exists already" in str(error)
            entries = await self.away(lambda: client.call("audit.list"))
            who = f"local:{pwd.getpwuid(os.getuid()).pw_name}"
            assert [(each["who"], each["failed"] == "") for each in entries] == [(who, False), (who, True)]
            assert "pässword" not in str(entries)

        return defer.Deferred.fromCoroutine(scenario())

    def test_socket_is_for_owner_and_group(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            await self.listen()
            assert stat.S_IMODE(os.stat(self.path).st_mode) == 432

        return defer.Deferred.fromCoroutine(scenario())

    def test_left_over_socket_is_replaced_and_a_live_one_is_not(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            self.path.parent.mkdir()
            with socket.socket(socket.AF_UNIX) as left_over:
                left_over.bind(str(self.path))
            await self.listen()
            other = control_site.make_control_site(self.control, task.Clock())
            await self.assertFailure(
                defer.Deferred.fromCoroutine(control_site.listen(other, self.path, reactor)), CannotListenError
            )
            assert await self.away(lambda: ControlClient(self.path).call("overview"))

        return defer.Deferred.fromCoroutine(scenario())

    def test_what_is_no_request_of_ours(self) -> defer.Deferred[None]:
        def ask(method: str, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("ddtb6")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(10)
            connection.sock.connect(str(self.path))
            connection.request(method, path, body, headers or {}, encode_chunked=bool(headers))
            response = connection.getresponse()
            text = response.read()
            connection.close()
            return response.status, json.loads(text) if text.startswith(b"{") else text

        async def scenario() -> None:
            await self.listen()
            for method, path, body, status in (
                ("GET", "/v1/overview", b"", 405),
                ("POST", "/v1/nonsense", b"{}", 400),
                ("POST", "/v1/", b"{}", 400),
                ("POST", "/v1/user/add", b"{}", 400),
                ("POST", "/v1/overview", b"{", 400),
                ("POST", "/v1/overview", b"[" * 50000, 400),
                ("POST", "/v1/overview", b"\xff", 400),
                ("POST", "/v1/overview", b"[]", 400),
                ("POST", "/v1/user.show", b'{"name": "nobody"}', 404),
                ("POST", "/v1/overview", b" " * 70000, 413),
                ("POST", "/elsewhere", b"{}", 404),
                ("POST", "/v1/overview", b"", 200),
            ):
                answered, value = await self.away(lambda m=method, p=path, b=body: ask(m, p, b))
                assert answered == status, (method, path, body[:20], value)
                if status != 200:
                    assert set(value) == {"error", "kind"}

        return defer.Deferred.fromCoroutine(scenario())

    def test_a_bug_is_logged_and_not_told(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            await self.listen()
            self.broker.sessions = None  # type: ignore[assignment, method-assign]
            error = await self.assertFailure(
                self.away(lambda: ControlClient(self.path).call("session.list")), ControlError
            )
            assert error.kind is Kind.FAILED
            assert "NoneType" not in str(error)
            assert len(self.flushLoggedErrors(TypeError)) == 1

        return defer.Deferred.fromCoroutine(scenario())

    def test_nobody_there(self) -> None:
        with pytest.raises(NotRunning):
            ControlClient(self.path).call("overview")
        self.path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(str(self.path))
        with pytest.raises(NotRunning):
            ControlClient(self.path).call("overview")

    def test_somebody_else_there(self) -> None:
        """A socket that answers nonsense, or not at all, is an error and not a reason to open the store."""
        self.path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.bind(str(self.path))
            stranger.listen()
            with pytest.raises(ControlError):
                ControlClient(self.path, timeout=0.05).call("overview")

    def test_not_permitted(self) -> None:
        if os.geteuid() != 0:
            raise unittest.SkipTest("only root can become somebody else")
        self.path.parent.mkdir(mode=0o700)
        os.chmod(self.directory, 0o700)
        os.seteuid(65534)
        self.addCleanup(os.seteuid, 0)
        with pytest.raises(NotPermitted):
            ControlClient(self.path).call("overview")
