# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon put together from its configuration, on the loopback and without a device: up, in use, down, up again."""

from __future__ import annotations

import shutil
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.coroutines import awaited
from support.virtual import POOLS, account
from twisted.internet import reactor
from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.app import BrokerService, Fatal
from ddtb6.clock import SystemClock
from ddtb6.config import Config
from ddtb6.store.store import open_store
from ddtb6.tsp import framing

HOME = Endpoint("127.0.0.1", 0)
SESSION = (
    b"VERSION=2.0.2\r\n",
    b"AUTHENTICATE PLAIN\r\n\0",
    b"\0alice\0s3cret\r\n",
    b'Content-length: 118\r\n<tunnel action="create" type="v6udpv4"><client><address type="ipv4">192.0.2.2</address>'
    b"</client></tunnel>\r\n",
)


class Daemon(unittest.TestCase):
    """Each test has a state directory with the account alice."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ddtb6-"))
        self.addCleanup(shutil.rmtree, self.directory)
        base = Config()
        self.config = replace(
            base,
            server=replace(base.server, state=self.directory, control=self.directory / "control"),
            listen=replace(base.listen, udp=(HOME,), tcp=(HOME,)),
            auth=replace(base.auth, chain=("local",)),
            dataplane=replace(base.dataplane, kind="memory"),
            firewall=replace(base.firewall, backend="none"),
            web=replace(base.web, listen=""),
            pools=POOLS,
        )

    def down(self, service: BrokerService) -> Deferred[None]:
        return Deferred.fromCoroutine(service._stop())

    async def running(self, config: Config | None = None) -> BrokerService:
        service = BrokerService(config or self.config, reactor)
        self.addCleanup(self.down, service)
        service.startService()
        await service.ready
        return service

    def port_of(self, service: BrokerService, carrier: str) -> int:
        [place] = [each for each in service._listening if each.startswith(carrier)]
        return int(place.rpartition(":")[2])

    @awaited
    async def test_up_in_use_down_and_up_again(self) -> None:
        service = await self.running()
        await service.stopService()
        await self._add_alice()
        service = await self.running()
        offer = await deferToThread(converse_udp, self.port_of(service, "udp"))
        assert b"2001:0db8:0000:0001:0000:0000:0000:0002" in offer
        assert await deferToThread(converse_tcp, self.port_of(service, "tcp")) == b"200 Success\r\n"
        await service.stopService()
        again = await self.running()
        offer_again = await deferToThread(converse_udp, self.port_of(again, "udp"))
        assert offer_again == offer, "another port, and the same address"
        await again.stopService()

    async def _add_alice(self) -> None:
        store = open_store(self.config.server.database, POOLS, SystemClock(), in_thread=execute)
        await store.add_account(account("alice", "s3cret"))
        await store.close()

    @awaited
    async def test_what_it_cannot_do_without_is_said_in_one_sentence_and_all_else_let_go(self) -> None:
        file = self.directory / "file"
        file.write_text("")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            tcp.bind(("127.0.0.1", 0))
            tcp.listen()
            taken = Endpoint("127.0.0.1", udp.getsockname()[1]), Endpoint("127.0.0.1", tcp.getsockname()[1])
            listen = self.config.listen
            for config, sentence in (
                (replace(self.config, listen=replace(listen, udp=taken[:1])), f"cannot listen on udp {taken[0]}: "),
                (replace(self.config, listen=replace(listen, tcp=taken[1:])), f"cannot listen on tcp {taken[1]}: "),
                (
                    replace(self.config, server=replace(self.config.server, control=file / "control")),
                    "cannot serve the pages or the control socket: ",
                ),
                (replace(self.config, server=replace(self.config.server, state=file)), str(file)),
            ):
                service = BrokerService(config, reactor)
                self.addCleanup(self.down, service)
                with pytest.raises(Fatal) as caught:
                    await service._start()
                assert sentence in str(caught.value)
                assert "\n" not in str(caught.value)
                await service._stop()
                assert service._stopping == []

    @awaited
    async def test_stopping_goes_on_when_a_part_fails_to_stop(self) -> None:
        service = await self.running()
        done: list[str] = []

        def broken() -> Any:
            raise ValueError("of its own")

        service._stopping[1:1] = [broken]
        service._stopping[0:0] = [lambda: done.append("the rest")]
        await service.stopService()
        assert done == ["the rest"]
        assert len(self.flushLoggedErrors(ValueError)) == 1


def converse_udp(port: int) -> bytes:
    """Log in and ask for a tunnel; the text of the last answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        handle.settimeout(5)
        handle.connect(("127.0.0.1", port))
        for number, text in enumerate(SESSION, 240):
            datagram = framing.pack(number, number, text)
            handle.send(datagram)
            answer = handle.recv(2000)
            assert answer[:8] == datagram[:8]
    return answer[8:]


def converse_tcp(port: int) -> bytes:
    """Log in; the status."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as handle:
        handle.sendall(SESSION[0])
        assert handle.recv(2000).startswith(b"CAPABILITY ")
        handle.sendall(SESSION[1] + SESSION[2])
        return handle.recv(2000)
