# SPDX-License-Identifier: GPL-2.0-or-later
"""The UDP edge under everything but a polite client: garbage, floods, copies while it works, restarts, forgetting."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.held import Holder, hold
from support.stored import now
from support.virtual import SERVER, World, world

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.admission import Gate
from ddtb6.broker.events import LoggedIn
from ddtb6.transport.udp import LINGER, UdpSignalling
from ddtb6.tsp import framing

HERE = Endpoint("203.0.113.5", 40001)
VERSION = b"VERSION=2.0.2\r\n"
CAPABILITY = b"CAPABILITY TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"
OK = b"200 Success\r\n"
CREATE = (
    b'Content-length: 144\r\n<tunnel action="create" type="v6udpv4" proxy="no"><client>'
    b'<address type="ipv4">192.0.2.2</address><keepalive interval="30"/></client></tunnel>\r\n'
)
ACCEPT = b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'
SESSION = (VERSION, b"AUTHENTICATE PLAIN\r\n\0", b"\0alice\0s3cret\r\n", CREATE, ACCEPT)


def open_gate() -> Gate:
    """One that lets everybody in."""
    return Gate(1e6, 1_000_000, 1e6, 1000)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, accounts={"alice": "s3cret"}) as made:
        yield made


def packed(sequence: int, text: bytes, time: int = 0) -> bytes:
    return framing.pack(sequence, time, text)


def talk(lab: World, *texts: bytes, remote: Endpoint = HERE, first: int = 0xF0) -> list[bytes]:
    """Say the texts one after the other; the text of each answer."""
    answers = []
    for number, text in enumerate(texts, first):
        [answer] = lab.datagram(packed(number, text), remote)
        answers.append(answer[8:])
    return answers


def up(lab: World, remote: Endpoint = HERE) -> None:
    assert talk(lab, *SESSION, remote=remote)[-1].endswith(OK)


# --- who is one client --------------------------------------------------------------------------------------------


def test_peers_are_told_apart_by_all_four_ends(lab: World) -> None:
    other = SERVER._replace(address="192.0.2.99")
    for local, remote in (
        (SERVER, HERE),
        (SERVER, HERE._replace(port=40002)),
        (SERVER, HERE._replace(address="203.0.113.6")),
        (other, HERE),
    ):
        [answer] = lab.datagram(packed(240, VERSION), remote, local)
        assert answer[8:] == CAPABILITY
    assert len(lab.udp) == 4


def test_answers_leave_from_where_the_client_wrote_to(lab: World) -> None:
    other = Endpoint("198.18.0.1", 443)
    for number, text in enumerate(SESSION, 240):
        assert len(lab.datagram(packed(number, text), HERE, other)) == 1
    [session] = lab.live()
    assert session.spec.local == other


# --- while the broker works ---------------------------------------------------------------------------------------


@pytest.fixture
def held(lab: World) -> Iterator[Holder]:
    holder = Holder()
    hold(holder, lab.plane, lab.store)
    yield holder
    holder.on = False
    holder.let_all_go()


def test_copies_while_the_broker_works_bring_the_header_of_the_answer_and_nothing_else(
    lab: World, held: Holder
) -> None:
    talk(lab, *SESSION[:3])
    held.on = True
    assert lab.datagram(packed(243, CREATE, 1), HERE) == []
    assert lab.datagram(packed(243, CREATE, 2), HERE) == []
    assert lab.datagram(packed(243, CREATE, 3), HERE) == []
    assert lab.datagram(packed(244, b"", 4), HERE) == [packed(244, b"", 4)], "a poll finds nothing yet"
    assert lab.datagram(packed(245, ACCEPT, 5), HERE) == [], "another message waits its turn: it will be said again"
    held.let_all_go()
    held.on = False
    [(answer, _, _)] = lab.socket.taken()
    assert answer[:8] == packed(243, b"", 3)
    assert len(lab.live()) == 1
    assert len(now(lab.store.past_sessions())) == 1


def test_who_starts_over_does_not_hear_what_the_conversation_before_still_had_to_say(lab: World, held: Holder) -> None:
    """Its sequence numbers are the same again: an old answer would be taken for the new one."""
    talk(lab, *SESSION[:3])
    held.on = True
    assert lab.datagram(packed(243, CREATE, 1), HERE) == []
    assert talk(lab, VERSION) == [CAPABILITY]
    held.let_all_go()
    held.on = False
    assert lab.socket.taken() == []
    assert talk(lab, *SESSION[1:], first=241)[-1].endswith(OK)
    lab.round()
    assert len(lab.live()) == 1


def test_a_tunnel_that_stands_only_after_its_client_was_forgotten_is_taken_back(lab: World, held: Holder) -> None:
    talk(lab, *SESSION[:3])
    held.on = True
    lab.datagram(packed(243, CREATE), HERE)
    for _ in range(200):
        lab.clock.advance(1)
        lab.udp.tick()
    assert len(lab.udp) == 1, "the broker is the slow one"
    held.let_all_go()
    held.on = False
    assert len(lab.socket.taken()) == 1
    lab.pass_time(lab.policy.negotiation_timeout + LINGER + 2)
    assert len(lab.udp) == 0
    assert lab.live() == []


# --- forgetting ---------------------------------------------------------------------------------------------------


def test_a_finished_negotiation_answers_copies_for_a_while_and_is_forgotten(lab: World) -> None:
    up(lab)
    lab.pass_time(LINGER - 2)
    assert lab.datagram(packed(244, ACCEPT, 9), HERE)[0][8:].endswith(OK)
    lab.pass_time(3)
    assert len(lab.udp) == 0, "copies do not keep it"
    assert lab.datagram(packed(244, ACCEPT, 10), HERE) == []
    assert len(lab.live()) == 1, "its tunnel lives on"


def test_who_was_given_up_and_starts_over_in_the_same_words_is_answered_to_the_end(lab: World) -> None:
    assert talk(lab, VERSION) == [CAPABILITY]
    lab.pass_time(lab.policy.negotiation_timeout + 2)
    up(lab)
    assert len(lab.live()) == 1
    assert (len(lab.udp), lab.udp.under_way()) == (1, 0), "kept for copies of what was said, and under way no more"


def test_a_client_that_stops_in_the_middle_is_forgotten(lab: World) -> None:
    for number in range(1, 5):
        talk(lab, *SESSION[:number], remote=HERE._replace(port=number))
    assert len(lab.udp) == lab.udp.under_way() == 4
    lab.pass_time(lab.policy.negotiation_timeout + LINGER + 2)
    assert len(lab.udp) == 0
    assert lab.live() == []


def test_ended_and_started_over_many_times_it_is_one_peer(tmp_path: Path) -> None:
    with world(tmp_path, gate=open_gate()) as lab:
        for number in range(200):
            lab.datagram(packed(240, b"VERSION=2.0.%d\r\n" % number), HERE)
            if number % 10 == 0:
                lab.pass_time(1)
        assert len(lab.udp) == 1
        lab.pass_time(lab.policy.negotiation_timeout + LINGER + 2)
        assert len(lab.udp) == 0
        assert len(lab.udp._wheel) == 0


def test_a_client_that_says_nonsense_for_ever_is_not_kept_for_ever_after_it_was_told(lab: World) -> None:
    talk(lab, VERSION, b"NONSENSE")
    for number in range(int(LINGER) + 2):
        assert lab.datagram(packed(300 + number, b"NONSENSE %d" % number), HERE) == []
        lab.pass_time(1)
    assert len(lab.udp) == 0


# --- floods -------------------------------------------------------------------------------------------------------


def test_peers_are_bounded_and_an_honest_one_still_gets_in(tmp_path: Path) -> None:
    most = 100
    with world(tmp_path, gate=open_gate(), accounts={"alice": "s3cret"}, peers=most) as lab:
        for number in range(3 * most):
            lab.datagram(packed(240, VERSION), Endpoint(f"198.51.{number >> 8}.{number & 255}", 1))
            assert len(lab.udp) <= most
        up(lab)
        assert len(lab.live()) == 1


def test_who_has_proved_itself_keeps_its_place_in_a_flood(tmp_path: Path) -> None:
    with world(tmp_path, gate=open_gate(), accounts={"alice": "s3cret"}, peers=100) as lab:
        talk(lab, *SESSION[:3])
        for number in range(300):
            lab.datagram(packed(240, VERSION), Endpoint(f"198.51.{number >> 8}.{number & 255}", 1))
        assert talk(lab, *SESSION[3:], first=243)[-1].endswith(OK)


def test_what_strangers_say_makes_no_peer(lab: World) -> None:
    for text in (b"", b"\r\n", b"AUTHENTICATE PLAIN\r\n", CREATE, ACCEPT, b"ECHO REQUES", b"VERSION", b"\0" * 1000):
        assert lab.datagram(packed(240, text), HERE) == []
    assert lab.datagram(b"", HERE) == []
    assert lab.datagram(b"\xf0\0\0", HERE) == []
    assert lab.datagram(packed(240, b"ECHO REQUEST"), HERE) == [packed(240, OK)]
    assert len(lab.udp) == 0


def test_packets_go_to_the_data_plane_and_are_never_answered_to_strangers(lab: World) -> None:
    assert lab.datagram(b"\x60" + bytes(39), HERE) == []
    assert {reason.value for reason in lab.plane.strays()} == {"unknown-endpoint"}
    deaf = UdpSignalling(lab.broker, lab.driver, lab.clock, None, 10)
    deaf.receive(lab.socket, b"\x60" + bytes(39), SERVER, HERE)  # type: ignore[arg-type]
    assert lab.socket.taken() == []


def mutated(chance: random.Random, text: bytes) -> bytes:
    """`text` with something done to it."""
    at = chance.randrange(len(text) + 1)
    match chance.randrange(6):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + chance.randbytes(chance.randrange(1, 9)) + text[at:]
        case 2:
            return text[:at] + text[at + 1 :]
        case 3:
            return text * chance.randrange(1, 5)
        case 4:
            return chance.randbytes(chance.randrange(64))
        case _:
            return text


@pytest.mark.slow
def test_fifty_thousand_hostile_datagrams(tmp_path: Path) -> None:
    """Nothing raises, nothing grows without bound, nobody unproven gets more than three times what it sent."""
    chance = random.Random(5572)
    texts = [
        *SESSION,
        b"AUTHENTICATE DIGEST-MD5\r\n",
        b"AUTHENTICATE ANONYMOUS\r\n",
        b"",
        b"\r\n",
        b"ECHO REQUEST",
        ACCEPT,
    ]
    texts += [
        b'Content-length: 33\r\n<tunnel action="info"></tunnel>\r\n',
        b'Content-length: 35\r\n<tunnel action="delete"></tunnel>\r\n',
    ]
    peers = [Endpoint(f"203.0.113.{number}", 40000 + number) for number in range(40)]
    sent, received, sequences = (dict.fromkeys(peers, 0) for _ in range(3))
    with world(tmp_path, gate=open_gate(), accounts={"alice": "s3cret"}) as lab:
        proven: set[Endpoint] = set()
        for number in range(50_000):
            remote = chance.choice(peers)
            at = sequences[remote]
            text = SESSION[at] if at < len(SESSION) and chance.random() < 0.9 else chance.choice(texts)
            if chance.random() < 0.1:
                text = mutated(chance, text)
            if chance.random() < 0.05:
                datagram = chance.randbytes(chance.randrange(1500))
            else:
                sequence = 240 + at if chance.random() < 0.95 else chance.choice((240, 239, chance.randrange(1 << 28)))
                datagram = packed(sequence, text, chance.randrange(1 << 32))
            sequences[remote] = 0 if chance.random() < 0.02 else at + (chance.random() < 0.9)
            received[remote] += len(datagram) + 28
            lab.udp.receive(lab.socket, datagram, SERVER, remote)  # type: ignore[arg-type]
            for answer, local, back in lab.socket.taken():
                assert (local, back) == (SERVER, remote)
                if answer[0] >> 4 == 6:
                    continue
                assert answer[:8] == datagram[:8]
                assert len(answer) <= framing.LARGEST_DATAGRAM
                sent[remote] += len(answer) + 28
            for event in lab.events:
                if isinstance(event, LoggedIn) and event.mechanism != "ANONYMOUS":
                    proven.add(event.link.remote)
            lab.events.clear()
            assert remote in proven or sent[remote] <= 3 * received[remote]
            if number % 500 == 0:
                lab.pass_time(1)
        assert len(lab.udp) <= len(peers)
        assert len(proven) > len(peers) / 2, "it gets deep enough"
        lab.pass_time(200)
        assert len(lab.udp) == 0
        assert lab.live() == []
