# SPDX-License-Identifier: GPL-2.0-or-later
"""Retransmission, fail-over, death and revival, signing policies and limits, under virtual time over UDP in memory."""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from support.memory_udp import MemoryUdp, Port, reply_to
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ddtb6.radius import lane, peer
from ddtb6.radius.attributes import Attribute, Unencodable
from ddtb6.radius.exchange import NoAnswer, RadiusClient, Server, Timing
from ddtb6.radius.packets import Code, Reply

SECRET = b"xyzzy5461"
ONE, TWO = ("192.0.2.1", 1812), ("2001:db8::2", 1645)
TIMING = Timing(timeout=1.0, tries=3, patience=15.0, dead_time=30.0, probe_interval=10.0)
ATTRIBUTES: list[Attribute] = [("User-Name", "alice"), ("User-Password", b"secret")]


class ExchangeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.udp = MemoryUdp()
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self._note)
        self.addCleanup(globalLogPublisher.removeObserver, self._note)

    def _note(self, event: dict[str, Any]) -> None:
        text = event.get("log_format") or ""
        if text.startswith("RADIUS server"):
            self.lines.append(text.format(**event))

    def client(self, *servers: Server, timing: Timing = TIMING) -> RadiusClient:
        """Without jitter: a random number of a half is none."""
        servers = servers or (Server("one", *ONE, SECRET), Server("two", *TWO, SECRET))
        numbers = iter(range(1, 1 << 30))
        return RadiusClient(
            self.udp,
            self.udp,
            servers,
            timing,
            [("NAS-Identifier", "tests")],
            entropy=lambda size: next(numbers).to_bytes(size),
            jitter=lambda: 0.5,
        )

    def ask(
        self, client: RadiusClient, attributes: list[Attribute] | None = None, tries: int | None = None
    ) -> Deferred[Reply]:
        given = ATTRIBUTES if attributes is None else attributes
        return Deferred.fromCoroutine(client.exchange(Code.ACCESS_REQUEST, lambda: given, tries=tries))

    def answer(self, index: int = -1, code: Code = Code.ACCESS_ACCEPT, *attributes: Attribute, **how: Any) -> None:
        """The server that the datagram sent as number `index` went to answers it."""
        port, datagram, to = self.udp.sent[index]
        self.deliver(port, reply_to(datagram, SECRET, code, *attributes, **how), to)

    def deliver(self, port: Port, datagram: bytes, source: tuple[str, int]) -> None:
        port.protocol.datagramReceived(datagram, source)

    def destinations(self) -> list[tuple[str, int]]:
        return [to for _, _, to in self.udp.sent]

    def answering(
        self, *addresses: tuple[str, int], after: float = 0.0
    ) -> Callable[[Port, bytes, tuple[str, int]], None]:
        """Servers at `addresses` answer, `after` seconds."""

        def answer(port: Port, datagram: bytes, to: tuple[str, int]) -> None:
            if to in addresses:
                self.udp.callLater(after, self.deliver, port, reply_to(datagram, SECRET, Code.ACCESS_ACCEPT), to)

        return answer


