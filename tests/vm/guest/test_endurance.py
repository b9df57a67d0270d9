# SPDX-License-Identifier: GPL-2.0-or-later
"""Much at once, nonsense, and everything changing under traffic. Seeds are fixed; what fails fails again."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from support import vm_flood
from support.netns import wait_until
from support.vm_net import CLIENT, HOST, PORT, PREFIX, SOURCE, Net, hop, ipv6, make_utun, signalling_socket
from support.vm_utun import (
    A_FD,
    A_IFINDEX,
    A_PEER,
    DEV_GET,
    DUMP,
    ID,
    MTU,
    PEER_ADD,
    PEER_DEL,
    PEER_FLUSH,
    PEER_GET,
    PEER_SET,
    REMOTE_PORT,
    REPLACE,
    SOCKET_ADD,
    SOCKET_DEL,
    Netlink,
    Peer,
    Refused,
    Utun,
    attr,
    nest,
    prefix,
    u16,
    u32,
)
from support.vm_utun import PREFIX as PREFIX_KIND

_PEER = struct.Struct("=HH HHI HHB3x HH4s HH2s2x HH4s HH2s2x HHH2x HH16sB3x")


def quick(number: int) -> bytes:
    """Peer `number` + 1 of `vm_flood`, packed at once."""
    address, port = vm_flood.endpoint(number)
    inner = vm_flood.HIGH + number.to_bytes(8, "big")
    return _PEER.pack(
        *(_PEER.size, A_PEER | 0x8000, 8, 1, number + 1, 5, 2, 1),
        *(8, 3, socket.inet_aton(vm_flood.BROKER), 6, 4, PORT.to_bytes(2, "big")),
        *(8, 5, address, 6, 6, port.to_bytes(2, "big"), 6, 7, 1280, 24, PREFIX_KIND, inner, 128),
    )


def populate(utun: Utun, count: int, at_once: int = 200, first: int = 0) -> None:
    for start in range(first, first + count, at_once):
        utun.ask(PEER_ADD, *(quick(n) for n in range(start, min(start + at_once, first + count))))


@pytest.fixture
def flood(net: Net) -> Iterator[Callable[[int], None]]:
    """Starts floods from the client's namespace."""
    net.broker.route("198.18.0.0/15", "via", CLIENT)
    net.broker.route("2001:db8:9000::/64", "dev", "utun0")
    running: list[subprocess.Popen[str]] = []

    def start(peers: int, seed: int = 1) -> None:
        process = net.client.spawn(
            sys.executable, vm_flood.__file__, str(peers), str(seed), stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "sending\n"

    yield start
    net.client.end_processes()
    net.broker.run("ip", "-6", "route", "delete", "2001:db8:9000::/64")
    net.broker.run("ip", "route", "delete", "198.18.0.0/15")


def memory() -> int:
    """Octets in slabs and per-CPU areas."""
    found = dict(re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    return 1024 * (int(found["Slab"]) + int(found["Percpu"]))


def test_fifty_thousand_peers_come_are_shown_and_go_under_traffic(net: Net, flood: Callable[[int], None]) -> None:
    count = 50_000
    used, began = memory(), time.monotonic()
    populate(net.utun, count)
    added, grown = time.monotonic() - began, memory() - used
    began = time.monotonic()
    message = net.netlink.pack(PEER_GET, net.utun.me, DUMP)
    net.netlink.send(message)
    assert len(net.netlink.answers(net.netlink.sequence)) == count
    dumped = time.monotonic() - began
    cpus = os.cpu_count()
    print(
        f"\n{count} peers: added in {added:.2f} s, {grown / count:.0f} octets each on {cpus} CPUs, dump {dumped:.2f} s"
    )
    if not Path("/sys/kernel/debug/kmemleak").exists():  # a kernel that watches memory needs more of it
        assert grown / count <= 1024 + 100 * (cpus or 1)

    flood(count)
    wait_until(lambda: net.utun.strays().get("unknown-endpoint", 0) > 100, "traffic")
    began = time.monotonic()
    for start in range(1, count // 2, 128):
        net.utun.ask(
            PEER_DEL, *(nest(A_PEER, u32(ID, each)) for each in range(start, min(start + 128, count // 2 + 1)))
        )
    print(f"{count // 2} deleted one by one under traffic in {time.monotonic() - began:.2f} s")
    assert net.utun.device()["peers"] == count // 2
    populate(net.utun, count // 2)
    assert net.utun.device()["peers"] == count
    carried = [each for each in net.utun.dump() if each.rx_packets]
    assert carried
    assert all(each.rx_bytes == 45 * each.rx_packets for each in carried)
    began = time.monotonic()
    net.utun.flush()
    print(f"flushed under traffic in {time.monotonic() - began:.2f} s")
    assert net.utun.dump() == []


def test_everything_changes_under_traffic(net: Net, flood: Callable[[int], None]) -> None:
    """Peers, sockets and whole devices come and go on one processor while packets pass, by way of GRO, on the other."""
    net.broker.run("ethtool", "-K", net.outer[1], "gro", "on")
    flood(64)
    end = time.monotonic() + 6
    faults: list[BaseException] = []

    def churn(act: Callable[[random.Random], None], seed: int) -> None:
        dice = random.Random(seed)
        try:
            while time.monotonic() < end and not faults:
                act(dice)
        except BaseException as fault:
            faults.append(fault)

    with net.broker.inside():
        peers = Utun(Netlink(), struct.unpack_from("=I", net.utun.me, 4)[0])

    def change_peers(dice: random.Random) -> None:
        number = dice.randrange(64)
        act = dice.randrange(5)
        if act < 2:
            peers.ask(PEER_ADD, quick(number), flags=REPLACE)
        elif act == 2:
            peers.delete(number + 1)
        elif act == 3:
            try:
                peers.set(number + 1, u16(MTU, 1280 + number), attr(6, (40000 + number % 16).to_bytes(2, "big")))
            except Refused:
                return
        else:
            peers.dump()

    def bound() -> socket.socket | None:
        # A child of the thread below has the one that was closed, until it becomes another program.
        with contextlib.suppress(OSError):
            return signalling_socket(net.broker)
        return None

    def change_sockets(dice: random.Random) -> None:
        if dice.randrange(2):
            net.utun.detach(net.signalling)
        else:
            net.signalling.close()
            net.signalling = wait_until(bound, "the port")
        net.utun.attach(net.signalling)
        net.heard()

    def change_devices(dice: random.Random) -> None:
        net.broker.run("ip", "link", "add", "utun9", "type", "utun")
        with net.broker.inside():
            device = Utun(Netlink(), socket.if_nametoindex("utun9"))
        other = signalling_socket(net.broker, "127.0.0.1", 4000)
        device.attach(other)
        populate(device, 50)
        if dice.randrange(2):
            other.close()
        net.broker.run("ip", "link", "delete", "utun9")
        other.close()
        device.netlink.close()

    threads = [
        threading.Thread(target=churn, args=(act, seed))
        for seed, act in enumerate((change_peers, change_sockets, change_devices))
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    peers.netlink.close()
    net.broker.run("ethtool", "-K", net.outer[1], "gro", "off")
    assert faults == []
    assert net.utun.device()["sockets"] == 1


def test_a_change_of_a_peer_is_whole_for_every_packet(net: Net) -> None:
    """Two states of one peer, changed to and fro under traffic. In both, A is an address of it.

    B is one only where the peer is at port 40002, C only where it is at 40001, so a packet that met the endpoint of one
    state and the prefixes of the other would be called spoofed; one that met neither would be an unknown endpoint on
    the port that is A's, or have no tunnel.
    """
    a, b, c = "2001:db8:1::a", "2001:db8:1::b", "2001:db8:1::c"
    states = ((40002, (f"{a}/128", f"{b}/128"), 1280), (40001, (f"{a}/128", f"{c}/128"), 1400))
    net.add(Peer(1, states[0][1], (CLIENT, 40002)))
    net.client_at(40001)
    before, sent, down = net.utun.strays(), 0, 0
    over = threading.Event()

    def traffic() -> None:
        nonlocal sent, down
        while not over.is_set():
            for port, source in ((40002, b), (40001, c), (40002, a), (40001, a)):
                net.up(ipv6(source, HOST), port)
                sent += 1
            net.down(ipv6(HOST, a))
            down += 1

    sender = threading.Thread(target=traffic)
    sender.start()
    try:
        for turn in range(1500):
            port, prefixes, mtu = states[turn % 2]
            net.utun.set(1, attr(REMOTE_PORT, port.to_bytes(2, "big")), *map(prefix, prefixes), u16(MTU, mtu))
    finally:
        over.set()
        sender.join()

    def strange() -> dict[str, int]:
        now = net.utun.strays()
        return {k: now[k] - before.get(k, 0) for k in now if now[k] != before.get(k, 0)}

    def accounted() -> bool:
        seen = net.utun.one(1)
        return (seen.rx_packets + strange().get("unknown-endpoint", 0), seen.tx_packets) == (sent, down)

    wait_until(accounted, "all packets accounted for")
    assert set(strange()) <= {"unknown-endpoint"}
    assert net.utun.one(1).drops == {}
    assert net.utun.one(1).rx_packets > 0
    net.drain_host()


def overlap(one: IPv6Network, other: IPv6Network) -> bool:
    return one.subnet_of(other) or other.subnet_of(one)


def test_requests_that_are_nonsense_change_nothing_and_those_that_are_not_keep_the_promises(net: Net) -> None:
    """Well-formed messages with a few things wrong: an eighth or more of them must still be accepted."""
    dice = random.Random(4)
    addresses = [IPv6Address("2001:db8:9000::").packed[:-1] + bytes([n]) for n in range(6)]
    lengths = (0, 1, 47, 48, 63, 64, 96, 125, 126, 127, 128, 129, 255)
    accepted = 0
    silent: set[tuple[int, int | None]] = set()
    ports = [40001, 40002, 40003]

    def some_prefix() -> bytes:
        length = dice.choice(lengths)
        number = int.from_bytes(dice.choice(addresses), "big")
        if 0 < length < 128 and dice.random() < 0.9:
            number &= -1 << 128 - length
        value = number.to_bytes(16, "big") + struct.pack("=B3x", length)
        return attr(PREFIX_KIND, value if dice.random() < 0.97 else value[: dice.randrange(20)])

    def some_peer() -> bytes:
        good = Peer(dice.randrange(1, 7), [], (CLIENT, dice.choice(ports)), mtu=dice.choice((1280, 1400, 65507)))
        inside = good.pack()[4:] + b"".join(some_prefix() for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 70))))
        if dice.random() < 0.3:
            kind, size = dice.randrange(20), dice.choice((0, 1, 2, 4, 8, 20))
            inside += attr(kind, dice.randbytes(size))
        if dice.random() < 0.1:
            blob = bytearray(inside)
            blob[dice.randrange(len(blob))] ^= 1 << dice.randrange(8)
            inside = bytes(blob)
        return nest(A_PEER, inside)

    commands = (
        [PEER_ADD] * 6 + [PEER_SET] * 4 + [PEER_DEL, PEER_GET, PEER_FLUSH, DEV_GET, SOCKET_ADD, SOCKET_DEL, 9, 10, 0]
    )
    for turn in range(3000):
        command = dice.choice(commands)
        payload = net.utun.me if dice.random() < 0.97 else u32(A_IFINDEX, dice.randrange(12))
        if command in (PEER_ADD, PEER_SET):
            payload += b"".join(some_peer() for _ in range(dice.choice((1, 1, 2, 5))))
        elif command in (PEER_DEL, PEER_GET):
            payload += b"".join(nest(A_PEER, u32(ID, dice.randrange(8))) for _ in range(dice.randrange(4)))
        elif command in (SOCKET_ADD, SOCKET_DEL):
            payload += u32(A_FD, dice.choice((0, 1, 2, 500, 0xFFFFFFFF)))
        if dice.random() < 0.05:
            payload += dice.randbytes(dice.randrange(40))
        message = bytearray(net.netlink.pack(command, payload, dice.choice((0, 0, REPLACE, REPLACE, 0x200, 0x700))))
        if command in (PEER_ADD, PEER_SET, PEER_DEL, PEER_GET) and dice.random() < 0.1:
            for _ in range(dice.choice((1, 1, 2, 4))):
                message[dice.randrange(20, len(message))] = dice.randrange(256)
        net.netlink.send(bytes(message))
        try:
            net.netlink.answers(net.netlink.sequence)
            accepted += 1
        except Refused as fault:
            if not fault.said:
                silent.add((message[16], fault.errno))
        if turn % 25 == 0:
            seen = net.utun.dump()
            assert len({(each.transport, each.local, each.remote) for each in seen}) == len(seen)
            owned = [(each.id, IPv6Network(network)) for each in seen for network in each.prefixes]
            assert all(a[0] == b[0] or not overlap(a[1], b[1]) for a in owned for b in owned)
            assert all(each.prefixes and 1280 <= each.mtu <= 65507 for each in seen)
            assert net.utun.device()["peers"] == len(seen)
    print(f"\n{accepted} of 3000 accepted")
    # Generic netlink itself has no words for a command, or a dump, that there is not.
    assert {code for _, code in silent} <= {errno.EOPNOTSUPP}, silent
    assert accepted > 3000 // 8
    assert net.utun.device()["sockets"] == 1


def test_datagrams_that_are_nonsense_are_all_accounted_for(net: Net, peer: Peer) -> None:
    dice = random.Random(5)
    before, sent, heard = net.utun.strays(), 2000, 0
    whole = ipv6(SOURCE, HOST, bytes(range(40)))
    net.client_at(40002)
    for number in range(sent):
        blob = bytearray(whole[: dice.randrange(len(whole) + 1)] if dice.random() < 0.3 else whole)
        for _ in range(dice.choice((0, 1, 2, 8))):
            if blob:
                blob[dice.randrange(len(blob))] = dice.randrange(256)
        if dice.random() < 0.2:
            blob += dice.randbytes(dice.randrange(1200))
        net.up(bytes(blob), 40001 + (number % 8 == 0))
        if number % 50 == 0:
            heard += len(net.heard())

    def accounted() -> int:
        nonlocal heard
        heard += len(net.heard())
        seen = net.utun.one(1)
        now = net.utun.strays()
        strays = sum(now.get(key, 0) - before.get(key, 0) for key in ("malformed", "unknown-endpoint"))
        return seen.rx_packets + sum(seen.drops.values()) + strays + heard

    wait_until(lambda: accounted() == sent, "the last of them")
    net.drain_host()
    net.up(packet := ipv6(SOURCE, HOST, b"and it still works"))
    wait_until(lambda: net.at_host() == hop(packet), "a good one")


def test_two_devices_do_not_know_each_other(net: Net, peer: Peer) -> None:
    netlink, other = make_utun(net.broker, "utun1")
    second = signalling_socket(net.broker, port=4000)
    other.attach(second)
    other.add(replace(peer, local=("192.0.2.1", 4000)))
    net.client_at().sendto(ipv6(SOURCE, HOST), ("192.0.2.1", 4000))
    wait_until(lambda: other.one(1).rx_packets == 1, "the packet")
    assert net.utun.one(1).rx_packets == 0
    net.broker.run("ip", "link", "delete", "utun1")
    second.close()
    netlink.close()
    assert PREFIX in net.utun.one(1).prefixes
