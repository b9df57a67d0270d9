# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces and devices that end in any order, protocol 41, and bulk transfers: each test has its own network."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.netns import Lab, Namespace, wait_until
from support.vm_net import (
    BROKER,
    CLIENT,
    CLIENT_TOO,
    HOST,
    INSIDE,
    PORT,
    PREFIX,
    SOURCE,
    Net,
    fragmentation_needed,
    hop,
    icmp,
    ipv6,
    make_utun,
    signalling_socket,
    udp,
)
from support.vm_utun import SIXINFOUR, UNREACHABLE, Event, Events, Netlink, Peer, Refused, Utun

PEER = Peer(1, [f"{SOURCE}/128", PREFIX])
UDP_SEGMENT = 103
OVER_41 = Peer(41, [f"{SOURCE}/128", PREFIX], (CLIENT, 0), (BROKER, 0), SIXINFOUR)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def end(lab: Lab, namespace: Namespace) -> None:
    """Delete a namespace before its lab does."""
    lab._namespaces.remove(namespace)
    subprocess.run(["ip", "netns", "delete", namespace.name], check=True)


def devices(namespace: Namespace) -> list[str]:
    return re.findall(r"^\d+: (utun\w*)", namespace.run("ip", "-o", "link"), re.MULTILINE)


# --- ends of life, in every order ---------------------------------------------------------------------------------


def test_the_device_goes_first_and_the_socket_is_an_ordinary_one_again(lab: Lab) -> None:
    space = lab.namespace("one")
    _, utun = make_utun(space)
    made = signalling_socket(space)
    utun.attach(made)
    utun.add(PEER)
    space.run("ip", "link", "delete", "utun0")
    sender = space.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(5)
    for datagram in (ipv6(SOURCE, HOST), b"\xf0" + bytes(7)):
        sender.sendto(datagram, ("127.0.0.1", PORT))
        assert made.recv(2000) == datagram
    with pytest.raises(Refused):
        utun.device()
    _, again = make_utun(space)
    again.attach(made)
    assert again.dump() == []


def test_the_socket_goes_first(lab: Lab) -> None:
    space = lab.namespace("one")
    _, utun = make_utun(space)
    made = signalling_socket(space)
    utun.attach(made)
    utun.add(PEER)
    made.close()
    assert [each.id for each in utun.dump()] == [1]
    space.run("ip", "link", "delete", "utun0")


def test_the_process_dies(lab: Lab) -> None:
    space = lab.namespace("one")
    _, utun = make_utun(space)
    program = f"""
import os, signal, socket, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from support.vm_utun import Netlink, Peer, Utun
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("0.0.0.0", {PORT}))
utun = Utun(Netlink(), socket.if_nametoindex("utun0"))
utun.attach(made)
utun.add(Peer(1, ["{PREFIX}"]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    space.run(sys.executable, "-c", program, check=False)
    assert [each.id for each in utun.dump()] == [1]
    assert utun.device()["sockets"] == 0
    made = signalling_socket(space)
    utun.attach(made)
    made.close()


def test_root_of_a_user_namespace_has_what_is_in_its_network_namespace() -> None:
    program = f"""