class RetransmissionTests(ExchangeCase):
    def test_answer(self) -> None:
        client = self.client()
        asked = self.ask(client)
        self.assertNoResult(asked)
        assert self.destinations() == [ONE]
        self.udp.advance(0.25)
        self.answer(-1, Code.ACCESS_REJECT, ("Reply-Message", "no"))
        reply = self.successResultOf(asked)
        assert (reply.code, reply.server, reply.signed) == (Code.ACCESS_REJECT, "one", True)
        assert reply.attributes.text("Reply-Message") == "no"
        assert self.udp.getDelayedCalls() == []
        one, two = client.states()
        assert (one.alive, one.answered_ago, one.round_trip, one.in_flight, one.signs) == (True, 0.0, 0.25, 0, True)
        assert one.counters == {"sent": 1, "answered": 1}
        assert (two.alive, two.answered_ago, two.round_trip, two.signs, two.counters) == (True, None, None, None, {})

    def test_same_octets_at_doubling_intervals(self) -> None:
        self.ask(self.client(Server("one", *ONE, SECRET))).addErrback(lambda failure: failure.trap(NoAnswer))
        times = []
        for _ in range(200):
            if len(self.udp.sent) > len(times) and self.udp.sent[-1][1][0] == Code.ACCESS_REQUEST:
                times.append(self.udp.seconds())
            self.udp.advance(0.0625)
        assert times == [0.0, 1.0, 3.0]
        assert len({datagram for _, datagram, _ in self.udp.sent[:3]}) == 1
        assert len({port for port, _, _ in self.udp.sent[:3]}) == 1

    def test_an_answer_to_any_of_the_copies(self) -> None:
        client = self.client()
        asked = self.ask(client)
        self.udp.pass_time(3.5)
        self.answer(0)
        assert self.successResultOf(asked).server == "one"
        self.answer(1)
        (one, _) = client.states()
        assert one.counters == {"sent": 1, "retransmitted": 2, "answered": 1, "not-expected": 1}
        assert one.round_trip is None

    def test_jitter_is_a_tenth(self) -> None:
        for jitter, at in ((0.0, 0.9), (1.0, 1.1)):
            udp = MemoryUdp()
            client = RadiusClient(udp, udp, [Server("one", *ONE, SECRET)], TIMING, jitter=lambda jitter=jitter: jitter)
            asked = self.ask(client)
            udp.advance(at - 0.01)
            assert len(udp.sent) == 1
            udp.advance(0.02)
            assert len(udp.sent) == 2
            self.successResultOf(Deferred.fromCoroutine(client.close()))
            self.failureResultOf(asked, NoAnswer)

    def test_identifiers_come_back_last_of_all(self) -> None:
        self.udp.answer = self.answering(ONE)
        client = self.client()
        for _ in range(1024):
            asked = self.ask(client)
            self.udp.advance(0)
            self.successResultOf(asked)
        used = {(id(port), datagram[1]) for port, datagram, _ in self.udp.sent}
        assert len(used) == 1024
        assert len(self.udp.ports) == 4

    def test_cancelled(self) -> None:
        client = self.client()
        asked = [self.ask(client) for _ in range(peer.FIRST_WINDOW + 2)]
        for each in (asked[0], asked[-1]):
            each.cancel()
            self.failureResultOf(each)
        (one, _) = client.states()
        assert (one.in_flight, one.queued) == (peer.FIRST_WINDOW, 0)
        self.answer(0)
        assert client.states()[0].counters["not-expected"] == 1


