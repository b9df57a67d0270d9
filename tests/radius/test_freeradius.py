# SPDX-License-Identifier: GPL-2.0-or-later
"""Log-ins judged by a real FreeRADIUS that runs the policy we ship."""

from __future__ import annotations

import functools
import inspect
import os
import resource
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from support.capabilities import unavailable
from support.freeradius import REALM, SECRET, FreeRadius, StockFreeRadius, free_ports
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.auth.radius import RadiusUsers
from ddtb6.broker.ports import Accepted, Principal, Rejected, Terms, Unavailable, Verdict
from ddtb6.clock import SystemClock
from ddtb6.radius.access import RadiusAccess
from ddtb6.radius.attributes import Attribute
from ddtb6.radius.exchange import RadiusClient, Server, Timing
from ddtb6.radius.lane import Build
from ddtb6.radius.nas import Nas, SessionNames
from ddtb6.radius.packets import Code, Reply
from ddtb6.sasl.credentials import DigestProof, Plain
from ddtb6.sasl.digest import check_rspauth, respond
from ddtb6.sasl.mechanisms import mechanism, rspauth_reply

pytestmark = pytest.mark.radius

LINK = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.7", 40000))
QUICK = Timing(timeout=0.1, tries=2, patience=3.0, dead_time=60.0, probe_interval=0.2)
USERS = """
alice	Cleartext-Password := "wonder land"
	Session-Timeout = 3600

zo\u00eb	Cleartext-Password := "p\\"\\\\ \u00e9:x"

bob	Digest-HA1 := "add81000cfbc5c4a452683128c5f58d9"

dave	Cleartext-Password := "0x4142"

erin	Cleartext-Password := "LONGEST"

carol	SSHA2-256-Password := 0x8b0f9e28473ce2110687ff539524da7c3d8eb4aaadf98aa09bea457634767efb0102030405060708

mallory	Cleartext-Password := "right", Auth-Type := Reject
	Reply-Message := "Your contract has ended.",
	Reply-Message += "Call us."

ghost	Auth-Type := Accept

twice	Cleartext-Password := "right"
	Framed-Interface-Id = 0:0:0:7,
	Framed-IPv6-Address = 2001:db8:0:1::8

full	Cleartext-Password := "right"
	User-Name = "full@isp.example",
	Service-Type = Framed-User,
	Framed-IPv6-Prefix = 2001:db8:a::/64,
	Framed-Interface-Id = 0:0:0:7,
	Delegated-IPv6-Prefix = 2001:db8:1000::/48,
	Delegated-IPv6-Prefix += 2001:db8:2000::/56,
	Stateful-IPv6-Address-Pool = "links",
	Delegated-IPv6-Prefix-Pool = "home56",
	Framed-IPv6-Route = "2001:db8:9::/48 :: 1",
	DNS-Server-IPv6-Address = 2001:db8::53,
	Session-Timeout = 3600,
	Idle-Timeout = 300,
	Acct-Interim-Interval = 600,
	Port-Limit = 1,
	Class = 0x3078343100ff,
	Class += 0x3635,
	Filter-Id = "gold"
""".replace("LONGEST", "longest " * 16)
CLEAR = {"alice": "wonder land", "zoë": 'p"\\ é:x', "dave": "0x4142", "erin": "longest " * 16}
"""The password of those who have it in clear there."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreeRadius]:
    made = FreeRadius(tmp_path_factory.mktemp("freeradius"), USERS)
    made.start()
    yield made
    made.stop()


def proof(user: str, password: str, cnonce: bytes = b"cnonce") -> tuple[DigestProof, Callable[[str], bool]]:
    """What a client sends, and what it thinks of the server's rspauth."""
    made = mechanism("DIGEST-MD5", realm=REALM, nonce=lambda: b"0123456789abcdefghijkl", version=(2, 0, 2))
    assert made is not None
    challenge = made.start()
    assert isinstance(challenge, bytes)
    credentials = made.respond(respond(challenge, user, password, "tsp/broker.example", cnonce))
    assert isinstance(credentials, DigestProof)

    def convinced(rspauth: str) -> bool:
        return check_rspauth(rspauth_reply(rspauth), challenge, user, password, "tsp/broker.example", cnonce)

    return credentials, convinced


