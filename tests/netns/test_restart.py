# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon restarted under its clients, its ports held by a service manager: nobody notices, every octet counts.

SIGTERM is `systemctl restart` and a package upgrade, SIGKILL a crash.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.activation import open_sockets
from support.capabilities import need_tun
from support.netns import HOST, Lab, internet
from support.scenario import PASSWORD, SERVER, Broker, Connection, World, carries
from support.streams import ENOUGH, Stream
from support.traffic import echo_request, is_echo_reply, ping
from support.tsp_client import Client, Udp

pytestmark = pytest.mark.netns

ENDS = pytest.mark.parametrize("end", ["stop", "kill"])


@pytest.fixture(scope="module")
def held_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The broker has the ports of its socket unit."""
    need_tun()
    with Lab() as lab, contextlib.ExitStack() as kept:
        net = internet(lab)
        broker = Broker(net.broker, tmp_path_factory.mktemp("broker"), listen={})
        broker.sockets = [kept.enter_context(each) for each in open_sockets(net.broker)]
        broker.start()
        for name in ("alice", "bob"):
            broker.add_user(name, PASSWORD)
        yield World(net, broker)
        broker.stop()
        broker.check_log()


@pytest.fixture
def world(held_world: World) -> Iterator[World]:
    yield held_world
    held_world.broker.check_log()


def restart(broker: Broker, end: str) -> None:
    getattr(broker, end)()
    broker.start()


def only(broker: Broker, user: str) -> dict[str, Any]:
    (session,) = broker.sessions(user)
    return session


@ENDS
def test_a_transfer_goes_on_and_nobody_logs_in_again(world: World, tmp_path: Path, end: str) -> None:
    tunnel = Connection(world.net.client, tmp_path, "alice", PASSWORD, "--prefix-length", "56")
    tunnel.start()
    tunnel.wait_up()
    before = only(world.broker, "alice")
    stream = Stream(world.net.client, world.net.host, HOST)
    stream.flows()
    restart(world.broker, end)
    stream.flows()
    stream.finish()
    assert ping(world.net.client, HOST) is not None
    after = only(world.broker, "alice")
    for same in ("id", "remote", "address", "prefix", "started"):
        assert after[same] == before[same]
    assert after["counters"]["octets_in"] > ENOUGH
    assert after["silent_for"] < 5, "its keepalives are not heard"
    assert [each["event"] for each in tunnel.events() if each["event"] in ("up", "changed", "lost")] == ["up"]
    assert world.broker.ask("status")["activity"]["logins"] == {}, "somebody logged in again"
    tunnel.stop()


@ENDS
def test_every_octet_is_counted_once(world: World, end: str) -> None:
    """What a scripted client has sent and got is what the broker says; SIGKILL loses what no checkpoint has written."""
    broker = world.broker
    wire, offer = broker.log_in(world.net.client, "bob")
    sent = got = 0

    def exchange(first: int, count: int, *, answered: bool = True) -> None:
        """Echo requests of many sizes; each answer is waited for, so that nothing is under way at the end."""
        nonlocal sent, got
        for number in range(first, first + count):
            request = echo_request(offer.client_inner, HOST, sequence=number, payload=bytes(number % 1000))
            wire.socket.send(request)
            sent += len(request)
            if answered:
                listen(number)

    def listen(number: int) -> None:
        nonlocal got
        reply = wire.socket.recv(4096)
        assert is_echo_reply(reply, HOST, offer.client_inner, sequence=number)
        got += len(reply)

    wire.socket.settimeout(10)
    exchange(0, 300)
    before = only(broker, "bob")
    assert (before["counters"]["octets_in"], before["counters"]["octets_out"]) == (sent, got)
    getattr(broker, end)()
    with contextlib.closing(sqlite3.connect(broker.database)) as store:
        query = "SELECT octets_in, octets_out FROM session WHERE id = ?"
        written = store.execute(query, (before["id"],)).fetchone()
    known = sent, got
    # Nobody is there: these wait in the socket, and go through it in order once somebody is.
    exchange(300, 50, answered=False)
    broker.start()
    for number in range(300, 350):
        listen(number)
    exchange(350, 50)
    after = only(broker, "bob")
    counted = after["counters"]["octets_in"], after["counters"]["octets_out"]
    assert after["id"] == before["id"]
    if end == "stop":
        assert written == known
    assert counted == (written[0] + sent - known[0], written[1] + got - known[1])
    wire.close()


@ENDS
def test_who_comes_while_no_daemon_runs_is_served_by_the_next(world: World, end: str) -> None:
    getattr(world.broker, end)()
    wire = Udp(world.net.client.socket(socket.AF_INET, socket.SOCK_DGRAM), SERVER, patience=(20,))
    talking = threading.Thread(target=lambda: log_in(wire), daemon=True)
    talking.start()
    connection = world.net.nat.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(("192.0.2.1", 3653))
    connection.sendall(b"VERSION=2.0.2\r\n")
    world.broker.start()
    assert connection.recv(100).startswith(b"CAPABILITY ")
    talking.join(10)
    assert only(world.broker, "alice")["remote"]
    connection.close()
    wire.close()


def test_a_copy_taken_while_it_runs_brings_the_tunnels_back(world: World, tmp_path: Path) -> None:
    broker = world.broker
    wire, offer = broker.log_in(world.net.client, "alice")
    copied = [each["id"] for each in broker.sessions()]
    copy = str(tmp_path / "copy")
    assert "Wrote" in broker.tool("backup", copy)
    gone, _ = broker.log_in(world.net.client, "bob")
    assert broker.tool("restore", copy, check=False) == "", "it runs"
    broker.stop()
    assert "before-restore" in broker.tool("restore", copy)
    broker.start()
    assert [each["id"] for each in broker.sessions()] == copied
    assert carries(wire, offer)
    for each in (wire, gone):
        each.close()


def log_in(wire: Udp) -> None:
    client = Client(wire)
    client.log_in("DIGEST-MD5", "alice", PASSWORD)
    client.create(prefix_length=56)
    client.accept()


def test_another_address_in_listen_than_in_the_unit_is_one_sentence(tmp_path: Path) -> None:
    with Lab() as lab, contextlib.ExitStack() as kept:
        space = lab.namespace("broker")
        broker = Broker(space, tmp_path, listen={"udp": ["127.0.0.1:3653"]})
        broker.sockets = [kept.enter_context(each) for each in open_sockets(space)]
        with pytest.raises(AssertionError):
            broker.start()
        assert "the service manager has udp 0.0.0.0:3653, udp [::]:3653 instead" in broker.log()
        assert "Traceback" not in broker.log()


def test_a_socket_too_many_is_a_warning(tmp_path: Path) -> None:
    need_tun()
    with Lab() as lab, contextlib.ExitStack() as kept:
        space = lab.namespace("broker")
        broker = Broker(space, tmp_path, listen={"tcp": []})
        broker.sockets = [kept.enter_context(each) for each in open_sockets(space)]
        broker.start()
        assert "the service manager has opened tcp 0.0.0.0:3653, tcp [::]:3653 as well" in broker.log()
        broker.stop()
        broker.check_log()