class FailOverTests(ExchangeCase):
    def test_next_server_gets_a_packet_of_its_own(self) -> None:
        asked = self.ask(self.client())
        self.udp.pass_time(7.1)
        assert self.destinations()[:3] == [ONE] * 3
        assert self.destinations()[-1] == TWO
        first, second = self.udp.sent[0][1], self.udp.sent[-1][1]
        assert first[4:20] != second[4:20]
        assert self.udp.sent[-1][0].interface == "::"
        self.answer()
        assert self.successResultOf(asked).server == "two"
        assert len(self.lines) == 1
        assert "one (192.0.2.1:1812) does not answer" in self.lines[0]

    def test_the_dead_one_is_passed_over(self) -> None:
        client = self.client()
        self.ask(client)
        self.udp.pass_time(7.1)
        del self.udp.sent[:]
        asked = self.ask(client)
        assert self.destinations() == [TWO]
        self.answer()
        self.successResultOf(asked)

    def test_one_lost_request_is_no_death(self) -> None:
        client = self.client()
        lost = self.ask(client)
        self.udp.pass_time(3)
        other = self.ask(client)
        self.answer()
        self.successResultOf(other)
        self.udp.pass_time(4.1)
        assert self.destinations()[-1] == TWO
        assert client.states()[0].alive
        self.answer()
        assert self.successResultOf(lost).server == "two"
        assert self.lines == []

    def test_nobody_answers(self) -> None:
        """The end comes within the patience; then at once, until somebody is due for a trial."""
        client = self.client()
        asked = self.ask(client)
        self.udp.pass_time(14.5)
        failure = self.failureResultOf(asked, NoAnswer)
        assert failure.getErrorMessage() == "one: no answer; two: no answer"
        for _ in range(1000):
            assert self.failureResultOf(self.ask(client), NoAnswer).getErrorMessage() == "no RADIUS server is alive"
        assert len(self.udp.getDelayedCalls()) <= 4
        assert len(self.udp.open_ports()) <= 8
        assert len(self.lines) == 2

    def test_patience_ends_it_whoever_is_left(self) -> None:
        client = self.client(timing=Timing(patience=8.0))
        asked = self.ask(client)
        self.udp.pass_time(7.95)
        self.assertNoResult(asked)
        self.udp.pass_time(0.1)
        self.failureResultOf(asked, NoAnswer)
        assert [each.alive for each in client.states()] == [False, True], "a second is too short to be called dead"

    def test_a_trial_when_the_dead_time_is_over(self) -> None:
        """One request at a time finds out whether a server that knows no Status-Server lives again."""
        client = self.client()
        self.ask(client)
        self.udp.pass_time(7.1)
        self.answer()
        self.udp.pass_time(30)
        del self.udp.sent[:]
        trial, other = self.ask(client), self.ask(client)
        assert self.destinations() == [ONE, TWO]
        self.answer(1)
        self.successResultOf(other)
        self.answer(0)
        assert self.successResultOf(trial).server == "one"
        assert client.states()[0].alive
        assert "answers again, after 30 s" in self.lines[-1]

    def test_a_failed_trial(self) -> None:
        client = self.client()
        self.ask(client)
        self.udp.pass_time(7.1)
        self.answer()
        self.udp.pass_time(30)
        trial = self.ask(client)
        self.udp.pass_time(7.1)
        self.answer(max(index for index, to in enumerate(self.destinations()) if to == TWO))
        assert self.successResultOf(trial).server == "two"
        del self.udp.sent[:]
        self.ask(client)
        assert self.destinations() == [TWO]
        assert len(self.lines) == 1

    def test_no_route(self) -> None:
        self.udp.error = errno.ENETUNREACH
        client = self.client()
        asked = self.ask(client)
        self.udp.advance(0)
        self.udp.advance(0)
        failure = self.failureResultOf(asked, NoAnswer)
        assert failure.getErrorMessage() == "one: as the test wants it; two: as the test wants it"
        assert client.states()[0].counters == {"not-sent": 2, "unanswered": 2}  # One of them a Status-Server.

    def test_a_full_buffer_is_a_lost_datagram(self) -> None:
        self.udp.error = errno.EAGAIN
        asked = self.ask(self.client())
        self.udp.advance(0.5)
        self.udp.error = None
        self.udp.advance(0.6)
        self.answer()
        assert self.successResultOf(asked).server == "one"

    def test_no_sockets(self) -> None:
        self.udp.most_ports = 0
        failure = self.failureResultOf(self.ask(self.client()), NoAnswer)
        assert "no socket can be opened" in failure.getErrorMessage()

    def test_fewer_sockets_do_as_well(self) -> None:
        self.udp.most_ports = 1
        client = self.client()
        asked = [self.ask(client) for _ in range(3)]
        assert len(self.udp.sent) == 3
        for index in range(3):
            self.answer(index)
        assert [self.successResultOf(each).server for each in asked] == ["one"] * 3

    def test_what_cannot_be_encoded_is_the_callers(self) -> None:
        client = self.client()
        self.failureResultOf(self.ask(client, [("User-Name", "x" * 254)]), Unencodable)
        assert self.udp.sent == []
        assert client.states()[0].in_flight == 0

    def test_no_servers(self) -> None:
        client = RadiusClient(self.udp, self.udp, [])
        self.failureResultOf(self.ask(client), NoAnswer)

    def test_names_are_not_looked_up(self) -> None:
        with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
            self.client(Server("one", "radius.example", 1812, SECRET))