def _as_deferred(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], Deferred[None]]:
    @functools.wraps(test)
    def run(case: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(test(case))

    return run


class FreeRadiusCase(TestCase):
    timeout = 60

    def __init_subclass__(cls) -> None:
        """Tests are coroutines, which trial takes as such only since Twisted 22.8."""
        for name, test in list(vars(cls).items()):
            if name.startswith("test_") and inspect.iscoroutinefunction(test):
                setattr(cls, name, _as_deferred(test))

    @pytest.fixture(autouse=True)
    def _given(self, server: FreeRadius, tmp_path: Path) -> None:
        self.server = server
        self.path = tmp_path

    def setUp(self) -> None:
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self._note)
        self.addCleanup(globalLogPublisher.removeObserver, self._note)

    def _note(self, event: dict[str, Any]) -> None:
        text = event.get("log_format") or ""
        if text.startswith("RADIUS server"):
            self.lines.append(text.format(**event))

    def started(self, users: str = USERS, **options: bool) -> FreeRadius:
        """One more server, for this test."""
        made = FreeRadius(self.path / f"server{len(list(self.path.iterdir()))}", users, **options)
        self.addCleanup(made.stop)
        made.start()
        return made

    def client(self, *servers: Server, timing: Timing = QUICK) -> RadiusClient:
        client = RadiusClient(reactor, SystemClock(), servers, timing, [("NAS-Identifier", "tests")])
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        return client

    def at(self, address: str = "127.0.0.1", secret: str = SECRET, policy: str = "auto", port: int = 0) -> Server:
        return Server(f"at {address}", address, port or self.server.auth_port, secret.encode(), policy)

    def users(self, *modes: str, client: RadiusClient | None = None, without_rspauth: bool = False) -> RadiusUsers:
        access = RadiusAccess(
            client or self.client(self.at()),
            Nas("tests", port_id="ddtb6"),
            SessionNames(SystemClock()),
            draft="digest-draft" in modes,
        )
        return RadiusUsers(access, REALM, modes, without_rspauth=without_rspauth)


class PasswordTests(FreeRadiusCase):
    async def ask(self, user: str, password: str) -> Verdict:
        return await self.users("pap").verify(Plain(user, password), LINK)

    async def test_right_ones(self) -> None:
        for user, password in (*CLEAR.items(), ("carol", "christmas")):
            verdict = await self.ask(user, password)
            assert isinstance(verdict, Accepted), (user, verdict, self.server.output)
            assert verdict.principal.owner == f"user:{user}"
            assert verdict.principal.terms.by_radius
            assert verdict.rspauth is None

    async def test_wrong_ones(self) -> None:
        for user, password in (("alice", "wonderland"), ("bob", "builder"), ("nobody", "x"), ("alice", "w" * 128)):
            assert await self.ask(user, password) == Rejected("refused by RADIUS server at 127.0.0.1"), user

    async def test_what_does_not_fit(self) -> None:
        verdict = await self.ask("alice", "é" * 128)
        assert verdict == Rejected("the log-in does not fit into RADIUS: User-Password must have 1 to 128 octets")

    async def test_all_terms(self) -> None:
        verdict = await self.ask("full", "right")
        assert isinstance(verdict, Accepted), verdict
        terms = Terms(
            address=IPv6Address("2001:db8:a::7"),
            prefix=IPv6Network("2001:db8:1000::/48"),
            address_pool="links",
            prefix_pool="home56",
            routes=(IPv6Network("2001:db8:2000::/56"), IPv6Network("2001:db8:9::/48")),
            resolver=IPv6Address("2001:db8::53"),
            session_limit=3600.0,
            idle_limit=300.0,
            interim_interval=600.0,
            tunnels=1,
            account_class=(b"0x41\0\xff", b"65"),
            filter_ids=("gold",),
            billed_as="full@isp.example",
            by_radius=True,
            account_session=verdict.principal.terms.account_session,
        )
        assert verdict == Accepted(Principal("user:full@isp.example", "full@isp.example", terms))

    async def test_reply_message(self) -> None:
        message = "Your contract has ended. Call us."
        verdict = await self.ask("mallory", "right")
        assert verdict == Rejected(f"refused by RADIUS server at 127.0.0.1: {message}", message)

    async def test_contradiction(self) -> None:
        verdict = await self.ask("twice", "right")
        assert isinstance(verdict, Rejected)
        assert "Framed-Interface-Id is another one than that of 2001:db8:0:1::8" in verdict.why


