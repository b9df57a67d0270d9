# SPDX-License-Identifier: GPL-2.0-or-later
"""Real sockets on the loopback: an answer leaves from the address that was asked, on a wildcard socket, too."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from support.coroutines import awaited
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial import unittest

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.transport.socket import BURST, UdpSocket

PATIENCE = 5.0


class Sockets(unittest.TestCase):
    """Each test has a socket of ours that answers every datagram with itself in upper case."""

    def setUp(self) -> None:
        self.heard: list[tuple[bytes, Endpoint, Endpoint]] = []
        self.waiting: list[tuple[int, Deferred[None]]] = []

    def opened(self, address: str, receive: Callable[..., None] | None = None) -> UdpSocket:
        made = UdpSocket(reactor, Endpoint(address, 0), receive or self.echo)
        made.start()
        self.addCleanup(made.stop)
        return made

    def echo(self, ours: UdpSocket, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        self.heard.append((datagram, local, remote))
        assert ours.send(datagram.upper(), local, remote)
        for count, waiting in [each for each in self.waiting if each[0] <= len(self.heard)]:
            self.waiting.remove((count, waiting))
            waiting.callback(None)

    def client(self, family: socket.AddressFamily, to: tuple[str, int]) -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        self.addCleanup(made.close)
        made.settimeout(PATIENCE)
        made.connect(to)
        return made

    def after(self, count: int) -> Deferred[None]:
        """Fires when so many datagrams were heard."""
        waiting: Deferred[None] = Deferred()
        waiting.addTimeout(PATIENCE, reactor)
        self.waiting.append((count, waiting))
        return waiting

    async def _asked(self, bind: str, family: socket.AddressFamily, addresses: tuple[str, ...]) -> None:
        ours = self.opened(bind)
        for number, address in enumerate(addresses, 1):
            client = self.client(family, (address, ours.port))
            client.send(b"hello %d" % number)
            await self.after(number)
            # Its socket is connected: from another address nothing would come through.
            assert client.recv(100) == b"HELLO %d" % number
            _, local, remote = self.heard[-1]
            assert (local, remote) == (Endpoint(address, ours.port), Endpoint(*client.getsockname()[:2]))

    @awaited
    async def test_a_wildcard_answers_from_the_address_asked(self) -> None:
        await self._asked("0.0.0.0", socket.AF_INET, ("127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.1"))

    @awaited
    async def test_a_bound_address_too(self) -> None:
        await self._asked("127.0.0.9", socket.AF_INET, ("127.0.0.9",))

    @awaited
    async def test_ipv6(self) -> None:
        await self._asked("::", socket.AF_INET6, ("::1",))

    @awaited
    async def test_a_wildcard_of_each_family_stand_side_by_side(self) -> None:
        six = self.opened("::")
        four = UdpSocket(reactor, Endpoint("0.0.0.0", six.port), self.echo)
        four.start()
        self.addCleanup(four.stop)
        client = self.client(socket.AF_INET, ("127.0.0.1", six.port))
        client.send(b"a")
        await self.after(1)
        assert client.recv(10) == b"A"
        assert self.heard[0][1].family == 4

    @awaited
    async def test_more_than_a_burst(self) -> None:
        ours = self.opened("127.0.0.1")
        client = self.client(socket.AF_INET, ("127.0.0.1", ours.port))
        for number in range(3 * BURST):
            client.send(b"%d" % number)
        await self.after(3 * BURST)
        assert [each[0] for each in self.heard] == [b"%d" % number for number in range(3 * BURST)]

    @awaited
    async def test_datagrams_of_any_size(self) -> None:
        ours = self.opened("127.0.0.1")
        client = self.client(socket.AF_INET, ("127.0.0.1", ours.port))
        for number, size in enumerate((0, 1, 8, 1500, 65507), 1):
            client.send(b"x" * size)
            await self.after(number)
            assert len(client.recv(65535)) == size
            assert len(self.heard[-1][0]) == size

    @awaited
    async def test_stopping_in_the_middle_of_a_burst(self) -> None:
        calls = []

        def stop_at_once(ours: UdpSocket, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
            calls.append(datagram)
            ours.stop()
            assert not ours.send(b"", local, remote)

        ours = self.opened("127.0.0.1", stop_at_once)
        client = self.client(socket.AF_INET, ("127.0.0.1", ours.port))
        for _ in range(3):
            client.send(b"a")
        ours.doRead()
        assert calls == [b"a"]
        assert ours.fileno() == -1
        ours.stop()

    def test_what_the_kernel_does_not_take_is_false_and_not_an_error(self) -> None:
        ours = self.opened("0.0.0.0")
        here = Endpoint("127.0.0.1", ours.port)
        assert not ours.send(b"x" * 65508, here, here)
        assert not ours.send(b"x", Endpoint("192.0.2.1", ours.port), here), "an address that is not ours"
        assert not ours.send(b"x", here, Endpoint("127.0.0.1", 0))

    def test_an_address_that_is_not_ours_cannot_be_bound_and_leaks_nothing(self) -> None:
        taken = Endpoint("127.0.0.1", self.opened("127.0.0.1").port)
        for bind, why in ((Endpoint("192.0.2.1", 0), "Cannot assign"), (taken, "in use")):
            ours = UdpSocket(reactor, bind, self.echo)
            with pytest.raises(OSError, match=why):
                ours.start()
            assert ours.fileno() == -1
            ours.stop()