import socket, subprocess, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from support.vm_utun import Events, Netlink, Peer, Utun
subprocess.run(["ip", "link", "add", "utun0", "type", "utun"], check=True)
utun = Utun(Netlink(), socket.if_nametoindex("utun0"))
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("0.0.0.0", {PORT}))
utun.attach(made)
utun.add(Peer(1, ["{PREFIX}"]))
Events()
print([each.id for each in utun.dump()], utun.device()["sockets"])
"""
    unshared = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in unshared.stderr:
        pytest.skip("this kernel has no user namespaces")
    assert (unshared.stdout, unshared.stderr) == ("[1] 1\n", "")


def test_the_namespace_goes_with_the_device_in_it_and_the_socket_lives(lab: Lab) -> None:
    home, other = lab.namespace("home"), lab.namespace("other")
    home.run("ip", "link", "add", "utun0", "type", "utun")
    home.run("ip", "link", "set", "utun0", "netns", other.name)
    netlink_home = make_utun(home, "utun1")[0]
    with other.inside():
        utun = Utun(netlink := Netlink(), socket.if_nametoindex("utun0"))
    made = signalling_socket(home)
    utun.attach(made)
    utun.add(PEER)
    netlink.close()
    end(lab, other)
    sender = home.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(0.2)

    def ordinary() -> bool:
        sender.sendto(ipv6(SOURCE, HOST), ("127.0.0.1", PORT))
        with contextlib.suppress(TimeoutError):
            return bool(made.recv(2000))
        return False

    wait_until(ordinary, "the end of the namespace")
    netlink_home.close()


def test_the_namespace_of_the_socket_goes_and_the_device_lives(lab: Lab) -> None:
    outer, inner = lab.namespace("outer"), lab.namespace("inner")
    netlink, utun = make_utun(inner)
    made = signalling_socket(outer)
    utun.attach(made)
    utun.add(PEER)
    end(lab, outer)
    # A socket keeps its namespace; both go when it is closed.
    assert utun.device()["sockets"] == 1
    made.close()
    assert utun.device()["sockets"] == 0
    assert [each.id for each in utun.dump()] == [1]
    assert netlink.family


def test_the_namespace_in_which_the_device_was_made_goes(lab: Lab) -> None:
    """Its protocol 41 is there, so the device goes with it."""
    born, lives = lab.namespace("born"), lab.namespace("lives")
    born.run("ip", "link", "add", "utun0", "type", "utun")
    born.run("ip", "link", "set", "utun0", "netns", lives.name)
    assert devices(lives) == ["utun0"]
    end(lab, born)
    wait_until(lambda: devices(lives) == [], "the end of the device")


def test_a_device_carries_between_namespaces(lab: Lab) -> None:
    """Outer packets in one namespace, inner ones in another, as a broker in a container has them."""
    client, outer, inner = lab.namespace("client"), lab.namespace("outer"), lab.namespace("inner")
    lab.wire(client, outer, [f"{CLIENT}/24"], [f"{BROKER}/24"])
    outer.run("ip", "link", "add", "utun0", "type", "utun")
    outer.run("ip", "link", "set", "utun0", "netns", inner.name)
    inner.run("ip", "link", "set", "utun0", "up")
    inner.address("utun0", "2001:db8:1::1/64")
    with inner.inside():
        utun = Utun(Netlink(), socket.if_nametoindex("utun0"))
    made = signalling_socket(outer)
    utun.attach(made)
    utun.add(PEER)
    end = client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((CLIENT, 40001))
    end.settimeout(5)
    end.sendto(icmp(SOURCE, "2001:db8:1::1", 128, 0, b"ping" * 4), (BROKER, PORT))
    assert end.recv(2000)[8:] == icmp("2001:db8:1::1", SOURCE, 129, 0, b"ping" * 4)[8:]
    # And protocol 41 where the device was made.
    raw = client.socket(socket.AF_INET, socket.SOCK_RAW, 41)
    raw.settimeout(5)
    utun.delete(1)
    utun.add(OVER_41)
    raw.sendto(icmp(SOURCE, "2001:db8:1::1", 128, 0, b"ping" * 4), (BROKER, 0))
    assert raw.recv(2000)[20 + 8 :] == icmp("2001:db8:1::1", SOURCE, 129, 0, b"ping" * 4)[8:]


def test_the_next_socket_sends_by_its_own_routes(lab: Lab) -> None:
    """Not by those that were found for the last one, of the same address and port in another namespace."""
    inner = lab.namespace("inner")
    _, utun = make_utun(inner)
    inner.address("utun0", "2001:db8:1::1/64")
    utun.add(PEER)
    source = inner.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    source.bind(("2001:db8:1::1", 0))
    for label in ("one", "two"):
        outer, client = lab.namespace(label), lab.namespace(f"{label}-client")
        lab.wire(client, outer, [f"{CLIENT}/24"], [f"{BROKER}/24"])
        end = client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind((CLIENT, 40001))
        end.settimeout(5)
        utun.attach(made := signalling_socket(outer))
        for _ in range(8):  # on whichever processor it is
            source.sendto(label.encode(), (SOURCE, 9))
            assert end.recv(2000).endswith(label.encode())
        made.close()


# --- protocol 41 --------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(net: Net) -> Iterator[socket.socket]:
    """The client's end of protocol 41; it receives IPv4 headers, too."""
    made = net.client.socket(socket.AF_INET, socket.SOCK_RAW, 41)
    made.bind((CLIENT, 0))
    made.settimeout(5)
    yield made
    made.close()