class DigestTests(FreeRadiusCase):
    async def test_right_ones_in_every_mode(self) -> None:
        for mode in ("digest", "digest-draft", "ha1"):
            users = self.users(mode)
            for user, password in (*CLEAR.items(), ("bob", "builder")):
                for cnonce in (b"cnonce", b"odd", b"0x41", b'quo"te\\s' + "é".encode()):
                    credentials, convinced = proof(user, password, cnonce)
                    verdict = await users.verify(credentials, LINK)
                    assert isinstance(verdict, Accepted), (mode, user, cnonce, verdict)
                    assert verdict.principal.owner == f"user:{user}"
                    assert verdict.rspauth is not None
                    assert convinced(verdict.rspauth), (mode, user, cnonce)

    async def test_wrong_ones_in_every_mode(self) -> None:
        for mode in ("digest", "digest-draft", "ha1"):
            users = self.users(mode)
            for user, password in (("alice", "wonderland"), ("bob", "x"), ("carol", "christmas"), ("nobody", "x")):
                verdict = await users.verify(proof(user, password)[0], LINK)
                assert isinstance(verdict, Rejected), (mode, user, verdict)

    async def test_digest_of_somebody_else(self) -> None:
        """The password is found by User-Name; the digest must be about that name."""
        client = Renaming(reactor, SystemClock(), [self.at()], QUICK)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        for mode in ("digest", "digest-draft"):
            credentials, _ = proof("bob", "builder")
            assert isinstance(await self.users(mode, client=client).verify(credentials, LINK), Accepted)
            credentials, _ = proof("alice", "wonder land")
            verdict = await self.users(mode, client=client).verify(credentials, LINK)
            assert verdict == Rejected("refused by RADIUS server at 127.0.0.1")

    async def test_accept_without_proof(self) -> None:
        credentials, _ = proof("ghost", "whatever")
        verdict = await self.users("digest-draft").verify(credentials, LINK)
        assert isinstance(verdict, Rejected)
        assert "no Digest-Response-Auth" in verdict.why
        verdict = await self.users("digest-draft", without_rspauth=True).verify(credentials, LINK)
        assert isinstance(verdict, Accepted)
        assert verdict.rspauth is None
        verdict = await self.users("digest").verify(credentials, LINK)  # The policy lets nobody past the digest.
        assert isinstance(verdict, Rejected)
        verdict = await self.users("ha1").verify(credentials, LINK)
        assert isinstance(verdict, Rejected)
        assert "it has no Digest-HA1" in verdict.why

    async def test_secrets_only_go_to_clients_that_are_named(self) -> None:
        wary = self.started(ha1=False)
        client = self.client(self.at(port=wary.auth_port))
        verdict = await self.users("ha1", client=client).verify(proof("alice", "wonder land")[0], LINK)
        assert isinstance(verdict, Rejected)

    async def test_two_modes_at_once(self) -> None:
        users = self.users("pap", "digest")
        assert users.mechanisms == {"PLAIN", "DIGEST-MD5"}
        for credentials in (Plain("alice", "wonder land"), proof("alice", "wonder land")[0]):
            assert isinstance(await users.verify(credentials, LINK), Accepted)


class Renaming(RadiusClient):
    """Asks about another user than the digest does."""

    async def exchange(self, code: Code, build: Build, *, tries: int | None = None) -> Reply:
        def renamed() -> list[Attribute]:
            return [(name, "bob" if name == "User-Name" else value) for name, value in build()]

        return await super().exchange(code, renamed, tries=tries)


