# SPDX-License-Identifier: GPL-2.0-or-later
"""Which mode judges what, and what is accepted; the AAA is a value."""

from __future__ import annotations

import dataclasses

import pytest
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.auth.chain import Anonymous as AnonymousClients
from ddtb6.auth.chain import Chain, offered
from ddtb6.auth.radius import RadiusUsers
from ddtb6.broker.ports import Accepted, NotMine, Principal, Rejected, Terms, Unavailable, Verdict
from ddtb6.config.sections import RADIUS_MODES
from ddtb6.sasl.credentials import Anonymous, Credentials, DigestProof, Plain
from ddtb6.sasl.digest import respond, user_secret
from ddtb6.sasl.mechanisms import mechanism

LINK = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.7", 40000))
REALM = "ddtb6"
ALICE = Principal("user:alice", "alice", Terms(by_radius=True))
PLAIN = Plain("alice", "hunter2")


def proof(password: str = "hunter2") -> DigestProof:
    made = mechanism("DIGEST-MD5", realm=REALM, nonce=lambda: b"nonce", version=(2, 0, 2))
    assert made is not None
    challenge = made.start()
    assert isinstance(challenge, bytes)
    credentials = made.respond(respond(challenge, "alice", password, "tsp/x", b"cnonce"))
    assert isinstance(credentials, DigestProof)
    return credentials


class FixedAaa:
    """Gives one answer to everything and notes what it was asked."""

    def __init__(self, verdict: Verdict, secret: bytes = b"") -> None:
        self.verdict, self.secret = verdict, secret
        self.asked: list[str] = []

    async def password(self, credentials: Plain, link: Link) -> Verdict:
        assert link is LINK
        self.asked.append(f"password {credentials.user}")
        return self.verdict

    async def digest(self, proof: DigestProof, link: Link) -> Verdict:
        assert link is LINK
        self.asked.append(f"digest {proof.user}")
        return self.verdict

    async def stored_digest(
        self, user: str, realm: str, link: Link
    ) -> tuple[Principal, bytes] | Rejected | Unavailable:
        assert link is LINK
        self.asked.append(f"stored {user} {realm}")
        if isinstance(self.verdict, Accepted):
            return self.verdict.principal, self.secret
        assert isinstance(self.verdict, Rejected | Unavailable)
        return self.verdict


class RadiusUsersTests(SynchronousTestCase):
    def ask(self, aaa: FixedAaa, credentials: Credentials, *modes: str, **options: bool) -> Verdict:
        judging = RadiusUsers(aaa, REALM, modes, **options).verify(credentials, LINK)
        return self.successResultOf(Deferred.fromCoroutine(judging))

    def test_each_mode_asks_in_its_way(self) -> None:
        for mode, credentials, asked in (
            ("pap", PLAIN, "password alice"),
            ("digest", proof(), "digest alice"),
            ("digest-draft", proof(), "digest alice"),
            ("ha1", proof(), "stored alice ddtb6"),
        ):
            for verdict in (Rejected("no", "No."), Unavailable("no answer")):
                aaa = FixedAaa(verdict)
                assert self.ask(aaa, credentials, mode) is verdict
                assert aaa.asked == [asked]

    def test_nothing_else_is_asked(self) -> None:
        aaa = FixedAaa(Accepted(ALICE))
        for modes, credentials in ((["pap"], proof()), (["digest"], PLAIN), (["pap", "ha1"], Anonymous())):
            assert self.ask(aaa, credentials, *modes) == NotMine()
        assert aaa.asked == []

    def test_password(self) -> None:
        accepted = Accepted(ALICE)
        assert self.ask(FixedAaa(accepted), PLAIN, "pap") is accepted

    def test_digest_needs_the_servers_proof(self) -> None:
        accepted = Accepted(ALICE, "0" * 32)
        assert self.ask(FixedAaa(accepted), proof(), "digest") is accepted
        unproved = Accepted(ALICE)
        verdict = self.ask(FixedAaa(unproved), proof(), "digest")
        assert isinstance(verdict, Rejected)
        assert "no Digest-Response-Auth" in verdict.why
        assert self.ask(FixedAaa(unproved), proof(), "digest", without_rspauth=True) is unproved

    def test_stored_digest_is_judged_here(self) -> None:
        aaa = FixedAaa(Accepted(ALICE), user_secret("alice", REALM, "hunter2"))
        verdict = self.ask(aaa, proof(), "ha1")
        assert isinstance(verdict, Accepted)
        assert verdict.principal is ALICE
        assert verdict.rspauth is not None
        assert len(verdict.rspauth) == 32
        assert self.ask(aaa, proof("hunter3"), "ha1") == Rejected("wrong password")

    def test_another_realm(self) -> None:
        aaa = FixedAaa(Accepted(ALICE, "0" * 32))
        for mode in ("digest", "ha1"):
            verdict = self.ask(aaa, dataclasses.replace(proof(), realm="elsewhere"), mode)
            assert verdict == Rejected("not the realm that was offered")
        assert aaa.asked == []

    def test_what_is_offered(self) -> None:
        """CAPABILITY names what the modes can judge, and no more."""
        everything = ("DIGEST-MD5", "PLAIN", "ANONYMOUS")
        for modes, mechanisms in (
            (("pap",), ("PLAIN",)),
            (("digest",), ("DIGEST-MD5",)),
            (("ha1", "pap"), ("PLAIN", "DIGEST-MD5")),
        ):
            users = RadiusUsers(FixedAaa(NotMine()), REALM, modes)
            assert offered(everything, Chain([users])) == mechanisms
            assert offered(everything, Chain([users, AnonymousClients()])) == ("ANONYMOUS", *mechanisms)


@pytest.mark.parametrize(
    "modes", [(), ("chap",), ("pap", "chap"), ("digest", "ha1"), ("pap", "digest", "digest-draft")]
)
def test_modes_that_cannot_be(modes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="no such modes, or two for one mechanism"):
        RadiusUsers(FixedAaa(NotMine()), REALM, modes)


def test_the_configuration_knows_the_same_modes() -> None:
    """The two packages do not import each other."""
    for mode, judged in RADIUS_MODES.items():
        assert RadiusUsers(FixedAaa(NotMine()), REALM, [mode]).mechanisms == {judged}
