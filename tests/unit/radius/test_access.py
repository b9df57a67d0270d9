# SPDX-License-Identifier: GPL-2.0-or-later
"""Log-ins as requests, attribute by attribute, and answers as verdicts; over UDP in memory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from support.memory_udp import MemoryUdp, reply_to
from support.virtual import VirtualClock
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker.ports import Accepted, Principal, Rejected, Terms, Unavailable
from ddtb6.radius.access import RadiusAccess
from ddtb6.radius.attributes import Attribute
from ddtb6.radius.exchange import RadiusClient, Server
from ddtb6.radius.nas import TICKS, Nas, SessionNames
from ddtb6.radius.packets import Code
from ddtb6.sasl.credentials import DigestProof, Plain

SECRET = b"xyzzy5461"
LINK = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.7", 40000))
NAS = Nas("broker.example", port_id="ddtb6")
PROOF = DigestProof(
    user="zoë",
    realm="ddtb6",
    nonce=b"nonce",
    cnonce=b"0x41",
    nonce_count=b"00000001",
    digest_uri=b"tsp/broker.example",
    response=b"0123456789abcdef" * 2,
)
NAME = 1_700_001_000 * TICKS
"""Of the first log-in."""
BILLED = Terms(by_radius=True, account_session=NAME)


class AccessCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.udp = MemoryUdp()
        self.names = SessionNames(VirtualClock())
        self.client = RadiusClient(self.udp, self.udp, [Server("one", "192.0.2.9", 1812, SECRET)])

    def sent(self) -> list[tuple[int, bytes]]:
        """The attributes of the last request, behind the Message-Authenticator."""
        octets, split = self.udp.sent[-1][1][20:], []
        while octets:
            split.append((octets[0], octets[2 : octets[1]]))
            octets = octets[octets[1] :]
        assert split[0][0] == 80
        return split[1:]

    def password(
        self, code: Code, *attributes: Attribute, nas: Nas = NAS, link: Link = LINK, obey_interim: bool = True
    ) -> Any:
        access = RadiusAccess(self.client, nas, self.names, obey_interim=obey_interim)
        return self.answered(access.password(Plain("alice", "secret"), link), code, *attributes)

    def digest(self, code: Code, *attributes: Attribute, draft: bool = False, proof: DigestProof = PROOF) -> Any:
        return self.answered(
            RadiusAccess(self.client, NAS, self.names, draft=draft).digest(proof, LINK), code, *attributes
        )

    def stored_digest(self, code: Code, *attributes: Attribute) -> Any:
        return self.answered(
            RadiusAccess(self.client, NAS, self.names).stored_digest("zoë", "ddtb6", LINK), code, *attributes
        )

    def answered(self, asking: Any, code: Code, *attributes: Attribute) -> Any:
        asked = Deferred.fromCoroutine(asking)
        port, datagram, to = self.udp.sent[-1]
        port.protocol.datagramReceived(reply_to(datagram, SECRET, code, *attributes), to)
        return self.successResultOf(asked)


class RequestTests(AccessCase):
    COMMON = (
        (44, f"{NAME:016x}".encode()),
        (5, (NAME & 0xFFFF_FFFF).to_bytes(4)),
        (32, b"broker.example"),
        (6, b"\0\0\0\2"),
        (61, b"\0\0\0\5"),
        (87, b"ddtb6"),
        (31, b"198.51.100.7:40000"),
        (30, b"192.0.2.1:3653"),
        (64, b"\0\0\0\x0c"),
        (65, b"\0\0\0\1"),
        (66, b"198.51.100.7"),
        (67, b"192.0.2.1"),
        (77, b"TSP/udp"),
    )

    def test_password(self) -> None:
        self.password(Code.ACCESS_REJECT)
        (name, user), (number, hidden), *rest = self.sent()
        assert (name, user, number, len(hidden)) == (1, b"alice", 2, 16)
        assert b"secret" not in self.udp.sent[-1][1]
        assert tuple(rest) == self.COMMON

    def test_digest_by_the_numbers_of_rfc_5090(self) -> None:
        self.digest(Code.ACCESS_REJECT)
        assert self.sent()[:11] == [
            (1, "zoë".encode()),
            (103, PROOF.response),
            (104, b"ddtb6"),
            (105, b"nonce"),
            (108, b"AUTHENTICATE"),
            (109, b"tsp/broker.example"),
            (110, b"auth"),
            (111, b"md5-sess"),
            (113, b"0x41"),
            (114, b"00000001"),
            (115, "zoë".encode()),
        ]
        assert tuple(self.sent()[11:]) == self.COMMON

    def test_digest_by_those_of_the_draft(self) -> None:
        self.digest(Code.ACCESS_REJECT, draft=True)
        assert self.sent()[:11] == [
            (1, "zoë".encode()),
            (206, PROOF.response),
            (207, b"\x01\x07ddtb6"),
            (207, b"\x02\x07nonce"),
            (207, b"\x03\x0eAUTHENTICATE"),
            (207, b"\x04\x14tsp/broker.example"),
            (207, b"\x05\x06auth"),
            (207, b"\x06\x0amd5-sess"),
            (207, b"\x08\x060x41"),
            (207, b"\x09\x0a00000001"),
            (207, b"\x0a\x06" + "zoë".encode()),
        ]

    def test_asking_for_the_stored_digest_shows_no_credentials(self) -> None:
        self.stored_digest(Code.ACCESS_REJECT)
        assert self.sent()[:2] == [(1, "zoë".encode()), (104, b"ddtb6")]
        assert (6, b"\0\0\0\x0a") in self.sent()
        assert {number for number, _ in self.sent()} & {2, 103, 105, 206, 207} == set()

    def test_everything_that_can_be_said_of_us(self) -> None:
        nas = Nas(
            "n" * 300,
            IPv4Address("192.0.2.1"),
            IPv6Address("2001:db8::1"),
            calling_port=False,
            framed_protocol=1,
        )
        link = Link(Carrier.TCP, Endpoint("2001:db8::1", 3653), Endpoint("2001:db8::7", 1))
        self.password(Code.ACCESS_REJECT, nas=nas, link=link)
        sent = dict(self.sent())
        assert sent[32] == b"n" * 253
        assert (sent[4], sent[95], sent[7]) == (b"\xc0\0\2\1", IPv6Address("2001:db8::1").packed, b"\0\0\0\1")
        assert (sent[31], sent[30], sent[65]) == (b"2001:db8::7", b"[2001:db8::1]:3653", b"\0\0\0\2")
        assert sent[77] == b"TSP/tcp"
        assert 87 not in sent

    def test_what_does_not_fit(self) -> None:
        access = RadiusAccess(self.client, NAS, self.names)
        long = replace(PROOF, digest_uri=b"tsp/" + b"x" * 250)
        for asking in (
            access.password(Plain("alice", "é" * 65), LINK),
            access.digest(long, LINK),
            RadiusAccess(self.client, NAS, self.names, draft=True).digest(replace(PROOF, cnonce=b"x" * 252), LINK),
        ):
            verdict = self.successResultOf(Deferred.fromCoroutine(asking))
            assert isinstance(verdict, Rejected)
            assert verdict.why.startswith("the log-in does not fit into RADIUS: ")
        assert self.udp.sent == []


class AnswerTests(AccessCase):
    def test_accept(self) -> None:
        assert self.password(Code.ACCESS_ACCEPT) == Accepted(Principal("user:alice", "alice", BILLED))

    def test_the_servers_name_for_the_user(self) -> None:
        terms = replace(BILLED, billed_as="Alice@isp")
        verdict = self.password(Code.ACCESS_ACCEPT, ("User-Name", "Alice@isp"))
        assert verdict == Accepted(Principal("user:Alice@isp", "Alice@isp", terms))

    def test_terms(self) -> None:
        verdict = self.password(Code.ACCESS_ACCEPT, ("Session-Timeout", 60), ("Acct-Interim-Interval", 600))
        assert verdict.principal.terms == replace(BILLED, session_limit=60.0, interim_interval=600.0)
        verdict = self.password(Code.ACCESS_ACCEPT, ("Acct-Interim-Interval", 600), obey_interim=False)
        assert verdict.principal.terms.interim_interval is None

    def test_another_service_is_no_accept(self) -> None:
        """RFC 2865 section 5.6: an unsupported Service-Type is to be treated as a reject."""
        assert isinstance(self.password(Code.ACCESS_ACCEPT, ("Service-Type", "Framed-User")), Accepted)
        for service in (1, 6, 10):
            verdict = self.password(Code.ACCESS_ACCEPT, ("Service-Type", service))
            assert verdict == Rejected(
                f"the accept of RADIUS server one cannot be used: Service-Type {service} is not what a tunnel is"
            )

    def test_what_cannot_be_used(self) -> None:
        for attribute in (("Session-Timeout", b"\0"), ("Service-Type", b"\0"), ("Framed-IPv6-Route", "here")):
            verdict = self.password(Code.ACCESS_ACCEPT, attribute)
            assert isinstance(verdict, Rejected)
            assert verdict.why.startswith(f"the accept of RADIUS server one cannot be used: {attribute[0]} ")

    def test_reject(self) -> None:
        assert self.password(Code.ACCESS_REJECT) == Rejected("refused by RADIUS server one")
        verdict = self.password(Code.ACCESS_REJECT, ("Reply-Message", "No."), ("Reply-Message", "Pay first."))
        assert verdict == Rejected("refused by RADIUS server one: No. Pay first.", "No. Pay first.")

    def test_reply_message_is_one_short_printable_line(self) -> None:
        for raw, shown in (
            (b"a\r\nb\0c\x1b[31m \t d", "a b c [31m d"),
            (b"caf\xc3\xa9 \xff", "café �"),
            ("\u202eevil\u2028x".encode(), "evil x"),
            (b"\n\n", ""),
            (b"x" * 253, "x" * 200),
        ):
            verdict = self.password(Code.ACCESS_REJECT, ("Reply-Message", raw))
            assert verdict.message == shown
            assert verdict.why.isprintable()

    def test_challenge(self) -> None:
        verdict = self.password(Code.ACCESS_CHALLENGE, ("State", b"s"))
        assert isinstance(verdict, Rejected)
        assert "Access-Challenge" in verdict.why

    def test_no_answer(self) -> None:
        asked = Deferred.fromCoroutine(
            RadiusAccess(self.client, NAS, self.names).password(Plain("alice", "secret"), LINK)
        )
        self.udp.pass_time(8)
        assert self.successResultOf(asked) == Unavailable("no answer from RADIUS: one: no answer")
        for asking in (
            RadiusAccess(self.client, NAS, self.names).digest(PROOF, LINK),
            RadiusAccess(self.client, NAS, self.names).stored_digest("zoë", "ddtb6", LINK),
        ):
            verdict = self.successResultOf(Deferred.fromCoroutine(asking))
            assert verdict == Unavailable("no answer from RADIUS: no RADIUS server is alive")

    def test_rspauth(self) -> None:
        verdict = self.digest(Code.ACCESS_ACCEPT, ("Digest-Response-Auth", "0123456789ABCDEF" * 2))
        assert verdict == Accepted(Principal("user:zoë", "zoë", BILLED), "0123456789abcdef" * 2)
        assert self.digest(Code.ACCESS_ACCEPT).rspauth is None
        for wrong in ("0" * 31, "0" * 33, "g" * 32, '"' + "0" * 32 + '"', b"\xff" * 32):
            verdict = self.digest(Code.ACCESS_ACCEPT, ("Digest-Response-Auth", wrong))
            assert isinstance(verdict, Rejected), wrong
        assert isinstance(self.digest(Code.ACCESS_REJECT, ("Digest-Response-Auth", "0" * 32)), Rejected)

    def test_stored_digest(self) -> None:
        secret = "0123456789abcdef" * 2
        for number, attributes in enumerate(([], [("Service-Type", 10)])):
            found = self.stored_digest(Code.ACCESS_ACCEPT, ("Digest-HA1", secret), *attributes)
            terms = replace(BILLED, account_session=NAME + number)
            assert found == (Principal("user:zoë", "zoë", terms), bytes.fromhex(secret))
        for attributes in ([], [("Digest-HA1", "none")], [("Digest-HA1", secret), ("Session-Timeout", b"\0")]):
            verdict = self.stored_digest(Code.ACCESS_ACCEPT, *attributes)
            assert isinstance(verdict, Rejected)
            assert secret not in repr(verdict)
        assert self.stored_digest(Code.ACCESS_REJECT) == Rejected("refused by RADIUS server one")
