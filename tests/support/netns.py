# SPDX-License-Identifier: GPL-2.0-or-later
"""Networks to test in: named namespaces, veth wires, processes and sockets inside, all gone afterwards.

    with Lab() as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        lab.wire(left, right, ["192.0.2.1/24"], ["192.0.2.2/24"])
        left.run("ip", "address")

Invariants: names are unique to the process and the lab, so parallel runs do not collide; whatever a lab started is
ended and whatever it made is removed on leaving, also after a failure; nothing outside of its namespaces is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SIOCETHTOOL, SIOCGIFHWADDR = 0x8946, 0x8927
ETHTOOL_STXCSUM, ETHTOOL_SGSO, ETHTOOL_SGRO = 0x17, 0x24, 0x2C
NETLINK_NETFILTER = 12
DELETE_CONNTRACK = 1 << 8 | 2

_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


def wait_until(condition: Callable[[], T], what: str = "the condition", deadline: float = 10.0) -> T:
    """Poll until `condition` gives something true, and return that. Raises AssertionError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {deadline} s")
        time.sleep(0.01)
    return result


class Namespace:
    """A named network namespace, its loopback up, without duplicate address detection."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"
        self.processes: list[subprocess.Popen[Any]] = []

    def command(self, *command: str | Path) -> list[str]:
        """`command` as it is run inside. Not `ip netns exec`: that would remount /sys."""
        return ["nsenter", f"--net={self.path}", "--", *map(str, command)]

    def run(self, *command: str | Path, check: bool = True, timeout: float = 60, **options: Any) -> str:
        """Run a command inside to its end and return its standard output as text."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=timeout, check=False, **options
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, command))} in {self.name}: {done.stdout}{done.stderr}")
        return done.stdout

    def spawn(self, *command: str | Path, **options: Any) -> subprocess.Popen[Any]:
        """Start a command inside, in a process group of its own; the lab ends it if it is still there."""
        process = subprocess.Popen(self.command(*command), start_new_session=True, **options)
        self.processes.append(process)
        return process

    def python(self, program: str, *arguments: str, **options: Any) -> str:
        """Run a Python program text inside with this interpreter and return its standard output."""
        return self.run(sys.executable, "-c", program, *arguments, **options)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put the calling thread inside. What it opens there (sockets, TUN devices) stays inside for good."""
        with open("/proc/thread-self/ns/net") as home, open(self.path) as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives inside."""
        with self.inside():
            return socket.socket(family, kind, protocol)

    def sysctl(self, key: str, value: str | int) -> None:
        """Set ``net/...``, such as ``net/ipv6/conf/all/forwarding``."""
        with self.inside():
            Path("/proc/sys", key).write_text(f"{value}\n")

    def address(self, device: str, *addresses: str) -> None:
        """Add addresses (with prefix length) to a device."""
        for each in addresses:
            self.run("ip", "address", "add", each, "dev", device)

    def route(self, *words: str) -> None:
        """``ip route replace``; the family is that of the words."""
        self.run("ip", *(["-6"] if any(":" in word for word in words) else []), "route", "replace", *words)

    def real_checksums(self, device: str) -> None:
        """As ``ethtool -K DEVICE tx off gso off gro off``.

        Checksums and segments of locally made packets stay virtual on veth; a user-space broker would read unfinished
        ones.
        """
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            for command in (ETHTOOL_STXCSUM, ETHTOOL_SGSO, ETHTOOL_SGRO):
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
                fcntl.ioctl(handle, SIOCETHTOOL, struct.pack("16sP", device.encode(), ctypes.addressof(value)))

    def hardware_address(self, device: str) -> bytes:
        """The six octets that frames to `device` are addressed to."""
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            return fcntl.ioctl(handle, SIOCGIFHWADDR, struct.pack("16s24x", device.encode()))[18:24]

    def masquerade(self, device: str, ports: str = "20000-29999") -> None:
        """Be an IPv4 NAT towards `device`.

        UDP and TCP get source ports that no system picks by itself, so a NAT is always seen as one.
        """
        self.sysctl("net/ipv4/ip_forward", 1)
        rules = f"""
            table ip nat {{
                chain postrouting {{
                    type nat hook postrouting priority 100;
                    oifname "{device}" meta l4proto {{ tcp, udp }} masquerade to :{ports}
                    oifname "{device}" masquerade
                }}
            }}"""
        self.run("nft", "-f", "-", input=rules)

    def forget_mappings(self) -> None:
        """Drop all NAT mappings, as a NAT that was restarted does: the next packet gets a new port."""
        with self.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.send(struct.pack("=IHHIIBBH", 20, DELETE_CONNTRACK, 0x5, 1, 0, 0, 0, 0))
            error = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
            if error:
                raise OSError(-error, f"flushing connection tracking: {os.strerror(-error)}")

    def end_processes(self) -> None:
        """Terminate what `spawn` started, and whatever that started in turn; kill what does not go."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                pipe.close()
        self.processes.clear()


class Lab:
    """Makes namespaces and wires; a context manager."""

    _serial = itertools.count(1)

    def __init__(self) -> None:
        self._prefix = f"ddtb6-{os.getpid()}-{secrets.token_hex(2)}-{next(self._serial)}"
        self._namespaces: list[Namespace] = []
        self._wires = itertools.count()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._namespaces:
            each.end_processes()
        for each in self._namespaces:
            subprocess.run(["ip", "netns", "delete", each.name], check=False)
        self._namespaces.clear()

    def namespace(self, label: str) -> Namespace:
        """A new namespace."""
        namespace = Namespace(f"{self._prefix}-{label}")
        subprocess.run(["ip", "netns", "add", namespace.name], check=True)
        self._namespaces.append(namespace)
        for scope in ("all", "default"):
            namespace.sysctl(f"net/ipv6/conf/{scope}/accept_dad", 0)
            namespace.sysctl(f"net/ipv6/conf/{scope}/dad_transmits", 0)
        namespace.run("ip", "link", "set", "lo", "up")
        return namespace

    def wire(
        self, left: Namespace, right: Namespace, left_addresses: Sequence[str] = (), right_addresses: Sequence[str] = ()
    ) -> tuple[str, str]:
        """A veth pair, up, with real checksums; returns the device names of its two ends."""
        number = next(self._wires)
        names = (f"w{number}l", f"w{number}r")
        subprocess.run(
            ["ip", "link", "add", names[0], "netns", left.name, "type", "veth", "peer", names[1], "netns", right.name],
            check=True,
        )
        for namespace, name, addresses in ((left, names[0], left_addresses), (right, names[1], right_addresses)):
            namespace.real_checksums(name)
            namespace.run("ip", "link", "set", name, "up")
            namespace.address(name, *addresses)
        return names


@dataclass(frozen=True, slots=True)
class Internet:
    """A client behind a NAT, a broker, and an IPv6 host behind the broker.

        lan -------- client -------- nat -------- broker -------- host
          (no address)  10.66.1.2/24    192.0.2.2/24   2001:db8:f::1/64
                              10.66.1.1/24    192.0.2.1/24       2001:db8:f::2/64

    The NAT masquerades with other ports. The host sends 2001:db8::/32 to the broker, which forwards IPv6.
    """

    lab: Lab
    lan: Namespace | None
    client: Namespace
    nat: Namespace
    broker: Namespace
    host: Namespace
    lan_device: str | None
    """The LAN's device at the client."""
    client_device: str
    broker_outer: str
    """The broker's device towards the NAT."""
    broker_inner: str
    """The broker's device towards the host."""