class StatusServerTests(ExchangeCase):
    def dead(self) -> RadiusClient:
        """A client whose only server has died."""
        client = self.client(Server("one", *ONE, SECRET))
        self.failureResultOf(self._after(self.ask(client), 7.1), NoAnswer)
        return client

    def _after(self, asked: Deferred[Reply], seconds: float) -> Deferred[Reply]:
        self.udp.pass_time(seconds)
        return asked

    def probes(self) -> list[bytes]:
        return [datagram for _, datagram, _ in self.udp.sent if datagram[0] == Code.STATUS_SERVER]

    def test_each_probe_is_a_new_packet(self) -> None:
        """RFC 5997 section 4.2 and 3: signed, says who asks, never sent again."""
        self.dead()
        self.udp.pass_time(35)
        probes = self.probes()
        assert len(probes) == 4
        assert len({datagram[4:20] for datagram in probes}) == 4
        assert all(datagram[20] == 80 and datagram.endswith(b"tests") for datagram in probes)

    def test_an_answer_revives(self) -> None:
        client = self.dead()
        assert self.udp.sent[-1][1][0] == Code.STATUS_SERVER
        self.udp.advance(1)
        self.answer()
        assert client.states()[0].alive
        assert self.udp.getDelayedCalls() == []
        asked = self.ask(client)
        self.answer()
        self.successResultOf(asked)
        assert "answers again, after 1 s" in self.lines[-1]

    def test_a_late_answer_to_a_probe_counts_while_the_identifier_waits(self) -> None:
        client = self.dead()
        self.udp.advance(4.5)
        self.answer()
        assert client.states()[0].alive

    def test_who_answers_status_is_tried_with_nothing_else(self) -> None:
        client = self.dead()
        self.answer()
        self.failureResultOf(self._after(self.ask(client), 7.1), NoAnswer)
        self.udp.pass_time(100)
        self.failureResultOf(self.ask(client), NoAnswer)
        assert self.udp.sent[-1][1][0] == Code.STATUS_SERVER

    def test_who_answers_status_no_more_is_not_given_up_for_ever(self) -> None:
        client = self.dead()
        self.answer()
        self.failureResultOf(self._after(self.ask(client), 7.1), NoAnswer)
        self.udp.pass_time(301)
        asked = self.ask(client)
        assert self.udp.sent[-1][1][0] == Code.ACCESS_REQUEST
        self.answer()
        self.successResultOf(asked)
        assert client.states()[0].alive

    def test_forged_answers_revive_nobody(self) -> None:
        client = self.dead()
        port, datagram, to = self.udp.sent[-1]
        self.deliver(port, reply_to(datagram, b"another", Code.ACCESS_ACCEPT), to)
        assert not client.states()[0].alive

    def test_asked_for(self) -> None:
        client = self.client()
        probing = Deferred.fromCoroutine(client.probe())
        self.udp.advance(0.125)
        self.answer()
        self.udp.pass_time(2.1)
        assert self.successResultOf(probing) == [("one", 0.125), ("two", None)]
        assert [each.alive for each in client.states()] == [True, True]

    def test_without_sockets_the_probing_goes_on(self) -> None:
        client = self.dead()
        self.udp.most_ports = 0
        self.successResultOf(Deferred.fromCoroutine(client.close()))
        assert self.udp.getDelayedCalls() == []


class ForgeryTests(ExchangeCase):
    def test_the_waiting_goes_on(self) -> None:
        client = self.client()
        asked = self.ask(client)
        port, datagram, to = self.udp.sent[0]
        genuine = reply_to(datagram, SECRET, Code.ACCESS_ACCEPT)
        for forged, source in (
            (genuine, ("192.0.2.66", 1812)),
            (genuine, (ONE[0], 1813)),
            (b"", to),
            (b"\x02", to),
            (genuine[:-1], to),
            (reply_to(datagram, b"another", Code.ACCESS_ACCEPT), to),
            (reply_to(datagram, SECRET, Code.ACCESS_ACCEPT, identifier=datagram[1] ^ 1), to),
            (reply_to(datagram, SECRET, Code.ACCOUNTING_RESPONSE), to),
            (_with_wrong_signature(datagram), to),
        ):
            self.deliver(port, forged, source)
        self.assertNoResult(asked)
        self.deliver(port, genuine, to)
        assert self.successResultOf(asked).code is Code.ACCESS_ACCEPT
        assert client.states()[0].counters == {
            "sent": 1,
            "answered": 1,
            "wrong-source": 2,
            "malformed": 3,
            "wrong-authenticator": 1,
            "not-expected": 1,
            "wrong-code": 1,
            "wrong-message-authenticator": 1,
        }

    def test_wrong_secret_is_said_once_a_minute(self) -> None:
        client = self.client(Server("one", *ONE, SECRET))
        for _ in range(10):
            self.ask(client).addErrback(lambda failure: failure.trap(NoAnswer))
            for port, datagram, to in list(self.udp.sent):
                self.deliver(port, reply_to(datagram, b"another", Code.ACCESS_REJECT), to)
            self.udp.pass_time(5)
        told = [line for line in self.lines if "our shared secret" in line]
        assert len(told) == 1
        assert "one (192.0.2.1:1812)" in told[0]
        assert not any("xyzzy" in line for line in self.lines)
        assert not client.states()[0].alive
        self.udp.pass_time(30)
        for port, datagram, to in self.udp.sent[-1:]:
            self.deliver(port, reply_to(datagram, b"another", Code.ACCESS_ACCEPT), to)
        assert len([line for line in self.lines if "our shared secret" in line]) == 2

    def test_a_forger_does_not_make_the_secret_look_wrong(self) -> None:
        client = self.client()
        first = self.ask(client)
        self.answer()
        self.successResultOf(first)
        self.ask(client)
        port, datagram, to = self.udp.sent[-1]
        self.deliver(port, reply_to(datagram, b"another", Code.ACCESS_ACCEPT), to)
        assert self.lines == []