def test_protocol_41_both_ways(net: Net, raw: socket.socket) -> None:
    net.utun.add(OVER_41)
    raw.sendto(packet := ipv6(SOURCE, HOST, b"up"), (BROKER, 0))
    assert net.at_host() == hop(packet)
    net.down(packet := ipv6(HOST, INSIDE, b"down"))
    outer = raw.recv(2000)
    assert outer[20:] == hop(packet)
    assert outer[12:20] == socket.inet_aton(BROKER) + socket.inet_aton(CLIENT)
    raw.sendto(ipv6("2001:db8:f::3", HOST), (BROKER, 0))
    net.drops_to(41, spoofed_source=1)
    raw.sendto(ipv6(SOURCE, HOST) + b"more", (BROKER, 0))
    net.drops_to(41, spoofed_source=1, malformed=1)
    assert net.utun.one(41).carried == (1, 42, 1, 44)
    net.down(ipv6(HOST, SOURCE, bytes(1300)))
    assert net.at_host()[44:48] == (1280).to_bytes(4, "big")
    net.drops_to(41, spoofed_source=1, malformed=1, too_big=1)


def test_icmp_errors_for_protocol_41(net: Net, raw: socket.socket) -> None:
    net.utun.add(replace(OVER_41, mtu=1400))
    with net.broker.inside():
        events = Events()

    def told() -> Event | None:
        net.down(ipv6(HOST, SOURCE))  # the client has no such tunnel, and says so
        return next((each for each in events.read() if each.kind == UNREACHABLE), None)

    assert wait_until(told, "an event").peer.id == 41
    events.close()
    icmp4 = net.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    icmp4.sendto(fragmentation_needed(raw.recv(2000), 1340), (BROKER, 0))
    try:
        net.down(ipv6(HOST, SOURCE, bytes(1340 - 20 - 40 + 1)))
        assert net.at_host()[44:48] == (1340 - 20).to_bytes(4, "big")
    finally:
        icmp4.close()
        net.broker.run("ip", "route", "flush", "cache")


def test_one_address_may_have_a_peer_of_each_transport(net: Net, raw: socket.socket) -> None:
    net.add(OVER_41, Peer(1, ["2001:db8:1::55/128"]))
    raw.sendto(packet := ipv6(SOURCE, HOST), (BROKER, 0))
    assert net.at_host() == hop(packet)
    net.up(packet := ipv6("2001:db8:1::55", HOST))
    assert net.at_host() == hop(packet)
    net.up(ipv6(SOURCE, HOST))
    net.drops_to(1, spoofed_source=1)


def test_the_tunnels_of_sit_go_on_beside_ours(net: Net) -> None:
    net.utun.add(OVER_41)
    ends = ((net.broker, CLIENT_TOO, BROKER), (net.client, BROKER, CLIENT_TOO))
    for number, (space, remote, local) in enumerate(ends, 1):
        space.run("ip", "tunnel", "add", "six", "mode", "sit", "remote", remote, "local", local)
        space.run("ip", "link", "set", "six", "up")
        space.address("six", f"2001:db8:c::{number}/64")
    try:
        transfer(net.broker, net.client, "2001:db8:c::1", "2001:db8:c::2", 20_000)
        assert net.utun.one(41).carried == (0, 0, 0, 0)
    finally:
        for space, _, _ in ends:
            space.run("ip", "tunnel", "del", "six")


