# SPDX-License-Identifier: GPL-2.0-or-later
"""Echoes through the kernel: what the raw socket sends is answered, and only what has our identifier is heard."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from support.netns import Lab, wait_until
from support.planes import private_reactor
from twisted.internet.epollreactor import EPollReactor

from ddtb6.broker.planes import ECHO_IDENTIFIER
from ddtb6.dataplane.echo import EchoSocket

pytestmark = pytest.mark.netns

HERE, THERE, NOWHERE = (IPv6Address(f"2001:db8:e::{host}").packed for host in (1, 2, 3))
OURS = ECHO_IDENTIFIER.to_bytes(2, "big") + b"\0\1" + bytes(range(28))


class Echoes:
    """The socket on one end of a wire, the other end answers as any host."""

    def __init__(self, reactor: EPollReactor, lab: Lab) -> None:
        self.reactor = reactor
        self.heard: list[tuple[bytes, bytes]] = []
        self.near, far = lab.namespace("near"), lab.namespace("far")
        lab.wire(self.near, far, ["2001:db8:e::1/64"], ["2001:db8:e::2/64"])
        with self.near.inside():
            self.socket = EchoSocket(reactor, lambda client, rest: not self.heard.append((client, rest)))

    def until_heard(self, count: int) -> list[tuple[bytes, bytes]]:
        def turned() -> bool:
            self.reactor.iterate(0.0)
            return len(self.heard) >= count

        wait_until(turned, f"{count} echo replies")
        return self.heard


@pytest.fixture
def echoes() -> Iterator[Echoes]:
    with private_reactor() as reactor, Lab() as lab:
        made = Echoes(reactor, lab)
        yield made
        made.socket.close()


def test_a_request_is_answered(echoes: Echoes) -> None:
    assert echoes.socket.send(HERE, THERE, OURS)
    assert echoes.until_heard(1) == [(THERE, OURS)]


def test_what_others_ask_is_not_heard(echoes: Echoes) -> None:
    assert echoes.socket.send(HERE, THERE, b"xx" + OURS[2:])
    assert echoes.socket.send(HERE, THERE, OURS)
    assert echoes.until_heard(1) == [(THERE, OURS)]


def test_what_cannot_be_sent_is_said_and_nothing_raises(echoes: Echoes) -> None:
    assert not echoes.socket.send(NOWHERE, THERE, OURS), "not an address of ours"
    assert not echoes.socket.send(HERE, IPv6Address("2001:db8:f::1").packed, OURS), "no route"
    echoes.socket.close()
    echoes.socket.close()
    assert not echoes.socket.send(HERE, THERE, OURS)


def test_many_at_once(echoes: Echoes) -> None:
    assert echoes.socket.send(HERE, THERE, OURS)
    echoes.until_heard(1)  # From here on the neighbour is known, and nothing waits for that.
    sent = 1
    for number in range(300):
        sent += echoes.socket.send(HERE, THERE, OURS[:4] + number.to_bytes(4, "big"))
        echoes.reactor.iterate(0.0)
    assert len(echoes.until_heard(sent)) == sent
