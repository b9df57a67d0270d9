# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m bench.kernel [PART ...]`: what utun carries, beside the kernel's own tunnel and no tunnel.

To be run where the module is loaded, as root; `make bench-vm` does that in virtual machines. The baseline of a figure
is sit over FOU, which has the same wire format, unless its name says otherwise. Every run measures everything once, so
its ratios are of one moment.

Packets: the broker alone, on one processor. Frames of 142 octets (an inner packet of 100) are made in its kernel and
given to one dummy device, and go out of another. Where many peers stand beside one, that one has the packets from and
to as many addresses, for the stack remembers the route of the last address.

    outer (192.0.2.1/24) ---- utun0, sit over FOU, or nothing ---- inner (2001:db8:f::1/64)

TCP and ping: a client, the broker and a host, as in `bench.forwarding`; the client's end is the kernel's own sit over
FOU, its segments are as on a wire, and the broker's devices join and split them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address
from pathlib import Path

from bench import plane
from bench.injector import XDP_DROP, Field, Frames, Injector
from bench.table import Row, table
from bench.tcp import bulk
from tests.support.netns import Lab, Namespace
from tests.support.vm_utun import A_PEER, DONE, DUMP, NESTED, PEER_ADD, PEER_GET, Netlink, Peer, Utun
from tests.support.vm_utun import PREFIX as PREFIX_KIND

PARTS = ("peers", "daemon", "packets", "tcp", "ping")
MANY, SET = 50_000, 1_000
BROKER, CLIENT, CLIENT_TOO, GATEWAY = "192.0.2.1", "192.0.2.2", "192.0.2.4", "192.0.2.3"
HOST, BROKER_INNER = "2001:db8:f::2", "2001:db8:f::1"
PORT, FOU_PORT, CLIENT_PORT = 3653, 3654, 40001
FAR = bytes.fromhex("020000000001")
OVER_UTUN, OVER_FOU, PLAIN, OVER_ONE = "2001:db8:9000::", "2001:db8:a000::", "2001:db8:b000::", "2001:db8:c000::"
MTU = 1280
SECONDS = 1.5
"""Of one transfer."""
PINGS = 1000
"""In one run."""

Runs = dict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel", description="Measure the kernel module utun.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure, of {', '.join(PARTS)}; default all")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--packets", type=int, default=200_000, help="packets of one way in a run (default 200000)")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    subprocess.run(["modprobe", "-qa", "dummy", "fou", "sit"], check=False)  # built in, maybe
    parts: dict[str, Callable[[], list[Row]]] = {
        "peers": lambda: peers(arguments.runs),
        "daemon": lambda: plane.measure(arguments.runs, MANY, _say),
        "packets": lambda: packets(arguments.runs, arguments.packets),
        "tcp": lambda: transfers(arguments.runs),
        "ping": lambda: pings(arguments.runs),
    }
    rows = [row for part in arguments.parts or PARTS for row in parts[part]()]
    print(json.dumps([row.plain() for row in rows], indent=1) if arguments.json else f"{_machine()}\n\n{table(rows)}")
    return 0


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _machine() -> str:
    return (
        f"Linux {platform.release()}, {os.cpu_count()} processors. A figure is the median of its runs, the spread "
        "their extremes;\nthe baseline is the kernel's own sit over FOU in the same runs, or what the name says."
    )


# --- peers --------------------------------------------------------------------------------------------------------

_PEER = struct.Struct("=HH HHI HHB3x HH4s HH2s2x HH4s HH2s2x HHH2x HH16sB3x HH16sB3x")


