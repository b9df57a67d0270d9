# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets handed over as systemd hands them over: found by kind and address, used, and left open for the next life."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.activation import UNIT, settings
from support.coroutines import awaited
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.config import ListenConfig
from ddtb6.transport.listening import (
    MOST_DESCRIPTORS,
    Inherited,
    ListenError,
    Listening,
    Passed,
    passed,
)
from ddtb6.transport.socket import RECEIVE_BUFFER, UdpSocket

PATIENCE = 5.0


# --- what the environment says ------------------------------------------------------------------------------------


def test_what_was_passed_is_read() -> None:
    said = {"LISTEN_PID": "77", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "ddtb6.socket:tcp"}
    assert passed(said, 77) == (Passed(3, "ddtb6.socket"), Passed(4, "tcp"), Passed(5, ""))
    assert passed({"LISTEN_PID": "77", "LISTEN_FDS": "1"}, 77) == (Passed(3, ""),)
    assert passed({"LISTEN_PID": "77", "LISTEN_FDS": "0"}, 77) == ()


@pytest.mark.parametrize("said", [{}, {"LISTEN_PID": "76", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}])
def test_what_was_passed_to_nobody_or_somebody_else_is_not_ours(said: dict[str, str]) -> None:
    assert passed(said, 77) == ()


@pytest.mark.parametrize("count", ["", "-1", "two", "1e3", "²", str(MOST_DESCRIPTORS + 1)])
def test_nonsense_is_said_in_a_sentence(count: str) -> None:
    with pytest.raises(ListenError, match="which is no count of sockets"):
        passed({"LISTEN_PID": "77", "LISTEN_FDS": count}, 77)


