# SPDX-License-Identifier: GPL-2.0-or-later
"""What the TUN data plane carries, beside a kernel that forwards the same packets without a tunnel.

    client ----------------- broker ----------------- host
      192.0.2.2/24  192.0.2.1/24   2001:db8:f::1/64   2001:db8:f::2/64, ::3
      2001:db8:e::2/64   ...e::1/64

The host's ::2 is reached over the veth pairs alone, its ::3 through the tunnel. Receive steering makes one processor
the broker's machine, with all that its kernel does for a packet; everything else is done by the other one. Packets have
at most 1,280 octets either way, and none is a segment still to be cut.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

from bench.logins import Say
from bench.servers import PASSWORD, PROCESSORS, SERVER, TICK, WORLD, Daemon
from bench.table import Row
from bench.tcp import bulk
from ddtb6.dataplane.device import open_tun
from tests.support.netns import Lab, Namespace
from tests.support.tsp_client import Client, Udp

OUTER, CLIENT_OUTER = "192.0.2.1", "192.0.2.2"
PLAIN_CLIENT, PLAIN_HOST, TUNNEL_HOST = "2001:db8:e::2", "2001:db8:f::2", "2001:db8:f::3"
MTU = 1280
SMALL = 100
"""Octets of a small inner packet, headers included."""
PORT = 7777
BATCH = 64
"""Datagrams of one send, cut by the kernel (UDP_SEGMENT)."""
WINDOW = 256
"""Small packets on their way at any time: enough to keep the broker busy, too few to be dropped."""
SECONDS = 2.0
SOL_UDP, UDP_SEGMENT, SO_RCVBUFFORCE = 17, 103, 33


class Load(NamedTuple):
    """What came through, and what it took."""

    rate: float
    """Octets, or packets, a second."""
    broker: float
    """Processor seconds of the broker's machine in a second."""
    world: float
    """The same of everything else."""