# --- bulk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["fou", "sit"])
def test_bulk_transfers_arrive_whole_and_are_counted_to_the_octet(net: Net, over: str) -> None:
    """The client is the kernel's own sit (over FOU), which has the same wire format; TCP both ways, with GRO and GSO.

    The client's device neither joins nor splits, so its counters are those of the wire.
    """
    client, broker = net.client, net.broker
    client.run("modprobe", "-a", "fou", "sit", check=False)  # built in, maybe
    udp = ["encap", "fou", "encap-sport", "40001", "encap-dport", str(PORT)] if over == "fou" else []
    if udp:
        client.run("ip", "fou", "add", "port", "40001", "ipproto", "41")
    client.run(*("ip", "link", "add", "six", "type", "sit", "remote", BROKER, "local", CLIENT, "ttl", "64"), *udp)
    for space, device in ((broker, net.outer[1]), (broker, net.inner[0])):
        space.run("ethtool", "-K", device, "gro", "on", "tso", "on", "gso", "on", check=False)
    before = handled(broker)
    try:
        client.run("ip", "link", "set", "six", "up", "mtu", "1280")
        client.run("ethtool", "-K", "six", "tso", "off", "gso", "off", "gro", "off", check=False)
        client.address("six", f"{SOURCE}/128")
        client.run("ip", "-6", "route", "add", "2001:db8:f::/64", "dev", "six")
        net.utun.add(Peer(1, [f"{SOURCE}/128"]) if udp else OVER_41)
        for server, dialler, address, bind in ((net.host, client, HOST, SOURCE), (client, net.host, SOURCE, HOST)):
            transfer(server, dialler, address, bind)
        seen = net.utun.dump()[0]
        stats = client.run("ip", "-s", "-o", "link", "show", "six")
        rx, tx = re.findall(r"X: +bytes[^\\]*\\ +(\d+) +(\d+)", stats)
        wait_until(
            lambda: (
                (s := net.utun.dump()[0]).drops == {}
                and (s.tx_packets, s.tx_bytes) == (int(rx[1]), int(rx[0]))
                and (s.rx_packets, s.rx_bytes) == (int(tx[1]), int(tx[0]))
            ),
            f"{seen.carried} equal to the client's {rx} and {tx}",
        )
        joined = [now - then for now, then in zip(handled(broker), before, strict=True)]
        assert joined[0] < int(tx[1]), "nothing was joined on receipt"
        assert joined[1] < int(rx[1]), "nothing was sent as one for many"
    finally:
        client.run("ip", "link", "delete", "six", check=False)
        if udp:
            client.run("ip", "fou", "del", "port", "40001")


@pytest.mark.parametrize("how", ["gro", "rx-gro-list", "rx-udp-gro-forwarding"])
def test_udp_that_is_joined_on_the_way_arrives_as_it_was_sent(net: Net, peer: Peer, how: str) -> None:
    """Both ways, and with what else GRO can be told to do with UDP. Sent as one (UDP_SEGMENT), so it comes together."""
    size, count = 1000, 20
    data = os.urandom(size * count)
    sender = net.host.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.bind((HOST, 5000))
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    ends = ((net.host, net.inner[1]), (net.client, net.outer[0]))
    for space, device in ends:
        # Before 6.11 UDP_SEGMENT wants a device that does checksums; the segments are to be real ones all the same.
        space.run("ethtool", "-K", device, "tx", "on", check=False)
        space.run("ethtool", "-K", device, "tx-udp-segmentation", "off", check=False)
    for device in (net.inner[0], net.outer[1]):
        net.broker.run("ethtool", "-K", device, "gro", "on", how, "on")
    try:
        sender.sendto(data, (SOURCE, 9))
        came = [net.at_client() for _ in range(count)]
        assert b"".join(each[48:] for each in came) == data
        client = net.client_at()
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(came[0]))
        back = [udp(SOURCE, HOST, each[48:]) for each in came]
        client.sendto(b"".join(back), (BROKER, PORT))
        assert [net.at_host() for _ in back] == list(map(hop, back))
        octets = sum(map(len, came))
        assert net.utun.one(1).carried == (count, octets, count, octets)
        assert net.utun.one(1).drops == {}
    finally:
        sender.close()
        for device in (net.inner[0], net.outer[1]):
            net.broker.run("ethtool", "-K", device, how, "off", "gro", "off")
        for space, device in ends:
            space.run("ethtool", "-K", device, "tx", "off", check=False)


def handled(broker: Namespace) -> list[int]:
    """What the device has counted: packets as the kernel handled them, received and sent."""
    stats = broker.run("ip", "-s", "-o", "link", "show", "utun0")
    return [int(each) for each in re.findall(r"X: +bytes[^\\]*\\ +\d+ +(\d+)", stats)]


def transfer(server: Namespace, dialler: Namespace, address: str, bind: str, size: int = 1_500_000) -> None:
    """Send `size` octets over TCP and compare what arrives."""
    data = os.urandom(size)
    listener = server.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(1)
    listener.settimeout(20)
    sender = dialler.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sender.bind((bind, 0))
    sender.settimeout(20)
    sender.connect(listener.getsockname()[:2])
    receiver, _ = listener.accept()
    receiver.settimeout(60)
    thread = threading.Thread(target=lambda: (sender.sendall(data), sender.close()))
    thread.start()
    digest = hashlib.sha256()
    while chunk := receiver.recv(1 << 16):
        digest.update(chunk)
    thread.join()
    receiver.close()
    listener.close()
    assert digest.digest() == hashlib.sha256(data).digest()
