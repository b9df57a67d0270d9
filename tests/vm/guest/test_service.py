# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 connect` behind a NAT and the daemon as twistd runs it, over the kernel's data plane.

The ports are a service manager's, so they live on when the daemon does not; and so do the packets. One test unloads the
module, which leaves nothing of `net`, so this file comes behind those that need that.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from support.activation import open_sockets
from support.exact import Meter, Tripwire
from support.netns import BROKER_OUTER, HOST, NAT_OUTER, Lab, internet, wait_until
from support.scenario import BROKER_ADDRESS, LINKS, PASSWORD, PORT, SERVER, Broker, Connection, World
from support.streams import Stream
from support.traffic import echo_request, ping, transfer
from support.tsp_client import Client, Refused, Tcp
from support.vm_utun import Netlink, Utun, load_utun

BULK = 500_000
MORE = 100_000
"""Octets of a transfer that show that it goes on."""
USERS = ("alice", "bob", "carol")
PATIENCE = 120.0
"""Seconds; everything takes long where the processor is a program."""
DEVICE = "ddtb6"


@dataclass(frozen=True)
class Kernel(World):
    """The world, with what counts."""

    meter: Meter
    tripwire: Tripwire

    def utun(self) -> Utun:
        with self.net.broker.inside():
            return Utun(Netlink(), socket.if_nametoindex(DEVICE))

    def agree(self, user: str) -> dict[str, int]:
        """Wait until the broker says of the only session what the meter says, and return it."""

        def same() -> dict[str, int] | None:
            counters = only(self.broker, user)["counters"]
            metered = self.meter.read()
            return metered if {name: counters[name] for name in metered} == metered else None

        try:
            return wait_until(same, "the same count", PATIENCE)
        except AssertionError as error:
            said = only(self.broker, user)["counters"]
            raise AssertionError(f"{error}: the broker says {said}, the kernel {self.meter.read()}") from None


def only(broker: Broker, user: str) -> dict[str, Any]:
    (session,) = broker.sessions(user)
    return session


def overview(broker: Broker) -> dict[str, Any]:
    return json.loads(broker.status())


