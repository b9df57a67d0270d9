# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is asked, who is not, and what that gives."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.auth.chain import Anonymous, Chain, offered
from ddtb6.broker.ports import Accepted, NotMine, Principal, Rejected, Unavailable, Verdict
from ddtb6.sasl import credentials as sasl
from ddtb6.sasl.credentials import Credentials, Plain

LINK = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.7", 40000))
YES = Accepted(Principal(owner="user:alice", user="alice"))


class Fixed:
    """Gives one verdict and counts how often it was asked."""

    def __init__(self, verdict: Verdict, *mechanisms: str) -> None:
        self.mechanisms = frozenset(mechanisms or {"PLAIN"})
        self.asked = 0
        self._verdict = verdict

    async def verify(self, credentials: Credentials, link: Link) -> Verdict:
        assert credentials.mechanism in self.mechanisms
        assert link is LINK
        self.asked += 1
        return self._verdict


class ChainTests(SynchronousTestCase):
    def ask(self, *links: Fixed | Anonymous, credentials: Credentials | None = None) -> Verdict:
        judging = Chain(links).verify(credentials or Plain("alice", "p"), LINK)
        return self.successResultOf(Deferred.fromCoroutine(judging))

    def test_every_verdict_but_not_mine_ends_it(self) -> None:
        for verdict in (YES, Rejected("no"), Unavailable("later")):
            before, after = Fixed(NotMine()), Fixed(YES)
            assert self.ask(before, Fixed(verdict), after) is verdict
            assert (before.asked, after.asked) == (1, 0)

    def test_nobody_knows_the_account(self) -> None:
        assert self.ask(Fixed(NotMine()), Fixed(NotMine())) == Rejected("no such account")
        assert self.ask() == Rejected("no such account")

    def test_only_those_who_can_judge_are_asked(self) -> None:
        deaf, able = Fixed(YES, "DIGEST-MD5"), Fixed(Rejected("no"))
        assert self.ask(deaf, able) == Rejected("no")
        assert deaf.asked == 0
        assert self.ask(deaf, able, credentials=sasl.Anonymous()) == Rejected("no such account")

    def test_anonymous_beside_accounts(self) -> None:
        verdict = self.ask(Fixed(NotMine()), Anonymous(), credentials=sasl.Anonymous())
        assert verdict == Accepted(Principal(owner="anonymous:198.51.100.7:40000", user=None))
        assert self.ask(Fixed(NotMine()), Anonymous()) == Rejected("no such account")

    def test_a_chain_can_be_a_link(self) -> None:
        assert self.ask(Chain([Fixed(YES)])) is YES  # type: ignore[arg-type]


class AnonymousTests(SynchronousTestCase):
    def test_owner_is_the_outer_endpoint(self) -> None:
        for address, owner in (
            ("198.51.100.7", "anonymous:198.51.100.7:1"),
            ("2001:db8::7", "anonymous:[2001:db8::7]:1"),
        ):
            link = LINK._replace(remote=Endpoint(address, 1))
            verdict = self.successResultOf(Deferred.fromCoroutine(Anonymous().verify(sasl.Anonymous(), link)))
            assert isinstance(verdict, Accepted)
            assert verdict.principal == Principal(owner=owner, user=None)
            assert verdict.principal.anonymous

    def test_lets_no_account_in(self) -> None:
        assert self.successResultOf(Deferred.fromCoroutine(Anonymous().verify(Plain("a", "b"), LINK))) == NotMine()


ALL = ("DIGEST-MD5", "PLAIN", "ANONYMOUS")


@pytest.mark.parametrize(
    ("configured", "links", "advertised"),
    [
        (ALL, [Fixed(YES, "PLAIN", "DIGEST-MD5"), Anonymous()], ("ANONYMOUS", "PLAIN", "DIGEST-MD5")),
        (ALL, [Fixed(YES, "PLAIN", "DIGEST-MD5")], ("PLAIN", "DIGEST-MD5")),
        (ALL, [Anonymous()], ("ANONYMOUS",)),
        (("digest-md5",), [Fixed(YES, "PLAIN", "DIGEST-MD5")], ("DIGEST-MD5",)),
        (("PLAIN",), [Anonymous()], ()),
        ((), [Anonymous()], ()),
        (ALL, [], ()),
        (("SCRAM-SHA-256",), [Fixed(YES, "SCRAM-SHA-256")], ()),
    ],
)
def test_offered(configured: tuple[str, ...], links: list[Fixed | Anonymous], advertised: tuple[str, ...]) -> None:
    assert offered(configured, Chain(links)) == advertised