class Network:
    """The three machines, with a client whose tunnel stands."""

    def __init__(self, lab: Lab, directory: Path, stack: contextlib.ExitStack) -> None:
        self.client, self.broker, self.host = (lab.namespace(each) for each in ("client", "broker", "host"))
        client_ends, broker_ends = [f"{CLIENT_OUTER}/24", f"{PLAIN_CLIENT}/64"], [f"{OUTER}/24", "2001:db8:e::1/64"]
        lab.wire(self.client, self.broker, client_ends, broker_ends)
        lab.wire(self.broker, self.host, ["2001:db8:f::1/64"], [f"{PLAIN_HOST}/64", f"{TUNNEL_HOST}/64"])
        self.broker.sysctl("net/ipv6/conf/all/forwarding", 1)
        self.client.route("2001:db8:f::/64", "via", "2001:db8:e::1", "mtu", "lock", str(MTU))
        self.host.route("2001:db8::/32", "via", "2001:db8:f::1", "mtu", "lock", str(MTU))
        for space, processor in ((self.client, WORLD), (self.broker, SERVER), (self.host, WORLD)):
            _steer(space, processor)
        stack.enter_context(Daemon(self.broker, directory, "tun", (OUTER, 3653), users=["bench"]))
        self.outer = stack.enter_context(self.client.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client = Client(Udp(self.outer, (OUTER, 3653)))
        client.log_in("DIGEST-MD5", "bench", PASSWORD)
        self.inner = str(IPv6Address(client.create().client_inner))
        client.accept()
        self.outer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self.outer.setblocking(False)

    @contextlib.contextmanager
    def client_device(self) -> Iterator[None]:
        """Give the client's kernel the tunnel as a device, carried by a loop that does nothing else."""
        with self.client.inside():
            device = open_tun("bench6")
        self.client.run("ip", "link", "set", "bench6", "mtu", str(MTU), "txqueuelen", "1000", "up")
        self.client.address("bench6", f"{self.inner}/128")
        self.client.route(f"{TUNNEL_HOST}/128", "dev", "bench6")
        carrier = multiprocessing.get_context("fork").Process(target=_carry, args=(device, self.outer), daemon=True)
        carrier.start()
        try:
            yield
        finally:
            carrier.kill()
            carrier.join()
            os.close(device)


def forwarding(directory: Path, runs: int, say: Say) -> list[Row]:
    """Bulk TCP and small packets, in both directions, with and without the tunnel."""
    figures: dict[str, list[Load]] = {}
    with contextlib.ExitStack() as stack:
        net = Network(stack.enter_context(Lab()), directory, stack)
        for run in range(runs):
            say(f"small packets, run {run + 1} of {runs}")
            for name, measure in _small_packets(net).items():
                figures.setdefault(name, []).append(measure())
        with net.client_device():
            for run in range(runs):
                say(f"bulk TCP, run {run + 1} of {runs}")
                for name, (sender, source, receiver, target) in {
                    "in, tunnel": (net.client, net.inner, net.host, TUNNEL_HOST),
                    "out, tunnel": (net.host, TUNNEL_HOST, net.client, net.inner),
                    "in, plain": (net.client, PLAIN_CLIENT, net.host, PLAIN_HOST),
                    "out, plain": (net.host, PLAIN_HOST, net.client, PLAIN_CLIENT),
                }.items():
                    figures.setdefault(f"bulk {name}", []).append(_bulk(sender, source, receiver, target))

    def pair(name: str, figure: Callable[[Load], float]) -> tuple[list[float], list[float]]:
        """With the tunnel, and without."""
        return list(map(figure, figures[f"{name}, tunnel"])), list(map(figure, figures[f"{name}, plain"]))

    rows = []
    for way, words in (("in", "from the client"), ("out", "to the client")):
        bulk, small = f"bulk {way}", f"small {way}"
        rows += [
            Row(f"TCP {words}", "Mbit/s", *pair(bulk, lambda load: load.rate * 8e-6)),
            Row("  broker's processor busy", "%", *pair(bulk, lambda load: load.broker * 100)),
            Row("  the other one busy", "%", *pair(bulk, lambda load: load.world * 100)),
            Row(f"small packets {words} a second", "", *pair(small, lambda load: load.rate)),
            Row("  for a processor second of the broker", "", *pair(small, lambda load: load.rate / load.broker)),
        ]
    return rows


# --- small packets ------------------------------------------------------------------------------------------------


def _small_packets(net: Network) -> dict[str, Callable[[], Load]]:
    payload = bytes(SMALL - 48)
    inner = _udp_packet(net.inner, TUNNEL_HOST, payload)

    def tunnel_in() -> Load:
        with _receiver(net.host, TUNNEL_HOST) as receiver:
            cut = _cut(len(inner))
            return _pump(lambda: net.outer.sendmsg((inner * BATCH,), cut), receiver)

    def tunnel_out() -> Load:
        with _sender(net.host, TUNNEL_HOST, net.inner) as sender:
            return _pump(lambda: sender.sendmsg((payload * BATCH,), _cut(len(payload))), net.outer)

    def plain(sending: Namespace, source: str, receiving: Namespace, target: str) -> Load:
        with _receiver(receiving, target) as receiver, _sender(sending, source, target) as sender:
            return _pump(lambda: sender.sendmsg((payload * BATCH,), _cut(len(payload))), receiver)

    return {
        "small in, tunnel": tunnel_in,
        "small out, tunnel": tunnel_out,
        "small in, plain": lambda: plain(net.client, PLAIN_CLIENT, net.host, PLAIN_HOST),
        "small out, plain": lambda: plain(net.host, PLAIN_HOST, net.client, PLAIN_CLIENT),
    }


def _pump(send: Callable[[], object], receiver: socket.socket) -> Load:
    """Keep `WINDOW` packets on their way for `SECONDS`; what got lost is forgotten after a moment without any."""
    buffer = bytearray(2048)
    receive = receiver.recv_into
    sent = got = 0
    began = heard = time.perf_counter()
    before = _busy()
    while True:
        while sent - got <= WINDOW - BATCH:
            send()
            sent += BATCH
        try:
            for _ in range(BATCH):
                receive(buffer)
                got += 1
        except BlockingIOError:
            now = time.perf_counter()
            if now - began >= SECONDS:
                break
            if sent - got > WINDOW - BATCH and now - heard > 0.1:
                sent, heard = got, now
            continue
        heard = time.perf_counter()
    return _load(got, time.perf_counter() - began, before)


def _sender(space: Namespace, source: str, target: str) -> socket.socket:
    sender = space.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.bind((source, PORT))
    sender.connect((target, PORT))
    return sender


def _receiver(space: Namespace, address: str) -> socket.socket:
    receiver = space.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    receiver.bind((address, PORT))
    receiver.setblocking(False)
    return receiver


def _cut(size: int) -> list[tuple[int, int, bytes]]:
    return [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]


def _udp_packet(source: str, target: str, payload: bytes) -> bytes:
    """An IPv6 packet with a UDP datagram from `PORT` to `PORT`."""
    ends = IPv6Address(source).packed + IPv6Address(target).packed
    length = 8 + len(payload)
    header = struct.pack("!HHHH", PORT, PORT, length, 0)
    summed = ends + struct.pack("!II", length, 17) + header + payload
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    checksum = struct.pack("!H", ~total & 0xFFFF)
    return struct.pack("!IHBB", 6 << 28, length, 17, 64) + ends + header[:6] + checksum + payload


# --- bulk ---------------------------------------------------------------------------------------------------------


def _bulk(sending: Namespace, source: str, receiving: Namespace, target: str) -> Load:
    """One TCP connection for `SECONDS`."""
    before: dict[int, float] = {}
    began = 0.0

    def begins() -> None:
        nonlocal began
        before.update(_busy())
        began = time.perf_counter()

    rate = bulk(sending, source, receiving, target, SECONDS, begins)
    seconds = time.perf_counter() - began
    return _load(rate * seconds, seconds, before)


def _carry(device: int, outer: socket.socket) -> None:
    """The client's data plane: packets of the device become datagrams, and the reverse."""
    os.sched_setaffinity(0, {WORLD})
    poll = select.epoll()
    poll.register(device, select.EPOLLIN)
    poll.register(outer, select.EPOLLIN)
    read, write, send, receive = os.read, os.write, outer.send, outer.recv
    while True:
        for ready, _ in poll.poll():
            with contextlib.suppress(BlockingIOError):
                if ready == device:
                    for _ in range(BATCH):
                        send(read(device, 2048))
                else:
                    for _ in range(BATCH):
                        write(device, receive(2048))


# --- processors ---------------------------------------------------------------------------------------------------


def _steer(space: Namespace, processor: int) -> None:
    """Let `processor` do what the devices of `space` receive."""
    program = f"for each in /sys/class/net/*/queues/rx-*/rps_cpus; do echo {1 << processor:x} > $each; done"
    # Only `ip netns exec` shows the namespace's own devices in /sys, in a mount namespace that ends with the command.
    space.run("ip", "netns", "exec", space.name, "sh", "-c", program)


def _busy() -> dict[int, float]:
    """Seconds that each processor was not idle, up to a constant that is the same for all calls."""
    now = time.perf_counter()
    idle = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name[3:].isdigit() and name.startswith("cpu"):
            idle[int(name[3:])] = (int(fields[3]) + int(fields[4])) / TICK
    return {processor: now - idle[processor] for processor in PROCESSORS}


def _load(amount: float, seconds: float, before: dict[int, float]) -> Load:
    after = _busy()
    broker, world = ((after[each] - before[each]) / seconds for each in (SERVER, WORLD))
    return Load(amount / seconds, max(broker, 1e-3), max(world, 1e-3))