@pytest.fixture(scope="module")
def shared_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One for all tests; each has its own account."""
    subprocess.run(["modprobe", "-q", "tun"], check=False)  # built in, maybe
    with Lab() as lab, contextlib.ExitStack() as kept:
        net = internet(lab)
        broker = Broker(net.broker, tmp_path_factory.mktemp("broker"), listen={}, dataplane={"kind": "auto"})
        broker.sockets = [kept.enter_context(each) for each in open_sockets(net.broker)]
        [udp] = [each for each in broker.sockets if (each.family, each.type) == (socket.AF_INET, socket.SOCK_DGRAM)]
        tripwire = Tripwire(net.broker, udp)
        # It works: nobody has the socket yet, so a packet comes to it.
        with net.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(echo_request("2001:db8::1", HOST), SERVER)
        wait_until(lambda: tripwire.tripped() == 1, "the tripwire")
        broker.add_accounts(USERS, PASSWORD)
        broker.start(PATIENCE)
        made = Kernel(net, broker, Meter(net.broker, PORT), tripwire)
        yield made
        broker.stop(PATIENCE)
        broker.check_log()
        assert made.utun().device()["sockets"] == 2, "device and sockets stay with the kernel"


@pytest.fixture
def kernel(shared_kernel: Kernel) -> Iterator[Kernel]:
    shared_kernel.meter.reset()
    yield shared_kernel
    shared_kernel.broker.check_log()


@pytest.fixture
def connect(kernel: Kernel, tmp_path: Path) -> Iterator[Callable[[str], Connection]]:
    started: list[Connection] = []

    def start(user: str) -> Connection:
        started.append(made := Connection(kernel.net.client, tmp_path, user, PASSWORD, "--prefix-length", "56"))
        made.start()
        made.wait_up(PATIENCE)
        return made

    yield start
    for each in started:
        each.stop(deadline=PATIENCE)


def test_log_in_ping_and_transfer_both_ways_without_a_packet_in_user_space(
    kernel: Kernel, connect: Callable[[str], Connection]
) -> None:
    tunnel = connect("alice")
    net, broker = kernel.net, kernel.broker
    address = str(tunnel.address())
    assert tunnel.address() in LINKS
    assert ping(net.client, BROKER_ADDRESS, wait=10) is not None
    assert ping(net.client, HOST, wait=10) is not None
    assert ping(net.host, address, wait=10) is not None
    assert ping(net.client, HOST, size=1232, wait=10) is not None, "a packet of exactly the MTU does not pass"
    transfer(net.client, net.host, HOST, BULK, deadline=PATIENCE)
    transfer(net.host, net.client, address, BULK, deadline=PATIENCE)
    page = overview(broker)
    assert page["data_plane"] == "utun"
    assert "packets stay in the kernel" in page["data_plane_reason"]
    session = only(broker, "alice")
    assert session["established"] is True
    assert IPv6Network(session["prefix"]).prefixlen == 56
    tunnel.stop(deadline=PATIENCE)
    counted = kernel.agree("alice")
    assert counted["octets_in"] > BULK
    assert counted["octets_out"] > BULK
    # What is written down at its end is all of it as well.
    assert kernel.tripwire.tripped() == 1, "packets came to the daemon"
    broker.call("session.kill", id=session["id"])
    with contextlib.closing(sqlite3.connect(broker.database)) as store:
        row = store.execute(f"SELECT {', '.join(counted)} FROM session WHERE ended IS NOT NULL").fetchone()
    assert dict(zip(counted, row, strict=True)) == counted
    assert kernel.utun().dump() == []


def test_packets_flow_while_no_daemon_runs_and_the_next_one_counts_on(
    kernel: Kernel, connect: Callable[[str], Connection]
) -> None:
    broker, tunnel = kernel.broker, connect("bob")
    before = only(broker, "bob")
    stream = Stream(kernel.net.client, kernel.net.host, HOST, pause=0.2)
    for end in ("kill", "stop"):
        stream.flows(MORE, PATIENCE)
        broker.kill() if end == "kill" else broker.stop(PATIENCE)
        stream.flows(MORE, PATIENCE)
        assert [each.id for each in kernel.utun().dump()] == [before["id"]]
        broker.start(PATIENCE)
        page = overview(broker)
        assert page["activity"]["logins"] == {}, "somebody logged in again"
        done = {name: page["reconciled"][name] for name in ("kept", "raised", "lowered")}
        assert done == {"kept": 1, "raised": 0, "lowered": 0}
    stream.flows(MORE, PATIENCE)
    stream.finish(PATIENCE)
    assert ping(kernel.net.client, HOST, wait=10) is not None
    after = only(broker, "bob")
    for same in ("id", "remote", "address", "prefix", "started"):
        assert after[same] == before[same]
    assert [each["event"] for each in tunnel.events() if each["event"] in ("up", "changed", "lost")] == ["up"]
    tunnel.stop(deadline=PATIENCE)
    assert kernel.agree("bob")["octets_in"] > 5 * MORE
    assert kernel.tripwire.tripped() == 1, "packets came to a daemon"
    broker.call("session.kill", id=after["id"])


def test_what_goes_under_the_client_is_made_again_when_it_can_be(
    kernel: Kernel, connect: Callable[[str], Connection]
) -> None:
    """The device, and then the module with it. Meanwhile packets come to the daemon, which drops them."""
    connect("carol")
    broker = kernel.broker
    before = only(broker, "carol")

    kernel.net.broker.run("ip", "link", "delete", DEVICE)
    wait_until(lambda: ping(kernel.net.client, HOST, wait=2) is not None, "the host's reply", PATIENCE)
    after = only(broker, "carol")
    assert (after["id"], after["remote"]) == (before["id"], before["remote"])
    assert overview(broker)["reconciled"]["raised"] == 1
    assert f"{DEVICE}: the device " in broker.log()
    subprocess.run(["rmmod", "utun"], check=True)
    lacking = "the utun module is not loaded"
    try:
        wait_until(lambda: lacking in broker.log(), "a word of the daemon", PATIENCE)
        assert ping(kernel.net.client, HOST, wait=2) is None
    finally:
        load_utun()
    wait_until(lambda: ping(kernel.net.client, HOST, wait=2) is not None, "the host's reply", PATIENCE)
    assert broker.log().count(lacking) == 1


def test_protocol_41_for_a_client_without_nat(kernel: Kernel) -> None:
    """It asks over TCP; the kernel's own sit is its end. Behind a NAT there is no such tunnel."""
    net, broker = kernel.net, kernel.broker
    with contextlib.closing(Tcp(net.client.socket(socket.AF_INET, socket.SOCK_STREAM), SERVER)) as wire:
        behind = Client(wire)
        assert {"TUNNEL=V6V4", "TUNNEL=V6UDPV4"} <= behind.greet()
        behind.authenticate("DIGEST-MD5", "carol", PASSWORD)
        with pytest.raises(Refused) as caught:
            behind.create(type="v6v4", address="10.66.1.2")
        assert caught.value.code == 303
    with contextlib.closing(Tcp(net.nat.socket(socket.AF_INET, socket.SOCK_STREAM), SERVER)) as wire:
        client = Client(wire)
        client.log_in("DIGEST-MD5", "carol", PASSWORD)
        offer = client.create(type="v6anyv4", address=NAT_OUTER)
        client.accept()
    assert offer.type == "v6v4"
    net.nat.run("ip", "link", "add", "six", "type", "sit", "local", NAT_OUTER, "remote", BROKER_OUTER, "ttl", "64")
    net.nat.run("ip", "link", "set", "six", "up", "mtu", "1280")
    net.nat.address("six", f"{offer.client_inner}/128")
    net.nat.route("::/0", "dev", "six")
    assert ping(net.nat, HOST, wait=10) is not None
    session = only(broker, "carol")
    assert session["remote"] == f"{NAT_OUTER}:0"
    assert session["counters"]["packets_in"] >= 1
    broker.call("session.kill", id=session["id"])
    assert ping(net.nat, HOST, wait=2) is None