class StockConfigurationTests(FreeRadiusCase):
    async def test_policy_installed_as_its_comments_say(self) -> None:
        if not StockFreeRadius.STOCK.is_dir():
            unavailable("radius", f"there is no {StockFreeRadius.STOCK}, which Debian's package installs")
        stock = StockFreeRadius(self.path / "stock", USERS)
        self.addCleanup(stock.stop)
        stock.start()
        client = self.client(
            self.at(secret=stock.SECRET, policy="yes", port=stock.auth_port), timing=Timing(timeout=3.0)
        )
        for mode in ("digest", "digest-draft"):
            users = self.users("pap", mode, client=client)
            assert isinstance(await users.verify(Plain("alice", "wonder land"), LINK), Accepted), stock.output
            assert isinstance(await users.verify(Plain("alice", "wrong"), LINK), Rejected)
            credentials, convinced = proof("alice", "wonder land")
            verdict = await users.verify(credentials, LINK)
            assert isinstance(verdict, Accepted), (mode, verdict)
            assert verdict.rspauth is not None
            assert convinced(verdict.rspauth)
            assert isinstance(await users.verify(proof("alice", "wrong")[0], LINK), Rejected)
        assert client.states()[0].alive


class TransportTests(FreeRadiusCase):
    async def test_ipv6_server(self) -> None:
        users = self.users("pap", client=self.client(self.at("::1")))
        assert isinstance(await users.verify(Plain("alice", "wonder land"), LINK), Accepted)

    async def test_dead_first_server(self) -> None:
        (dead,) = free_ports(1)
        client = self.client(self.at(port=dead), self.at("::1"))
        users = self.users("pap", client=client)
        verdicts = await gatherResults(
            [Deferred.fromCoroutine(users.verify(Plain("alice", "wonder land"), LINK)) for _ in range(50)]
        )
        assert all(isinstance(each, Accepted) for each in verdicts)
        first, second = client.states()
        assert (first.alive, second.alive) == (False, True)
        assert isinstance(await users.verify(Plain("alice", "wonder land"), LINK), Accepted)
        assert client.states()[0].counters["unanswered"] == first.counters["unanswered"]
        assert [line for line in self.lines if "does not answer" in line] == self.lines

    async def test_all_dead(self) -> None:
        """1,000 attempts: nobody gets in, nothing is left over, and the log has a line for each server."""
        ports = free_ports(2)
        client = self.client(*(self.at(port=port) for port in ports))
        users = self.users("pap", "digest", client=client)
        clock = SystemClock()
        begun = clock.monotonic()
        opened: list[int] = []
        credentials = [Plain("alice", "wonder land"), proof("alice", "wonder land")[0]] * 250
        for _ in range(2):
            verdicts = await gatherResults([Deferred.fromCoroutine(users.verify(each, LINK)) for each in credentials])
            assert all(isinstance(each, Unavailable) for each in verdicts)
            opened.append(len(os.listdir("/proc/self/fd")))
        assert clock.monotonic() - begun < 2 * QUICK.patience
        assert [(each.in_flight <= 1, each.queued) for each in client.states()] == [(True, 0)] * 2
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(1000):
            assert isinstance(await users.verify(credentials[0], LINK), Unavailable)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1024
        assert {*opened} == {len(os.listdir("/proc/self/fd"))}
        assert len(self.lines) == 2

    async def test_revival_by_status_server(self) -> None:
        late = FreeRadius(self.path / "late", USERS)
        self.addCleanup(late.stop)
        client = self.client(self.at(port=late.auth_port))
        users = self.users("pap", client=client)
        assert isinstance(await users.verify(Plain("alice", "wonder land"), LINK), Unavailable)
        late.start()
        while not client.states()[0].alive:
            await deferLater(reactor, 0.05)
        assert isinstance(await users.verify(Plain("alice", "wonder land"), LINK), Accepted)
        assert [("answers again" in line) for line in self.lines] == [False, True]

    async def test_probe(self) -> None:
        (dead,) = free_ports(1)
        (_, answered), (_, silent) = await self.client(self.at(), self.at(port=dead)).probe()
        assert answered is not None
        assert 0 < answered < 1
        assert silent is None

    async def test_wrong_secret(self) -> None:
        """FreeRADIUS says nothing to a request that is not signed with its secret; the line names the secret."""
        client = self.client(self.at(secret="another one"))
        verdict = await self.users("pap", client=client).verify(Plain("alice", "wonder land"), LINK)
        assert isinstance(verdict, Unavailable)
        assert any("the shared secret is wrong" in line for line in self.lines), self.lines

    async def test_unsigned_answers(self) -> None:
        plain = self.started(sign=False)
        at = plain.auth_port
        for policy, verdict_type in (("auto", Accepted), ("no", Accepted), ("yes", Unavailable)):
            client = self.client(self.at(port=at, policy=policy))
            for _ in range(2):
                verdict = await self.users("pap", client=client).verify(Plain("alice", "wonder land"), LINK)
                assert isinstance(verdict, verdict_type), (policy, verdict, plain.output)
        about = [line.partition(") ")[2].partition(",")[0] for line in self.lines]
        if "sent an answer without a Message-Authenticator" in about:  # FreeRADIUS before 3.2.5.
            assert about[0] == "does not sign its answers with a Message-Authenticator"
            assert about.count("does not sign its answers with a Message-Authenticator") == 1

    async def test_a_thousand_in_flight(self) -> None:
        client = self.client(self.at(), timing=Timing())
        users = self.users("pap", client=client)
        asked = [
            Deferred.fromCoroutine(users.verify(Plain("alice", "wonder land" if n % 2 else "wrong"), LINK))
            for n in range(1000)
        ]
        assert client.states()[0].in_flight + client.states()[0].queued == 1000
        verdicts = await gatherResults(asked)
        assert [isinstance(each, Accepted) for each in verdicts] == [False, True] * 500
        (state,) = client.states()
        assert (state.in_flight, state.queued, state.alive) == (0, 0, True)

    async def test_forged_replies(self) -> None:
        """A forger on the way puts its answers before the genuine one: dropped and counted, and the waiting goes on."""
        forger = Forger(("127.0.0.1", self.server.auth_port))
        port = reactor.listenUDP(0, forger, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        client = self.client(self.at(port=port.getHost().port))
        for password, right in (("wonder land", True), ("wrong", False)):
            verdict = await self.users("pap", client=client).verify(Plain("alice", password), LINK)
            assert isinstance(verdict, Accepted) is right
        (state,) = client.states()
        assert "retransmitted" not in state.counters
        expected = {"malformed": 16, "not-expected": 2, "wrong-code": 2, "wrong-authenticator": 4}
        assert {name: state.counters.get(name) for name in expected} == expected
        assert sum("our shared secret" in line for line in self.lines) == 1


class Forger(DatagramProtocol):
    """Between client and server; adds an accept of its own, and others, to every answer."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._clients: dict[int, tuple[str, int]] = {}

    def datagramReceived(self, datagram: bytes, source: Any) -> None:
        assert self.transport is not None
        if source != self._server:
            self._clients[datagram[1]] = source
            self.transport.write(datagram, self._server)
            return
        client = self._clients[datagram[1]]
        identifier = datagram[1:2]
        forged = [
            b"",
            b"\x02",
            datagram[:19],
            datagram[:-1],  # The length says more.
            b"\x02" + identifier + b"\x00\x16" + bytes(16) + b"\x06\x00",  # An attribute of length 0.
            b"\x02" + identifier + b"\x00\x15" + bytes(16) + b"\x06",  # Half of an attribute.
            b"\x02" + identifier + b"\x00\x16" + bytes(16) + b"\x06\x09",  # Longer than the packet.
            b"\x02" + identifier + b"\x00\x38" + bytes(16) + (b"\x50\x12" + bytes(16)) * 2,  # Two signatures.
            bytes((datagram[0], datagram[1] ^ 0x80)) + datagram[2:],
            b"\x05" + datagram[1:],
            b"\x02" + identifier + b"\x00\x14" + bytes(16),
            bytes((5 - datagram[0],)) + datagram[1:],  # The answer turned around.
        ]
        for each in [*forged, datagram]:
            self.transport.write(each, client)
