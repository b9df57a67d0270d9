# SPDX-License-Identifier: GPL-2.0-or-later
"""Broken and hostile clients against the real daemon: whatever they say in whatever state, it goes on serving."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import pytest
from support.netns import HOST
from support.scenario import BROKER_ADDRESS, PASSWORD, SERVER, World, carries
from support.traffic import echo_request
from support.tsp_client import Client, Refused, Udp, create_document, digest_proof, framed

pytestmark = pytest.mark.netns


def _to_nothing(_: Client, __: str) -> None:
    pass


def _to_capable(client: Client, _: str) -> None:
    client.greet()


def _to_challenge(client: Client, _: str) -> None:
    client.greet()
    client.wire.ask(b"AUTHENTICATE DIGEST-MD5\r\n\0")


def _to_rspauth(client: Client, user: str) -> None:
    client.greet()
    proof, _ = digest_proof(user, PASSWORD, client.wire.ask(b"AUTHENTICATE DIGEST-MD5\r\n\0"))
    client.wire.ask(proof)


def _to_plain(client: Client, _: str) -> None:
    client.greet()
    client.wire.tell(b"AUTHENTICATE PLAIN\r\n\0")


def _to_command(client: Client, user: str) -> None:
    client.log_in("PLAIN", user, PASSWORD)


def _to_offer(client: Client, user: str) -> None:
    client.log_in("PLAIN", user, PASSWORD)
    client.create()


def _to_up(client: Client, user: str) -> None:
    client.log_in("PLAIN", user, PASSWORD)
    client.create()
    client.accept()


STATES: dict[str, Callable[[Client, str], None]] = {
    "nothing": _to_nothing,
    "capable": _to_capable,
    "challenge": _to_challenge,
    "rspauth": _to_rspauth,
    "plain": _to_plain,
    "command": _to_command,
    "offer": _to_offer,
    "up": _to_up,
}

BOMB = (
    b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "&%c;&%c;&%c;&%c;">' % (c + 1, c, c, c, c) for c in range(ord("a"), ord("p")))
    + b"]><tunnel action='create'>&p;</tunnel>"
)


def garbage(state: str) -> list[bytes]:
    """What a broken or hostile client might say, with neither header nor sequence; the same on every run."""
    dice = random.Random(state)
    document = create_document(prefix_length=56)
    whole = framed(document)
    texts = [
        b"",
        b"\0",
        b"\xff" * 1400,
        b"VERSION=",
        b"VERSION=99999999999999999999.1\r\n",
        b"VERSION=2.0.2" * 100,
        b"AUTHENTICATE ",
        b"AUTHENTICATE " + b"A" * 1300,
        b"AUTHENTICATE DIGEST-MD5\r\n\0" * 20,
        b"\0\0\0\0\r\n",
        b"Y2hhcnNldD11dGY4" * 80 + b"\r\n",
        b"====\r\n",
        b"Content-length: 99999999999999999999\r\n<tunnel/>",
        b"Content-length: -1\r\n",
        b"Content-length: x\r\n\r\n",
        framed(BOMB),
        framed(b"<" * 1200),
        framed(b"<a>" * 300),
        framed(
            b"<tunnel action='create' type='v6udpv4'><client><address type='ipv4'>\xff\xfe</address></client></tunnel>"
        ),
        framed(b'<tunnel action="create"/>'),
        framed(b'<tunnel action="create" type="v6udpv4"/>'),
        framed(b'<tunnel action="explode"/>'),
        framed(b'<tunnel action="accept"><tunnel action="delete"/></tunnel>'),
        framed(document.replace(b'length="56"', b'length="999999999999999999999"')),
        framed(document.replace(b'interval="30"', b'interval="-30"')),
    ]
    texts += [whole[:cut] for cut in range(0, len(whole), 23)]
    # Many more than a burst of a hundred and what five a second add to it on a machine that takes its time.
    for _ in range(600):
        mutated = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            mutated[dice.randrange(len(mutated))] = dice.randrange(256)
        texts.append(bytes(mutated))
        texts.append(dice.randbytes(dice.randint(1, 200)))
    return texts


def pump(wire: Udp, datagrams: list[bytes]) -> None:
    """Send them all, taking whatever comes back; replies larger than a datagram of a tunnel are a fault."""
    wire.socket.settimeout(0)
    for datagram in datagrams:
        wire.socket.send(datagram)
        try:
            while True:
                assert len(wire.socket.recv(65535)) <= 1280
        except (BlockingIOError, InterruptedError):
            pass


@pytest.mark.parametrize("state", STATES)
def test_garbage_in_every_state_of_udp(world: World, state: str) -> None:
    world.broker.add_user(user := f"udp-{state}", PASSWORD)
    for round_ in range(3):
        client = Client(wire := world.udp())
        STATES[state](client, user)
        dice = random.Random(f"{state}{round_}")
        datagrams = []
        for text in garbage(f"{state}{round_}"):
            if not (round_ == 0 and text.startswith(b"VERSION")):
                datagrams.append(wire.header() + text)
                wire.sequence += dice.choice((0, 1, 1, 1, 77))
            whole = wire.header() + text
            datagrams += [whole[: dice.randrange(9)], b"\x40" + text[:200], b"\x60" + text[:200], b"", text[:1400]]
            datagrams.append(echo_request(BROKER_ADDRESS, HOST)[: dice.randrange(60)])
        pump(wire, datagrams)
        wire.close()
    wire, offer = world.broker.log_in(world.net.client, user, PASSWORD)
    assert carries(wire, offer)
    wire.close()


@pytest.mark.parametrize("state", [state for state in STATES if state not in ("offer", "up")])
def test_garbage_in_every_state_of_tcp(world: World, state: str) -> None:
    world.broker.add_user(user := f"tcp-{state}", PASSWORD)
    for text in garbage(state)[::3]:
        client = Client(wire := world.tcp())
        STATES[state](client, user)
        try:
            wire.socket.sendall(text)
            wire.socket.shutdown(socket.SHUT_WR)
            wire.socket.settimeout(0.05)
            while wire.socket.recv(65536):
                pass
        except (TimeoutError, ConnectionError, BrokenPipeError):
            pass
        wire.close()
    wire, offer = world.broker.log_in(world.net.client, user, PASSWORD)
    assert carries(wire, offer)
    wire.close()


def _keep_asking(world: World, user: str) -> None:
    wire = Udp(world.net.client.socket(socket.AF_INET, socket.SOCK_DGRAM), SERVER)
    client = Client(wire)
    try:
        client.log_in("DIGEST-MD5", user, PASSWORD)
        # Many more than a burst of a hundred and what five a second add to it on a machine that takes its time.
        for _ in range(1000):
            client.create(prefix_length=56)
    finally:
        wire.close()


def test_an_account_that_asks_all_the_time_is_rationed_and_others_are_not(world: World) -> None:
    """A client that dislikes the reply may come back 19 times a second, and every grant is written to the disk."""
    with pytest.raises(Refused) as caught:
        _keep_asking(world, "carol")
    assert caught.value.code == 530
    wire, offer = world.broker.log_in(world.net.client, "dave")
    assert carries(wire, offer)
    wire.close()
