# SPDX-License-Identifier: GPL-2.0-or-later
"""Local users over an account store in memory, and the lane with real threads."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.auth import local
from ddtb6.auth.local import LaneFull, LocalUsers, ThreadLane
from ddtb6.auth.passwords import hash_password
from ddtb6.broker.ports import Accepted, Account, NotMine, Principal, Rejected, StoreError, Unavailable, Verdict
from ddtb6.sasl.credentials import Anonymous, Credentials, DigestProof, Plain
from ddtb6.sasl.digest import encode_line, respond, user_secret
from ddtb6.sasl.mechanisms import mechanism

T = TypeVar("T")

LINK = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.7", 40000))
REALM = "ddtb6"
HASH = hash_password("hunter2")
ALICE = Account("alice", user_secret("alice", REALM, "hunter2"), HASH, disabled=False, created=0)


class Accounts:
    """The one method of an account store that log-ins use."""

    def __init__(self, *accounts: Account) -> None:
        self._by_name = {each.name: each for each in accounts}
        self.broken = False

    def find_account(self, name: str) -> Account | None:
        if self.broken:
            raise StoreError("the disk is full")
        return self._by_name.get(name)


def proof(user: str = "alice", password: str = "hunter2", realm: str = REALM) -> Credentials:
    made = mechanism("DIGEST-MD5", realm=realm, nonce=lambda: b"nonce", version=(2, 0, 2))
    assert made is not None
    challenge = made.start()
    assert isinstance(challenge, bytes)
    return made.respond(respond(challenge, user, password, "tsp/x", b"cnonce"))


class LocalUsersCase(SynchronousTestCase):
    """`work` is what was sent to a thread."""

    def setUp(self) -> None:
        self.work = 0
        self.accounts = Accounts(
            ALICE,
            dataclasses.replace(ALICE, name="off", disabled=True, digest=user_secret("off", REALM, "hunter2")),
            Account("digest-only", user_secret("digest-only", REALM, "hunter2"), None, disabled=False, created=0),
            Account("plain-only", None, HASH, disabled=False, created=0),
            Account("empty", None, None, disabled=False, created=0),
        )
        self.users = LocalUsers(self.accounts, REALM, self.in_thread)  # type: ignore[arg-type]

    def in_thread(self, work: Callable[[], bool]) -> Deferred[bool]:
        self.work += 1
        return succeed(work())

    def verdict(self, credentials: Credentials) -> Verdict:
        judging: Coroutine[Any, Any, Verdict] = self.users.verify(credentials, LINK)
        return self.successResultOf(Deferred.fromCoroutine(judging))


class DigestTests(LocalUsersCase):
    def test_right(self) -> None:
        verdict = self.verdict(proof())
        assert isinstance(verdict, Accepted)
        assert verdict.principal == Principal(owner="user:alice", user="alice")
        assert verdict.rspauth is not None
        assert len(verdict.rspauth) == 32
        assert self.work == 0

    def test_wrong_password(self) -> None:
        assert self.verdict(proof(password="hunter3")) == Rejected("wrong password")

    def test_unknown_account_costs_a_check_and_is_somebody_elses(self) -> None:
        checks = []
        check = local.digest.check
        self.patch(local.digest, "check", lambda *given: checks.append(given) or check(*given))
        assert self.verdict(proof(user="bob")) == NotMine()
        assert len(checks) == 1

    def test_disabled(self) -> None:
        assert self.verdict(proof(user="off")) == Rejected("the account is disabled")
        assert self.verdict(proof(user="off", password="x")) == Rejected("wrong password")

    def test_another_realm(self) -> None:
        verdict = self.verdict(proof(realm="other"))
        assert isinstance(verdict, Rejected)
        assert "realm" in verdict.why

    def test_account_without_secret(self) -> None:
        verdict = self.verdict(proof(user="plain-only"))
        assert isinstance(verdict, Rejected)
        assert "set its password" in verdict.why

    def test_the_verifier_of_nobody_is_not_a_way_in(self) -> None:
        made = DigestProof("plain-only", REALM, b"n", b"c", b"00000001", b"tsp/x", b"")
        right = local.digest._keyed(made, local.digest._session_key(made, local._NO_SECRET), b"AUTHENTICATE")
        assert isinstance(self.verdict(dataclasses.replace(made, response=right)), Rejected)
        assert self.verdict(dataclasses.replace(made, user="bob", response=right)) == NotMine()


class PlainTests(LocalUsersCase):
    def test_right(self) -> None:
        assert self.verdict(Plain("alice", "hunter2")) == Accepted(Principal(owner="user:alice", user="alice"))
        assert self.verdict(Plain("plain-only", "hunter2")) == Accepted(Principal("user:plain-only", "plain-only"))
        assert self.work == 2

    def test_wrong_password(self) -> None:
        for name in ("alice", "plain-only", "digest-only"):
            assert self.verdict(Plain(name, "hunter3")) == Rejected("wrong password")

    def test_unknown_account_costs_a_hash_and_is_somebody_elses(self) -> None:
        assert self.verdict(Plain("bob", "hunter2")) == NotMine()
        assert self.work == 1

    def test_unknown_account_costs_nothing_when_others_are_asked_next(self) -> None:
        self.users = LocalUsers(self.accounts, REALM, self.in_thread, last=False)  # type: ignore[arg-type]
        assert self.verdict(Plain("bob", "hunter2")) == NotMine()
        assert self.work == 0

    def test_account_with_digest_secret_only(self) -> None:
        assert isinstance(self.verdict(Plain("digest-only", "hunter2")), Accepted)
        assert self.work == 1, "it must take as long as any other"

    def test_account_without_any_secret(self) -> None:
        for password in ("", "hunter2"):
            assert self.verdict(Plain("empty", password)) == Rejected("the account has no password; set one")

    def test_disabled(self) -> None:
        assert self.verdict(Plain("off", "hunter2")) == Rejected("the account is disabled")

    def test_too_many_at_once(self) -> None:
        self.users = LocalUsers(self.accounts, REALM, lambda _: fail(LaneFull()))  # type: ignore[arg-type]
        assert isinstance(self.verdict(Plain("alice", "hunter2")), Unavailable)

    def test_the_stand_in_hash_is_a_real_one(self) -> None:
        """Else verification would end early, and tell unknown accounts from known ones."""
        runs = []
        self.patch(local, "verify_password", lambda password, stored: runs.append(stored) or False)
        self.verdict(Plain("bob", "hunter2"))
        self.verdict(Plain("digest-only", "hunter2"))
        assert runs == [local._NO_PASSWORD] * 2
        assert [len(part) for part in local._NO_PASSWORD.split("$")] == [len(part) for part in HASH.split("$")]
        assert local._NO_PASSWORD.startswith("scrypt$16384$8$1$")


class OtherTests(LocalUsersCase):
    def test_anonymous_is_somebody_elses(self) -> None:
        assert self.verdict(Anonymous()) == NotMine()

    def test_a_store_that_cannot_be_read(self) -> None:
        self.accounts.broken = True
        for credentials in (proof(), Plain("alice", "hunter2")):
            verdict = self.verdict(credentials)
            assert isinstance(verdict, Unavailable)
            assert "the disk is full" in verdict.why

    def test_verdicts_hold_no_secret(self) -> None:
        for user in ("alice", "off", "digest-only", "plain-only", "empty", "bob"):
            for password in ("hunter2", "hunter3"):
                for credentials in (Plain(user, password), proof(user=user, password=password)):
                    shown = repr(self.verdict(credentials)) + repr(credentials)
                    assert password not in shown
                    assert HASH not in shown

    def test_undecodable_proof_never_gets_here(self) -> None:
        """The mechanism refuses it; what it lets through can be looked up in any store."""
        made = mechanism("DIGEST-MD5", realm=REALM, nonce=lambda: b"n", version=(2, 0, 2))
        assert made is not None
        made.start()
        line = encode_line(
            b'username="\'; drop table",realm="ddtb6",nonce="n",nc=00000001,cnonce="c",digest-uri="x",response='
            + b"0" * 32
        )
        assert self.verdict(made.respond(line)) == NotMine()


class Reactor:
    """Takes calls from threads; the test runs them."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], object]] = queue.Queue()

    def callFromThread(self, f: Callable[..., object], *args: object, **kwargs: object) -> None:
        self._calls.put(lambda: f(*args, **kwargs))

    def run_one(self) -> None:
        self._calls.get(timeout=30)()


class ThreadLaneTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.lane = ThreadLane(self.reactor, threads=2, limit=3)  # type: ignore[arg-type]
        self.lane.start()
        self.addCleanup(self.lane.stop)
        self.gate = threading.Event()
        self.addCleanup(self.gate.set)

    def wait(self, result: T) -> T:
        assert self.gate.wait(30)
        return result

    def test_gives_what_the_work_returns_from_another_thread(self) -> None:
        answer = self.lane(threading.get_ident)
        self.reactor.run_one()
        assert self.successResultOf(answer) != threading.get_ident()
        answer2 = self.lane(int, "20", base=16)
        self.reactor.run_one()
        assert self.successResultOf(answer2) == 32

    def test_gives_what_the_work_raises(self) -> None:
        answer = self.lane(int, "x")
        self.reactor.run_one()
        self.failureResultOf(answer, ValueError)

    def test_is_bounded_and_recovers(self) -> None:
        answers = [self.lane(self.wait, each) for each in range(3)]
        self.failureResultOf(self.lane(self.wait, 3), LaneFull)
        self.gate.set()
        for _ in answers:
            self.reactor.run_one()
        assert [self.successResultOf(each) for each in answers] == [0, 1, 2]
        answer = self.lane(self.wait, 4)
        self.reactor.run_one()
        assert self.successResultOf(answer) == 4

    def test_cancelled_work_stays_counted_until_it_is_done(self) -> None:
        for each in range(3):
            answer = self.lane(self.wait, each)
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
        self.failureResultOf(self.lane(self.wait, 3), LaneFull)
        self.gate.set()
        for _ in range(3):
            self.reactor.run_one()
        answer = self.lane(self.wait, 4)
        self.reactor.run_one()
        assert self.successResultOf(answer) == 4

    def test_work_handed_in_before_the_start_waits(self) -> None:
        lane = ThreadLane(self.reactor, limit=1)  # type: ignore[arg-type]
        answer = lane(str, 7)
        self.assertNoResult(answer)
        lane.start()
        self.addCleanup(lane.stop)
        self.reactor.run_one()
        assert self.successResultOf(answer) == "7"

    def test_with_local_users(self) -> None:
        users = LocalUsers(Accounts(ALICE), REALM, self.lane)  # type: ignore[arg-type]
        judging = [Deferred.fromCoroutine(users.verify(Plain("alice", "hunter2"), LINK)) for _ in range(4)]
        assert isinstance(self.successResultOf(judging[3]), Unavailable)
        for each in judging[:3]:
            self.assertNoResult(each)
        for _ in range(3):
            self.reactor.run_one()
        for each in judging[:3]:
            assert isinstance(self.successResultOf(each), Accepted)
