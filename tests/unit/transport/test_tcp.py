# SPDX-License-Identifier: GPL-2.0-or-later
"""The TCP edge: pieces, pipelines, pauses, deadlines and limits, and clients that vanish or do not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.held import Holder, hold
from support.virtual import World, world
from twisted.logger import LogEvent, globalLogPublisher

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.admission import Gate
from ddtb6.transport import tcp
from ddtb6.transport.tcp import ACK_PATIENCE, FOLLOWUP_PAUSE, VERSION_PAUSE

HERE = Endpoint("203.0.113.5", 50001)
CAPABILITY = b"CAPABILITY TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"
OK = b"200 Success\r\n"
INFO = b'Content-length: 33\r\n<tunnel action="info"></tunnel>\r\n'
NO_TUNNEL = b"Content-length: 24\r\n310 There is no tunnel\r\n"
CREATE = (
    b'Content-length: 144\r\n<tunnel action="create" type="v6udpv4" proxy="no"><client>'
    b'<address type="ipv4">192.0.2.2</address><keepalive interval="30"/></client></tunnel>\r\n'
)
NOT_OVER_TCP = b"Content-length: 29\r\n303 Unsupported tunnel type\r\n"
PLAIN = b"AUTHENTICATE PLAIN\r\n\0\0alice\0s3cret\r\n"
# tests/transcripts has the vector: account alice, s3cret, realm labrealm, nonce 179521187277.
PROOF = (
    b"Y2hhcnNldD11dGY4LHVzZXJuYW1lPSJhbGljZSIscmVhbG09ImxhYnJlYWxtIixub25jZT0iMTc5NTIxMTg3Mjc3IixuYz0wMDAwMDAwMSxjbm9u"
    b"Y2U9IjE3OTUyMTE4NzIiLGRpZ2VzdC11cmk9InRzcC8xOTIuMC4yLjEiLHJlc3BvbnNlPTMwZjFiYjM1M2ZiM2Q2ZjhlMThkZjc0NTc5NzU2ZjYw"
    b"LHFvcD1hdXRo\r\n"
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, accounts={"alice": "s3cret"}, realm="labrealm", nonces=iter([b"179521187277"] * 100)) as made:
        yield made


class Client:
    """One connection."""

    def __init__(self, lab: World, remote: Endpoint = HERE) -> None:
        self.lab = lab
        self.connection = lab.connect(remote)

    def say(self, text: bytes) -> list[bytes]:
        """What comes back before any time passes, write by write."""
        self.connection.protocol.dataReceived(text)
        return self.hear()

    def hear(self, seconds: float = 0.0) -> list[bytes]:
        """What comes while time passes."""
        for _ in range(round(seconds * 100)):
            self.lab.clock.advance(0.01)
        self.lab.clock.advance(0)
        return self.connection.taken()

    def wait_for_rspauth(self) -> bytes:
        [challenge] = self.say(b"VERSION=2.0.2\r\nAUTHENTICATE DIGEST-MD5\r\n\0")[1:]
        assert challenge
        [rspauth] = self.say(PROOF)
        return rspauth


@pytest.fixture
def logged(lab: World) -> Iterator[list[LogEvent]]:
    """Log events of severity error and above."""
    events: list[LogEvent] = []

    def keep(event: LogEvent) -> None:
        if event.get("log_failure") is not None or event["log_level"].name in ("error", "critical"):
            events.append(event)

    globalLogPublisher.addObserver(keep)
    yield events
    globalLogPublisher.removeObserver(keep)


# --- pieces and pipelines -----------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.lists(st.integers(1, 400), max_size=30))
def test_however_it_is_cut(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    whole = b"VERSION=2.0.2\r\n" + PLAIN + INFO + CREATE + INFO
    with world(tmp_path_factory.mktemp("cut"), accounts={"alice": "s3cret"}) as lab:
        client = Client(lab)
        heard = []
        for cut in cuts:
            heard += client.say(whole[:cut])
            whole = whole[cut:]
        heard += client.say(whole)
        assert heard == [CAPABILITY, OK, NO_TUNNEL, NOT_OVER_TCP, NO_TUNNEL]


def test_a_pipelined_message_waits_for_the_answer_before(lab: World) -> None:
    holder = Holder()
    hold(holder, lab.plane, lab.store)
    verify, client = lab.broker._authenticator.verify, Client(lab)
    lab.broker._authenticator.verify = holder.wrap("verify", verify)  # type: ignore[method-assign]
    holder.on = True
    assert client.say(b"VERSION=2.0.2\r\n" + PLAIN + INFO + INFO) == [CAPABILITY]
    assert client.say(INFO) == []
    holder.on = False
    holder.let_all_go()
    assert client.hear() == [OK, NO_TUNNEL, NO_TUNNEL, NO_TUNNEL]


def test_nagle_is_off(lab: World) -> None:
    assert Client(lab).connection.no_delay


# --- pauses -------------------------------------------------------------------------------------------------------


def test_version_without_line_end_counts_after_a_pause_since_its_last_octet(lab: World) -> None:
    client = Client(lab)
    assert client.say(b"VERSION=2.0") == []
    assert client.hear(VERSION_PAUSE - 0.05) == []
    assert client.say(b".2") == []
    assert client.hear(VERSION_PAUSE - 0.05) == []
    assert client.hear(0.1) == [CAPABILITY]
    assert client.say(b"\r\n" + PLAIN) == [OK], "the line end may follow after all"


@pytest.mark.parametrize("begun", [b"V", b"VERSION=", b"VERSION=2", b"VERSION=2.", b"GET / HTTP/1.0"])
def test_something_shorter_does_not_count_however_long_it_takes(lab: World, begun: bytes) -> None:
    client = Client(lab)
    client.say(begun)
    assert client.hear(5) == []


def test_the_status_follows_rspauth_after_a_pause(lab: World) -> None:
    client = Client(lab)
    client.wait_for_rspauth()
    assert client.hear(FOLLOWUP_PAUSE) == []
    assert client.hear(0.1) == [OK]


def test_the_pause_begins_when_the_clients_kernel_has_rspauth(lab: World) -> None:
    """Twisted hands rspauth to the kernel in the next turn: the queue may be empty before, too."""
    client = Client(lab)
    client.wait_for_rspauth()
    client.connection.unacknowledged(50)
    assert client.hear(2) == []
    client.connection.acknowledge()
    assert client.hear(FOLLOWUP_PAUSE - 0.05) == []
    assert client.hear(0.1) == [OK]


def test_a_kernel_that_never_acknowledges_is_not_waited_for_for_ever(lab: World) -> None:
    client = Client(lab)
    client.wait_for_rspauth()
    client.connection.unacknowledged(50)
    assert client.hear(ACK_PATIENCE - 0.1) == []
    assert client.hear(0.5) == [OK]


def test_what_is_said_during_the_pause_is_answered_after_the_status(lab: World) -> None:
    client = Client(lab)
    client.wait_for_rspauth()
    assert client.say(INFO[:10]) == []
    assert client.say(INFO[10:] + INFO[:5]) == []
    assert client.hear(1) == [OK, NO_TUNNEL]
    assert client.say(INFO[5:]) == [NO_TUNNEL]


# --- ends ---------------------------------------------------------------------------------------------------------


def test_an_error_before_the_commands_closes(lab: World) -> None:
    client = Client(lab)
    assert client.say(b"VERSION=2.0.2\r\nAUTHENTICATE PLAIN\r\n\0\0alice\0wrong\r\n" + INFO) == [
        CAPABILITY,
        b"300 Authentication failed\r\n",
    ]
    assert not client.connection.connected
    assert len(lab.tcp) == 0


@pytest.mark.parametrize("begun", [b"", b"VERSION=2.0.2\r\n", b"VERSION=2.0.2\r\nAUTHENTICATE PLAIN\r\n", b"VER"])
def test_silence_closes(lab: World, begun: bytes) -> None:
    client = Client(lab)
    client.say(begun)
    client.hear(lab.policy.negotiation_timeout - 1)
    assert client.connection.connected
    client.hear(2)
    assert not client.connection.connected
    assert not lab.clock.getDelayedCalls()


def test_octets_that_make_no_message_do_not_put_the_end_off(lab: World) -> None:
    client = Client(lab)
    for number in range(int(lab.policy.negotiation_timeout) + 1):
        if client.connection.connected:
            client.say(b"\r\n" if number % 2 else b" ")
            lab.clock.advance(1)
    lab.clock.advance(0)
    assert not client.connection.connected


def test_a_slow_broker_is_not_taken_for_a_silent_client(lab: World) -> None:
    holder = Holder()
    client = Client(lab)
    lab.broker._authenticator.verify = holder.wrap("verify", lab.broker._authenticator.verify)  # type: ignore[method-assign]
    holder.on = True
    client.say(b"VERSION=2.0.2\r\n" + PLAIN)
    for _ in range(200):
        lab.clock.advance(1)
    assert client.connection.connected
    holder.let_all_go()
    assert client.hear() == [OK]


@pytest.mark.parametrize("answered", ["before", "after"])
def test_a_client_that_goes_while_the_broker_works_leaves_nothing_behind(
    lab: World, logged: list[LogEvent], answered: str
) -> None:
    """Also with rspauth on its way, which is followed by a status after a pause."""
    holder = Holder()
    client = Client(lab)
    lab.broker._authenticator.verify = holder.wrap("verify", lab.broker._authenticator.verify)  # type: ignore[method-assign]
    client.say(b"VERSION=2.0.2\r\nAUTHENTICATE DIGEST-MD5\r\n\0")
    holder.on = True
    client.say(PROOF + INFO)
    if answered == "before":
        holder.let_all_go()
    client.connection.lost()
    holder.let_all_go()
    client.hear(1)
    assert len(lab.tcp) == 0
    assert not lab.clock.getDelayedCalls()
    assert logged == []


# --- limits -------------------------------------------------------------------------------------------------------


def test_who_is_not_admitted_is_told_and_closed(tmp_path: Path) -> None:
    with world(tmp_path, gate=Gate(1.0, 1, 1000.0, 1000)) as lab:
        Client(lab)
        client = Client(lab, HERE._replace(port=50002))
        assert client.say(b"VERSION=2.0.2\r\n") == [b"530 Server too busy\r\n"]
        assert not client.connection.connected
        assert len(lab.tcp) == 1


def test_connections_are_bounded(lab: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "MAX_CONNECTIONS", 3)
    clients = [Client(lab, HERE._replace(port=50000 + number)) for number in range(3)]
    assert not lab.connect(HERE).connected
    clients[0].connection.lost()
    assert lab.connect(HERE).connected


@pytest.mark.parametrize(
    ("begun", "answer"),
    [
        (b"", b"500 Invalid request\r\n"),
        (b"VERSION=2.0.2\r\n", b"300 Authentication failed\r\n"),
        (b"VERSION=2.0.2\r\nAUTHENTICATE DIGEST-MD5\r\n", b"300 Authentication failed\r\n"),
        (b"VERSION=2.0.2\r\n" + PLAIN, b"Content-length: 21\r\n500 Invalid request\r\n"),
    ],
)
def test_lines_without_end_are_not_kept(lab: World, begun: bytes, answer: bytes) -> None:
    client = Client(lab)
    if begun:
        client.say(begun)
    heard = []
    for _ in range(20):
        heard += client.say(b"A" * 1000)
        assert len(client.connection.protocol._reader._buffer) <= 10_000
    assert heard == [answer]


def test_a_client_that_does_not_read_is_not_read_from_and_cut_off_in_the_end(lab: World) -> None:
    client = Client(lab)
    client.say(b"VERSION=2.0.2\r\n" + PLAIN)
    client.connection.producer.pauseProducing()
    assert not client.connection.reading
    assert client.say(INFO * 3) == []
    client.connection.producer.resumeProducing()
    assert client.hear() == [NO_TUNNEL] * 3
    client.connection.producer.pauseProducing()
    client.connection.loseConnection = lambda: None  # type: ignore[method-assign]  # It waits for what is left.
    client.hear(lab.policy.negotiation_timeout + 1)
    assert not client.connection.connected, "the answers that it does not take would keep it open"


def test_garbage_of_any_kind(lab: World) -> None:
    for number, text in enumerate(
        (b"\0" * 5000, b"\xff" * 5000, b"\r\n" * 5000, b"\x16\x03\x01\x02\x00\x01", b"\r\x08")
    ):
        client = Client(lab, HERE._replace(port=51000 + number))
        client.say(text)
        client.hear(lab.policy.negotiation_timeout + 1)
        assert not client.connection.connected
    assert len(lab.tcp) == 0