def _with_wrong_signature(datagram: bytes) -> bytes:
    body = b"\x50\x12" + bytes(16)
    head = struct.pack("!BBH", 2, datagram[1], 38)
    return head + hashlib.md5(head + datagram[4:20] + body + SECRET).digest() + body


class SigningTests(ExchangeCase):
    def policy(self, policy: str) -> RadiusClient:
        return self.client(Server("one", *ONE, SECRET, policy))

    def exchange(self, client: RadiusClient, sign: bool) -> Deferred[Reply]:
        asked = self.ask(client)
        self.answer(sign=sign)
        return asked

    def test_auto_demands_it_after_the_first(self) -> None:
        client = self.policy("auto")
        for _ in range(3):
            self.successResultOf(self.exchange(client, sign=False))
        assert client.states()[0].signs is False
        assert len(self.lines) == 1
        assert "does not sign its answers" in self.lines[0]
        self.successResultOf(self.exchange(client, sign=True))
        assert client.states()[0].signs is True
        for _ in range(3):
            self.assertNoResult(self.exchange(client, sign=False))
        assert client.states()[0].counters["unsigned"] == 3
        assert len(self.lines) == 2
        assert "set message_authenticator to no" in self.lines[1]

    def test_who_signs_only_some_answers_is_not_dead(self) -> None:
        """A stranger with a wrong password would take the server from everybody."""
        client = self.policy("auto")
        self.successResultOf(self.exchange(client, sign=True))
        self.udp.advance(60)
        asked = self.exchange(client, sign=False)
        self.udp.pass_time(7.1)
        failure = self.failureResultOf(asked, NoAnswer)
        assert str(failure.value) == "one: it does not sign all of its answers"
        assert client.states()[0].alive
        self.successResultOf(self.exchange(client, sign=True))

    def test_who_never_signs_what_it_must_is_dead(self) -> None:
        """So that the next one is asked at once."""
        client = self.policy("yes")
        asked = self.exchange(client, sign=False)
        self.udp.pass_time(7.1)
        self.failureResultOf(asked, NoAnswer)
        assert not client.states()[0].alive

    def test_yes_demands_it_always(self) -> None:
        client = self.policy("yes")
        self.assertNoResult(self.exchange(client, sign=False))
        self.successResultOf(self.exchange(client, sign=True))
        assert client.states()[0].counters["unsigned"] == 1

    def test_no_takes_either_and_says_nothing(self) -> None:
        client = self.policy("no")
        for sign in (True, False, True, False):
            self.successResultOf(self.exchange(client, sign=sign))
        assert self.lines == []

    def test_accounting_and_status_are_not_signed(self) -> None:
        client = self.policy("yes")
        asked = Deferred.fromCoroutine(
            client.exchange(Code.ACCOUNTING_REQUEST, lambda: [("Acct-Status-Type", "Start")])
        )
        self.answer(-1, Code.ACCOUNTING_RESPONSE, sign=False)
        assert self.successResultOf(asked).code is Code.ACCOUNTING_RESPONSE
        probing = Deferred.fromCoroutine(client.probe())
        self.answer(-1, Code.ACCESS_ACCEPT, sign=False)
        assert self.successResultOf(probing) == [("one", 0.0)]