BROKER_OUTER = "192.0.2.1"
NAT_OUTER = "192.0.2.2"
BROKER_INNER = "2001:db8:f::1"
HOST = "2001:db8:f::2"


def internet(lab: Lab, *, lan: bool = False) -> Internet:
    """Make the network that `Internet` draws."""
    client, nat, broker, host = (lab.namespace(label) for label in ("client", "nat", "broker", "host"))
    client_device, _ = lab.wire(client, nat, ["10.66.1.2/24"], ["10.66.1.1/24"])
    nat_device, broker_outer = lab.wire(nat, broker, [f"{NAT_OUTER}/24"], [f"{BROKER_OUTER}/24"])
    broker_inner, _ = lab.wire(broker, host, [f"{BROKER_INNER}/64"], [f"{HOST}/64"])
    client.route("default", "via", "10.66.1.1")
    nat.masquerade(nat_device)
    broker.sysctl("net/ipv6/conf/all/forwarding", 1)
    host.route("2001:db8::/32", "via", BROKER_INNER)
    lan_space = lan_device = None
    if lan:
        lan_space = lab.namespace("lan")
        lan_device, _ = lab.wire(client, lan_space)
        client.sysctl("net/ipv6/conf/all/forwarding", 1)
    return Internet(lab, lan_space, client, nat, broker, host, lan_device, client_device, broker_outer, broker_inner)