@given(st.dictionaries(st.sampled_from(["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]), st.text(max_size=6)))
def test_no_environment_is_worse_than_a_sentence(said: dict[str, str]) -> None:
    try:
        found = passed(said, 1)
    except ListenError:
        return
    assert [each.descriptor for each in found] == list(range(3, 3 + len(found)))


def test_the_environment_at_start_is_the_kernels() -> None:
    program = (
        "import os, twisted.internet.endpoints; "
        "from ddtb6.transport.listening import environment_at_start as at_start; "
        "print(at_start()['LISTEN_FDS'], os.environ.get('LISTEN_FDS'), at_start()['HOME'])"
    )
    # Twisted forgets the variables only when LISTEN_PID is its process.
    start = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    )
    environment = {**os.environ, "LISTEN_FDS": "0", "HOME": "/a b=c"}
    command = [sys.executable, "-c", start, program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0 None /a b=c\n"


def test_the_socket_unit_opens_what_the_configuration_has() -> None:
    said = settings()
    for key, endpoints in (("ListenDatagram", ListenConfig().udp), ("ListenStream", ListenConfig().tcp)):
        assert [value for name, value in said if name == key] == [str(each) for each in endpoints]
    assert {("BindIPv6Only", "ipv6-only"), ("PassPacketInfo", "yes")} <= {*said}
    assert ("ReceiveBuffer", f"{RECEIVE_BUFFER >> 20}M") in said
    assert ("Sockets", UNIT.name) in settings(UNIT.with_suffix(".service"))


# --- the sockets --------------------------------------------------------------------------------------------------


class Sockets(unittest.TestCase):
    """`self.manager` are the sockets as the service manager keeps them."""

    def setUp(self) -> None:
        self.manager: list[socket.socket] = []
        self.heard: list[bytes] = []
        self.waiting: Deferred[None] = Deferred()

    def opened(self, kind: socket.SocketKind, family: int = socket.AF_INET, address: str = "127.0.0.1") -> Endpoint:
        """A socket of the manager's."""
        made = socket.socket(family, kind)
        self.addCleanup(made.close)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, 0))
        if kind is socket.SOCK_STREAM:
            made.listen()
        self.manager.append(made)
        return Endpoint(*made.getsockname()[:2])

    def inherited(self) -> Inherited:
        """As a process finds them that the manager starts now."""
        made = Inherited(Passed(os.dup(each.fileno()), f"unit{number}") for number, each in enumerate(self.manager))
        self.addCleanup(made.close)
        return made

    def listening(self) -> Listening:
        made = Listening(reactor, self.inherited())
        self.addCleanup(lambda: Deferred.fromCoroutine(made.close()))
        return made

    def client(self, to: Endpoint) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(made.close)
        made.settimeout(PATIENCE)
        made.connect(to)
        return made

    def echo(self, ours: UdpSocket, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        self.heard.append(datagram)
        assert ours.send(datagram.upper(), local, remote)
        self.waiting.callback(None)

    @awaited
    async def test_what_came_before_us_and_between_us_is_answered(self) -> None:
        for wildcard in (False, True):
            self.manager.clear()
            place = self.opened(socket.SOCK_DGRAM, address="0.0.0.0" if wildcard else "127.0.0.1")
            # The client's socket is connected: an answer from another address would not come through.
            client = self.client(Endpoint("127.0.0.7" if wildcard else "127.0.0.1", place.port))
            for text in (b"first", b"second"):
                client.send(text)
                self.waiting = Deferred()
                self.waiting.addTimeout(PATIENCE, reactor)
                life = self.listening()
                life.udp([place], self.echo)
                assert life.places == [f"udp {place}"]
                await self.waiting
                assert client.recv(100) == text.upper()
                await life.close()
                assert life.udp_sockets[4, place.port].fileno() == -1

    @awaited
    async def test_a_connection_waits_for_the_next_life(self) -> None:
        place = self.opened(socket.SOCK_STREAM)
        for _ in range(2):
            client = socket.create_connection(place, timeout=PATIENCE)
            self.addCleanup(client.close)
            life = self.listening()
            life.tcp([place], cast(Any, Factory.forProtocol(Greeter)))
            assert life.places == [f"tcp {place}"]
            assert await deferToThread(client.recv, 10) == b"hello"
            await life.close()
            assert await deferToThread(client.recv, 10) == b"", "ended from the other side"

    @awaited
    async def test_each_is_found_by_kind_and_address(self) -> None:
        udp, tcp = self.opened(socket.SOCK_DGRAM), self.opened(socket.SOCK_STREAM)
        udp6 = self.opened(socket.SOCK_DGRAM, socket.AF_INET6, "::1")
        inherited = self.inherited()
        assert inherited.rest() == [f"udp {udp}", f"tcp {tcp}", f"udp {udp6}"]
        assert inherited.take("tcp", udp) is None
        assert inherited.take("udp", Endpoint("127.0.0.2", udp.port)) is None
        found = inherited.take("udp", udp6)
        assert found is not None
        assert found.getsockname()[:2] == udp6
        assert not found.get_inheritable()
        found.close()
        assert inherited.rest() == [f"udp {udp}", f"tcp {tcp}"]
        inherited.close()
        assert inherited.rest() == []

    @awaited
    async def test_where_both_disagree_the_sentence_names_both(self) -> None:
        for kind, name in ((socket.SOCK_DGRAM, "udp"), (socket.SOCK_STREAM, "tcp")):
            self.manager.clear()
            place = self.opened(kind, address="0.0.0.0")
            wanted = Endpoint("127.0.0.1", place.port)
            life = self.listening()
            with pytest.raises(ListenError) as caught:
                getattr(life, name)([wanted], None)
            assert str(caught.value) == (
                f"cannot listen on {name} {wanted}: the service manager has {name} {place} instead; let ddtb6.socket "
                f"and listen.{name} say the same"
            )
            await life.close()

    @awaited
    async def test_what_nobody_wants_is_told_and_let_go(self) -> None:
        place = self.opened(socket.SOCK_STREAM)
        life = self.listening()
        life.udp([Endpoint("127.0.0.1", 0)], self.echo)
        assert f"tcp {place} as well" in life.unwanted()
        assert life.unwanted() == ""

    def test_what_is_no_socket_of_ours_is_refused(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        with pytest.raises(ListenError, match="passed pipe, which is no socket"):
            Inherited([Passed(reading, "pipe")])
        os.close(reading)
        with socket.socket(socket.AF_UNIX) as local, pytest.raises(ListenError, match="neither UDP nor TCP"):
            Inherited([Passed(os.dup(local.fileno()), "")])
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as both:
            both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            both.bind(("::", 0))
            with pytest.raises(ListenError, match="BindIPv6Only=ipv6-only"):
                Inherited([Passed(os.dup(both.fileno()), "x")])


class Greeter(Protocol):
    def connectionMade(self) -> None:
        cast(Any, self.transport).write(b"hello")
        cast(Any, self.transport).loseConnection()