class ManyTests(ExchangeCase):
    def test_the_rest_waits_for_its_turn(self) -> None:
        client = self.client()
        asked = [self.ask(client) for _ in range(1000)]
        one, _ = client.states()
        assert (one.in_flight, one.queued) == (peer.FIRST_WINDOW, 800)
        done = 0
        while done < len(self.udp.sent):
            self.answer(done)
            done += 1
        assert done == 1000
        assert all(self.successResultOf(each).server == "one" for each in asked)
        assert self.udp.getDelayedCalls() == []

    def test_a_server_that_is_slow_by_nature_gets_more(self) -> None:
        """Each is answered after a second: more are under way than at first, through more sockets of 32 each."""
        self.patch(lane, "IDENTIFIERS", 32)
        self.patch(peer, "IDENTIFIERS", 32)
        client = self.client()
        self.udp.answer = self.answering(ONE, after=0.9375)
        asked = [self.ask(client) for _ in range(1000)]
        most = 0
        for _ in range(80):
            self.udp.advance(0.0625)
            most = max(most, client.states()[0].in_flight)
        assert all(self.successResultOf(each).server == "one" for each in asked)
        assert 300 < most <= 512
        assert 9 < len(self.udp.open_ports()) <= peer.MOST_LANES
        assert "retransmitted" not in client.states()[0].counters

    def test_a_server_that_is_busy_does_not(self) -> None:
        """Its answers take the longer the more it has to do."""
        client = self.client()
        busy_until = 0.0

        def answer(port: Port, datagram: bytes, to: tuple[str, int]) -> None:
            nonlocal busy_until
            busy_until = max(busy_until, self.udp.seconds()) + 0.001
            genuine = reply_to(datagram, SECRET, Code.ACCESS_ACCEPT)
            self.udp.callLater(busy_until - self.udp.seconds(), self.deliver, port, genuine, to)

        self.udp.answer = answer
        asked = [self.ask(client) for _ in range(1000)]
        for _ in range(1200):
            self.udp.advance(0.001)
            assert client.states()[0].in_flight <= peer.FIRST_WINDOW + 2
        assert all(self.successResultOf(each).server == "one" for each in asked)

    def test_what_waits_for_a_dead_server_goes_to_the_next(self) -> None:
        self.udp.answer = self.answering(TWO)
        client = self.client()
        asked = [self.ask(client) for _ in range(1000)]
        self.udp.pass_time(7.5)
        assert {self.successResultOf(each).server for each in asked} == {"two"}
        one, two = client.states()
        assert (one.in_flight, one.queued, two.in_flight, two.queued) == (1, 0, 0, 0)  # The one is a Status-Server.
        assert one.counters["unanswered"] == peer.FIRST_WINDOW

    def test_too_many_wait(self) -> None:
        self.patch(peer, "MOST_WAITING", 10)
        client = self.client(Server("one", *ONE, SECRET))
        for _ in range(peer.FIRST_WINDOW + 10):
            self.ask(client).addErrback(lambda failure: failure.trap(NoAnswer))
        failure = self.failureResultOf(self.ask(client), NoAnswer)
        assert failure.getErrorMessage() == "one: too many requests wait for it"
        self.udp.pass_time(8)

    def test_what_waits_too_long_ends(self) -> None:
        client = self.client(Server("one", *ONE, SECRET), timing=Timing(timeout=10.0, patience=5.0))
        asked = [self.ask(client) for _ in range(peer.FIRST_WINDOW + 3)]
        self.udp.pass_time(5.1)
        messages = {self.failureResultOf(each, NoAnswer).getErrorMessage() for each in asked}
        assert messages == {"one: no answer", "one: too many requests are under way"}
        assert self.udp.getDelayedCalls() == []

    def test_attributes_are_made_when_they_are_sent(self) -> None:
        client = self.client()
        for _ in range(peer.FIRST_WINDOW):
            self.ask(client)
        asked = Deferred.fromCoroutine(
            client.exchange(Code.ACCOUNTING_REQUEST, lambda: [("Acct-Delay-Time", round(self.udp.seconds()))], tries=1)
        )
        self.udp.advance(0.6)
        self.answer(0)
        assert self.udp.sent[-1][1][20:] == b"\x29\x06\0\0\0\x01"
        self.answer(-1, Code.ACCOUNTING_RESPONSE)
        self.successResultOf(asked)

    def test_one_try_is_one_datagram(self) -> None:
        client = self.client()
        self.ask(client, tries=1)
        self.udp.pass_time(1.1)
        assert self.destinations()[0] == ONE
        assert self.destinations()[-1] == TWO
        assert self.destinations().count(ONE) == 2  # And a Status-Server.

    def test_close(self) -> None:
        client = self.client()
        asked = [self.ask(client) for _ in range(peer.FIRST_WINDOW + 5)]
        self.successResultOf(Deferred.fromCoroutine(client.close()))
        for each in [*asked, self.ask(client)]:
            assert "the broker is stopping" in self.failureResultOf(each, NoAnswer).getErrorMessage()
        assert self.udp.open_ports() == []
        assert self.udp.getDelayedCalls() == []
        assert self.successResultOf(Deferred.fromCoroutine(client.probe())) == [("one", None), ("two", None)]

    def test_nothing_secret_is_shown(self) -> None:
        assert "xyzzy" not in repr(Server("one", *ONE, SECRET)) + repr(self.client().states())