def many_peer(number: int) -> bytes:
    """Peer `number` + 1 of `MANY`: an address and a prefix of 56 bits, and an outer endpoint that tells them apart."""
    local, port = socket.inet_aton(BROKER), PORT.to_bytes(2, "big")
    remote, remote_port = struct.pack("!I", 0xC6120000 + number // 16), struct.pack("!H", 40000 + number % 16)
    address = IPv6Address(OVER_UTUN).packed[:12] + struct.pack("!I", number)
    prefix = bytes.fromhex("20010db8") + struct.pack("!I", 0x80000000 + (number << 8)) + bytes(8)
    return _PEER.pack(
        *(_PEER.size, A_PEER | NESTED, 8, 1, number + 1, 5, 2, 1),
        *(8, 3, local, 6, 4, port, 8, 5, remote, 6, 6, remote_port, 6, 7, MTU),
        *(24, PREFIX_KIND, address, 128, 24, PREFIX_KIND, prefix, 56),
    )


def populate(utun: Utun, count: int, at_once: int = 200) -> float:
    """Add the first `count`; returns the seconds that the kernel took."""
    messages = [
        utun.netlink.pack(PEER_ADD, utun.me + b"".join(map(many_peer, range(at, min(at + at_once, count)))))
        for at in range(0, count, at_once)
    ]
    began = time.perf_counter()
    for message in messages:
        utun.netlink.send(message)
        utun.netlink.answers(int.from_bytes(message[8:12], sys.byteorder))
    return time.perf_counter() - began


def peers(runs: int) -> list[Row]:
    """Adding, showing and deleting very many, and their memory."""
    figures: Runs = {"add": [], "dump": [], "flush": [], "memory": []}
    with Lab() as lab:
        broker = lab.namespace("broker")
        utun = _device(broker)
        for run in range(runs):
            _say(f"{MANY} peers, run {run + 1} of {runs}")
            used = _memory()
            figures["add"].append(MANY / populate(utun, MANY))
            figures["memory"].append((_memory() - used) / MANY)
            figures["dump"].append(_dump(utun))
            began = time.perf_counter()
            utun.flush()
            figures["flush"].append(time.perf_counter() - began)
            time.sleep(0.5)  # what was flushed is freed after a while
    return [
        Row("peers added in a second, netlink alone", "", figures["add"], bar=10_000),
        Row(f"dump of {MANY:,} peers", "s", figures["dump"], bar=0.3, at_most=True),
        Row(f"flush of {MANY:,} peers", "s", figures["flush"]),
        Row("memory of a peer", "octets", figures["memory"][:1], bar=1024 + 100 * (os.cpu_count() or 1), at_most=True),
    ]


def _dump(utun: Utun) -> float:
    """Seconds to have all peers out of the kernel, unread."""
    began, answers = time.perf_counter(), []
    utun.netlink.send(utun.netlink.pack(PEER_GET, utun.me, DUMP))
    while not answers or int.from_bytes(answers[-1][4:6], sys.byteorder) != DONE:
        answers.append(utun.netlink.socket.recv(1 << 16))
    took = time.perf_counter() - began
    each = int.from_bytes(answers[0][:4], sys.byteorder)  # they are all of one size
    assert sum(map(len, answers[:-1])) == MANY * each
    return took


def _device(space: Namespace, name: str = "utun0") -> Utun:
    space.run("ip", "link", "add", name, "type", "utun")
    space.run("ip", "link", "set", name, "up", "mtu", str(MTU))
    with space.inside():
        return Utun(Netlink(), socket.if_nametoindex(name))


def _memory() -> int:
    """Octets in slabs and per-CPU areas."""
    found = dict(re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    return 1024 * (int(found["Slab"]) + int(found["Percpu"]))


# --- packets ------------------------------------------------------------------------------------------------------


def packets(runs: int, count: int) -> list[Row]:
    """Small packets through the broker's kernel, each way, and what many peers cost."""
    kinds = ("utun", "sit", "plain", "one", "random", "random prefix", "set")
    figures: Runs = {f"{kind} {way}": [] for kind in kinds for way in ("in", "out")}
    with ExitStack() as stack:
        broker = stack.enter_context(Lab()).namespace("broker")
        utun = _dummy_broker(broker, stack)
        injectors = {name: stack.enter_context(Injector(broker, frames)) for name, frames in _frames(broker).items()}
        egress = {"in": "inner", "out": "outer"}
        populate(utun, MANY)
        utun.add(Peer(MANY + 1, [f"{OVER_ONE}/64"], ("198.19.0.2", CLIENT_PORT), (BROKER, PORT)))
        making = []
        for run in range(runs):
            _say(f"packets, run {run + 1} of {runs}")
            for name, injector in injectors.items():
                before = _sent(broker, egress[name.rsplit(" ", 1)[1]])
                figures[name].append(1e9 / injector.nanoseconds(count))
                went = _sent(broker, egress[name.rsplit(" ", 1)[1]]) - before
                assert went >= count * 0.999, f"{name}: {went} of {count} packets came out"
            making.append(injectors["one in"].nanoseconds(count, XDP_DROP))
    rows = []
    for way, words in (("in", "from clients"), ("out", "to clients")):
        mine, sit, plain, one = (figures[f"{kind} {way}"] for kind in ("utun", "sit", "plain", "one"))
        rows += [
            Row(f"packets {words} a second", "", mine, sit, bar=1.0, relative=True),
            Row("  beside plain forwarding", "", mine, plain),
            Row(f"  {MANY:,} peers at random, beside one", "", figures[f"random {way}"], one, 0.6, relative=True),
            Row("  the same, by prefix", "", figures[f"random prefix {way}"], one, 0.6, relative=True),
            Row(f"  {SET:,} of them at random, beside one", "", figures[f"set {way}"], one, 0.9, relative=True),
        ]
    return [*rows, Row("  making a packet, which is in all of these", "ns", making)]


def _dummy_broker(broker: Namespace, stack: ExitStack) -> Utun:
    broker.sysctl("net/ipv6/conf/all/forwarding", 1)
    for device, address, far in (("outer", f"{BROKER}/24", GATEWAY), ("inner", f"{BROKER_INNER}/64", HOST)):
        broker.run("ip", "link", "add", device, "type", "dummy")
        broker.run("ip", "link", "set", device, "up")
        broker.address(device, address)
        broker.run("ip", "neigh", "add", far, "lladdr", FAR.hex(":"), "dev", device)
    broker.address("outer", "2001:db8:e::1/64")
    broker.run("ip", "neigh", "add", "2001:db8:e::3", "lladdr", FAR.hex(":"), "dev", "outer")
    broker.route("default", "via", GATEWAY)
    broker.route(f"{PLAIN}/64", "via", "2001:db8:e::3")
    utun = _device(broker)
    signalling = stack.enter_context(broker.socket(socket.AF_INET, socket.SOCK_DGRAM))
    signalling.bind((BROKER, PORT))
    utun.attach(signalling)
    # A gateway, so that there is one neighbour: without, the kernel makes one of every inner address (docs/utun.md).
    broker.route(f"{OVER_UTUN}/64", "via", "fe80::1", "dev", "utun0", "onlink")
    broker.route(f"{OVER_ONE}/64", "via", "fe80::1", "dev", "utun0", "onlink")
    broker.route("2001:db8:8000::/33", "via", "fe80::1", "dev", "utun0", "onlink")
    # Peers have their numbers in 2001:db8:9000::/64, which is in no /56 of them: those end at 2001:db8:80c3:4f00::.
    _sit(broker, "six", "198.19.0.1", BROKER, CLIENT_PORT, FOU_PORT)
    broker.route(f"{OVER_FOU}/64", "dev", "six")
    return utun


def _sit(space: Namespace, name: str, remote: str, local: str, to: int, port: int) -> None:
    """The kernel's own tunnel, from port to port."""
    if f"port {port} " not in space.run("ip", "fou", "show"):
        space.run("ip", "fou", "add", "port", str(port), "ipproto", "41")
    space.run(
        *("ip", "link", "add", name, "type", "sit", "remote", remote, "local", local, "ttl", "64"),
        *("encap", "fou", "encap-sport", str(port), "encap-dport", str(to), "encap-csum"),
    )
    space.run("ip", "link", "set", name, "up", "mtu", str(MTU))


def _frames(broker: Namespace) -> dict[str, Frames]:
    """What is injected, by name: kind and way."""
    found = {}
    to = {device: broker.hardware_address(device) + FAR for device in ("outer", "inner")}
    low, high = IPv6Address(OVER_UTUN).packed, bytes.fromhex("20010db880000000") + bytes(8)
    first, one, plain = (IPv6Address(each).packed for each in (OVER_UTUN, f"{OVER_FOU}1", f"{PLAIN}1"))
    host = IPv6Address(HOST).packed
    for kind, inner, count, field in (
        ("utun", first, 1, ()),
        ("one", IPv6Address(OVER_ONE).packed, MANY, (Field(12, 4),)),
        ("random", low, MANY, (Field(12, 4),)),
        ("random prefix", high, MANY, (Field(4, 4, 0x80000000, left=8),)),
        ("set", low, SET, (Field(12, 4),)),
    ):
        head, total = _outer(*((0xC6130002, CLIENT_PORT) if kind == "one" else (0xC6120000, 40000)), PORT)
        fields = [Field(14 + 28 + 8 + each.offset, 4, each.base, left=each.left) for each in field]
        checksum = None
        if kind == "one":  # What it takes to make a packet is to be the same, so zeros are made of the number.
            fields += [Field(14 + 14, 2, 2, right=16), Field(14 + 20, 2, CLIENT_PORT, right=16, mask=15)]
            checksum = Field(14 + 10, 2, total + 2, right=16)
        elif count > 1:
            fields += [Field(14 + 14, 2, right=4), Field(14 + 20, 2, 40000, mask=15)]
            checksum = Field(14 + 10, 2, total, right=4)
        frame = to["outer"] + b"\x08\x00" + head + _inner(inner, host)
        found[f"{kind} in"] = Frames("outer", frame, tuple(fields), count, checksum)
        fields = [Field(14 + 24 + each.offset, 4, each.base, left=each.left) for each in field]
        frame = to["inner"] + b"\x86\xdd" + _inner(host, inner)
        found[f"{kind} out"] = Frames("inner", frame, tuple(fields), count)
    head, _ = _outer(int.from_bytes(socket.inet_aton("198.19.0.1"), "big"), CLIENT_PORT, FOU_PORT)
    found["sit in"] = Frames("outer", to["outer"] + b"\x08\x00" + head + _inner(one, host))
    found["sit out"] = Frames("inner", to["inner"] + b"\x86\xdd" + _inner(host, one))
    found["plain in"] = Frames("outer", to["outer"] + b"\x86\xdd" + _inner(plain, host))
    found["plain out"] = Frames("inner", to["inner"] + b"\x86\xdd" + _inner(host, plain))
    return found


def _inner(source: bytes, destination: bytes) -> bytes:
    """An IPv6 packet of 100 octets."""
    return (
        struct.pack("!IHBB", 6 << 28, 60, 17, 64) + source + destination + struct.pack("!4H", 7, 7, 60, 0) + bytes(52)
    )


def _outer(source: int, port: int, to: int) -> tuple[bytes, int]:
    """IPv4 and UDP headers for it, and the sum of the former without the low half of the source."""
    words = [0x4500, 128, 0, 0, 0x4011, 0, source >> 16, 0, *struct.unpack("!2H", socket.inet_aton(BROKER))]
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    words[7] = source & 0xFFFF
    check = total + words[7]
    words[5] = ~((check & 0xFFFF) + (check >> 16)) & 0xFFFF
    return struct.pack("!10H4H", *words, port, to, 108, 0), total


def _sent(space: Namespace, device: str) -> int:
    shown = json.loads(space.run("ip", "-j", "-s", "link", "show", device))
    return int(shown[0]["stats64"]["tx"]["packets"])


# --- transfers ----------------------------------------------------------------------------------------------------


@contextmanager
def _three() -> Iterator[tuple[Namespace, Namespace]]:
    """The client and the host, with three ways between them: by the client's source address."""
    with Lab() as lab:
        client, broker, host = (lab.namespace(each) for each in ("client", "broker", "host"))
        ends = [f"{CLIENT}/24", f"{CLIENT_TOO}/24", "2001:db8:e::2/64"]
        outer = lab.wire(client, broker, ends, [f"{BROKER}/24", "2001:db8:e::1/64"])
        inner = lab.wire(broker, host, [f"{BROKER_INNER}/64"], [f"{HOST}/64"])
        broker.sysctl("net/ipv6/conf/all/forwarding", 1)
        for device in (outer[1], inner[0]):
            broker.run("ethtool", "-K", device, "gro", "on", "tso", "on", "gso", "on", check=False)
        utun = _device(broker)
        with broker.socket(socket.AF_INET, socket.SOCK_DGRAM) as signalling:
            signalling.bind((BROKER, PORT))
            utun.attach(signalling)
            utun.add(Peer(1, [f"{OVER_UTUN}/64"], (CLIENT, CLIENT_PORT), (BROKER, PORT)))
            broker.route(f"{OVER_UTUN}/64", "dev", "utun0")
            _sit(broker, "six", CLIENT_TOO, BROKER, CLIENT_PORT + 1, FOU_PORT)
            broker.route(f"{OVER_FOU}/64", "dev", "six")
            broker.route(f"{PLAIN}/64", "via", "2001:db8:e::2")
            _sit(client, "mine", BROKER, CLIENT, PORT, CLIENT_PORT)
            _sit(client, "theirs", BROKER, CLIENT_TOO, FOU_PORT, CLIENT_PORT + 1)
            ways = ((OVER_UTUN, "dev mine"), (OVER_FOU, "dev theirs"), (PLAIN, "via 2001:db8:e::1"))
            for number, (block, through) in enumerate(ways, 100):
                client.address("lo", f"{block}1/128")
                client.run(*f"ip -6 rule add from {block}/64 table {number}".split())
                client.run(*f"ip -6 route add default {through} mtu {MTU} table {number}".split())
            for device in ("mine", "theirs"):
                client.run("ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off", check=False)
            host.route("2001:db8::/32", "via", BROKER_INNER, "mtu", "lock", str(MTU))
            yield client, host


def transfers(runs: int) -> list[Row]:
    """Bulk TCP, each way and each path."""
    figures: Runs = {f"{kind} {way}": [] for kind in (OVER_UTUN, OVER_FOU, PLAIN) for way in ("in", "out")}
    with _three() as (client, host):
        for run in range(runs):
            _say(f"TCP, run {run + 1} of {runs}")
            for name, rates in figures.items():
                block, way = name.split()
                ends = ((client, f"{block}1"), (host, HOST))
                (sender, source), (receiver, target) = ends if way == "in" else ends[::-1]
                rates.append(bulk(sender, source, receiver, target, SECONDS) * 8e-6)
    rows = []
    for way, words in (("in", "from the client"), ("out", "to the client")):
        mine, sit, plain = (figures[f"{kind} {way}"] for kind in (OVER_UTUN, OVER_FOU, PLAIN))
        rows += [
            Row(f"TCP {words}", "Mbit/s", mine, sit, bar=1.0, relative=True),
            Row("  beside plain forwarding", "Mbit/s", mine, plain),
        ]
    return rows


def pings(runs: int) -> list[Row]:
    """Round trips of a ping, less those without a tunnel."""
    figures: Runs = {block: [] for block in (OVER_UTUN, OVER_FOU, PLAIN)}
    with _three() as (client, _):
        for run in range(runs):
            _say(f"ping, run {run + 1} of {runs}")
            for block, times in figures.items():
                times.append(_round_trip(client, f"{block}1"))
    mine, sit = (_less(figures[block], figures[PLAIN]) for block in (OVER_UTUN, OVER_FOU))
    return [
        Row("ping through the tunnel", "us", figures[OVER_UTUN], figures[OVER_FOU], 1.0, at_most=True, relative=True),
        Row("  added by the tunnel", "us", mine, sit),
    ]


def _round_trip(space: Namespace, source: str) -> float:
    """Microseconds from an echo request to its answer, the median of many."""
    times = []
    with space.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.bind((source, 0))
        raw.settimeout(5)
        for number in range(PINGS):
            echo = struct.pack("!BBHHH", 128, 0, 0, 1, number) + bytes(56)
            began = time.perf_counter()
            raw.sendto(echo, (HOST, 0))
            while (answer := raw.recv(200))[0] != 129 or answer[4:8] != echo[4:8]:
                continue
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def _less(values: Sequence[float], base: Sequence[float]) -> list[float]:
    return [each - below for each, below in zip(values, base, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
