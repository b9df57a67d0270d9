# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of the generic netlink family ``utun``, written from kmod/utun/uapi/utun.h and sharing nothing with ddtb6.

Synchronous and small: it is there to ask the module for things, also for wrong ones, and to show what it answers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

NETLINK_GENERIC = 16
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 1, 10, 11
REQUEST, ACK, REPLACE, DUMP = 1, 4, 0x100, 0x300
DUMP_INTR, ACK_TLVS, MULTI = 0x10, 0x200, 2
ERROR, DONE, CONTROL = 2, 3, 16
NESTED = 0x8000

DEV_GET, SOCKET_ADD, SOCKET_DEL, PEER_ADD, PEER_SET, PEER_DEL, PEER_FLUSH, PEER_GET, EVENT = range(1, 10)
A_IFINDEX, A_FD, A_PEER, A_PEERS, A_SOCKETS, A_GENERATION, A_DROPS, A_EVENT, A_INNER = range(1, 10)
ID, TRANSPORT, LOCAL4, LOCAL_PORT, REMOTE4, REMOTE_PORT, MTU, FLAGS, PREFIX = range(1, 10)
RX_PACKETS, RX_BYTES, TX_PACKETS, TX_BYTES, LAST_RX, PEER_DROPS = range(10, 16)
UDP, SIXINFOUR = 1, 2
NO_CHECKSUM, ROAM_PORT = 1, 2
REASONS = (
    *("malformed", "spoofed-source", "bad-source", "bad-destination", "link-local", "too-big", "loop", "not-sent"),
    *("unknown-endpoint", "no-tunnel"),
)
"""By number - 1."""
DROP_PAD = 255
"""Between counts on machines that want 64-bit numbers aligned."""
STRANGER, SPOOFED, UNREACHABLE, MOVED, SOCKET_GONE = range(1, 6)


def load_utun() -> None:
    """Load the module again, from the file that it was first loaded from; without one modprobe is asked for it."""
    file = os.environ.get("DDTB6_UTUN_KO")
    subprocess.run(["insmod", file] if file else ["modprobe", "utun"], check=True)


def attr(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *inside: bytes) -> bytes:
    return attr(kind | NESTED, b"".join(inside))


def u8(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=B", value))


def u16(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=I", value))


def attrs(blob: bytes) -> list[tuple[int, bytes]]:
    """All attributes in a stretch of octets, in order."""
    found, at = [], 0
    while at + 4 <= len(blob):
        length, kind = struct.unpack_from("=HH", blob, at)
        assert length >= 4, blob.hex()
        found.append((kind & 0x3FFF, blob[at + 4 : at + length]))
        at += length + 3 & ~3
    return found


def prefix(network: str | IPv6Network) -> bytes:
    """A ``struct utun_prefix`` as an attribute."""
    network = IPv6Network(network)
    return attr(PREFIX, network.network_address.packed + struct.pack("=B3x", network.prefixlen))


@dataclass
class Peer:
    """A peer as it is asked for."""

    id: int
    prefixes: Sequence[str | IPv6Network] = ()
    remote: tuple[str, int] = ("192.0.2.2", 40001)
    local: tuple[str, int] = ("192.0.2.1", 3653)
    transport: int = UDP
    mtu: int = 1280
    flags: int = 0

    def pack(self) -> bytes:
        ports = ()
        if self.transport == UDP:
            ports = (
                attr(LOCAL_PORT, self.local[1].to_bytes(2, "big")),
                attr(REMOTE_PORT, self.remote[1].to_bytes(2, "big")),
            )
        return nest(
            A_PEER,
            u32(ID, self.id),
            u8(TRANSPORT, self.transport),
            attr(LOCAL4, IPv4Address(self.local[0]).packed),
            attr(REMOTE4, IPv4Address(self.remote[0]).packed),
            *ports,
            u16(MTU, self.mtu),
            u32(FLAGS, self.flags),
            *map(prefix, self.prefixes),
        )


@dataclass
class Seen:
    """A peer as the module shows it."""

    id: int = 0
    transport: int = 0
    local: tuple[str, int] = ("", 0)
    remote: tuple[str, int] = ("", 0)
    mtu: int = 0
    flags: int = 0
    prefixes: list[str] = field(default_factory=list)
    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    last_rx: int | None = None
    drops: dict[str, int] = field(default_factory=dict)

    @property
    def carried(self) -> tuple[int, int, int, int]:
        return self.rx_packets, self.rx_bytes, self.tx_packets, self.tx_bytes


def drops(blob: bytes) -> dict[str, int]:
    return {REASONS[kind - 1]: struct.unpack("=Q", value)[0] for kind, value in attrs(blob) if kind != DROP_PAD}


def read_peer(blob: bytes) -> Seen:
    seen, local, remote, ports = Seen(), "", "", [0, 0]
    names = {RX_PACKETS: "rx_packets", RX_BYTES: "rx_bytes", TX_PACKETS: "tx_packets", TX_BYTES: "tx_bytes"}
    for kind, value in attrs(blob):
        if kind == ID:
            seen.id = struct.unpack("=I", value)[0]
        elif kind == TRANSPORT:
            seen.transport = value[0]
        elif kind == LOCAL4:
            local = str(IPv4Address(value))
        elif kind == REMOTE4:
            remote = str(IPv4Address(value))
        elif kind in (LOCAL_PORT, REMOTE_PORT):
            ports[kind == REMOTE_PORT] = int.from_bytes(value, "big")
        elif kind == MTU:
            seen.mtu = struct.unpack("=H", value)[0]
        elif kind == FLAGS:
            seen.flags = struct.unpack("=I", value)[0]
        elif kind == PREFIX:
            seen.prefixes.append(f"{IPv6Address(value[:16])}/{value[16]}")
        elif kind in names:
            setattr(seen, names[kind], struct.unpack("=Q", value)[0])
        elif kind == LAST_RX:
            seen.last_rx = struct.unpack("=Q", value)[0]
        elif kind == PEER_DROPS:
            seen.drops = drops(value)
    seen.local, seen.remote = (local, ports[0]), (remote, ports[1])
    return seen


class Refused(OSError):
    """The kernel's answer to a request; `said` is its sentence, `offset` where in the message the fault is."""

    def __init__(self, code: int, said: str, offset: int | None) -> None:
        super().__init__(code, f"{os.strerror(code)}: {said}")
        self.said = said
        self.offset = offset


@dataclass
class Event:
    """What the multicast group said."""

    kind: int
    ifindex: int
    peer: Seen
    inner: str | None


class Netlink:
    """A generic netlink socket in the namespace that the thread is in when it is made."""

    def __init__(self, family: str = "utun") -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        with contextlib.suppress(PermissionError):
            self.socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self.socket.bind((0, 0))
        self.sequence = 0
        self.interrupted = False
        self.family, self.groups = CONTROL, {}
        (answer,) = self.ask(3, attr(2, family.encode() + b"\0"))  # CTRL_CMD_GETFAMILY by name
        for kind, value in attrs(answer):
            if kind == 1:
                self.family = struct.unpack("=H", value)[0]
            elif kind == 7:
                for _, group in attrs(value):
                    parts = dict(attrs(group))
                    self.groups[parts[1].rstrip(b"\0").decode()] = struct.unpack("=I", parts[2])[0]

    def close(self) -> None:
        self.socket.close()

    def pack(self, command: int, payload: bytes, flags: int = 0) -> bytes:
        self.sequence += 1
        body = struct.pack("=BBH", command, 1, 0) + payload
        return struct.pack("=IHHII", 16 + len(body), self.family, REQUEST | ACK | flags, self.sequence, 0) + body

    def send(self, message: bytes) -> None:
        self.socket.send(message)

    def ask(self, command: int, payload: bytes = b"", flags: int = 0) -> list[bytes]:
        """Send a request and return the attributes of each answer. Raises Refused."""
        self.socket.send(self.pack(command, payload, flags))
        return self.answers(self.sequence)

    def answers(self, sequence: int) -> list[bytes]:
        found: list[bytes] = []
        while True:
            blob, at = self.socket.recv(1 << 20), 0
            while at + 16 <= len(blob):
                length, kind, flags, number, _ = struct.unpack_from("=IHHII", blob, at)
                body = blob[at + 16 : at + length]
                at += length + 3 & ~3
                if number != sequence:
                    continue
                self.interrupted = self.interrupted or bool(flags & DUMP_INTR)
                if kind in (ERROR, DONE):
                    code = struct.unpack_from("=i", body)[0]
                    if code:
                        said, offset = "", None
                        if flags & ACK_TLVS:
                            head = 4 if kind == DONE else 20
                            for tlv, value in attrs(body[head:]):
                                if tlv == 1:
                                    said = value.rstrip(b"\0").decode()
                                elif tlv == 2:
                                    offset = struct.unpack("=I", value)[0]
                        raise Refused(-code, said, offset)
                    return found
                found.append(body[4:])


class Utun:
    """One device, asked through a `Netlink` of its namespace."""

    def __init__(self, netlink: Netlink, ifindex: int) -> None:
        self.netlink = netlink
        self.me = u32(A_IFINDEX, ifindex)

    def ask(self, command: int, *payload: bytes, flags: int = 0) -> list[bytes]:
        return self.netlink.ask(command, self.me + b"".join(payload), flags)

    def device(self) -> dict[str, Any]:
        parts = dict(attrs(self.ask(DEV_GET)[0]))
        numbers = {"peers": A_PEERS, "sockets": A_SOCKETS, "generation": A_GENERATION}
        found: dict[str, Any] = {name: struct.unpack("=I", parts[kind])[0] for name, kind in numbers.items()}
        found["drops"] = drops(parts.get(A_DROPS, b""))
        return found

    def strays(self) -> dict[str, int]:
        return self.device()["drops"]

    def attach(self, which: socket.socket | int) -> None:
        self.ask(SOCKET_ADD, u32(A_FD, which if isinstance(which, int) else which.fileno()))

    def detach(self, which: socket.socket | int) -> None:
        self.ask(SOCKET_DEL, u32(A_FD, which if isinstance(which, int) else which.fileno()))

    def add(self, *peers: Peer, replace: bool = False) -> None:
        self.ask(PEER_ADD, *(peer.pack() for peer in peers), flags=REPLACE if replace else 0)

    def set(self, identity: int, *changes: bytes) -> None:
        self.ask(PEER_SET, nest(A_PEER, u32(ID, identity), *changes))

    def _named(self, command: int, ids: Iterable[int]) -> list[Seen]:
        (answer,) = self.ask(command, *(nest(A_PEER, u32(ID, each)) for each in ids))
        return [read_peer(value) for kind, value in attrs(answer) if kind == A_PEER]

    def delete(self, *ids: int) -> list[Seen]:
        return self._named(PEER_DEL, ids)

    def get(self, *ids: int) -> list[Seen]:
        return self._named(PEER_GET, ids)

    def one(self, identity: int) -> Seen:
        return self.get(identity)[0]

    def flush(self) -> None:
        self.ask(PEER_FLUSH)

    def dump(self) -> list[Seen]:
        self.netlink.interrupted = False
        return [
            read_peer(value)
            for answer in self.ask(PEER_GET, flags=DUMP)
            for kind, value in attrs(answer)
            if kind == A_PEER
        ]


class Events:
    """A listener to the multicast group, in the namespace that the thread is in when it is made."""

    def __init__(self) -> None:
        self.netlink = Netlink()
        self.netlink.socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, self.netlink.groups["events"])
        self.netlink.socket.setblocking(False)

    def close(self) -> None:
        self.netlink.close()

    def read(self) -> Iterator[Event]:
        """What has come so far."""
        while True:
            try:
                blob = self.netlink.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            parts = dict(attrs(blob[20:]))
            yield Event(
                parts[A_EVENT][0],
                struct.unpack("=I", parts[A_IFINDEX])[0],
                read_peer(parts[A_PEER]),
                str(IPv6Address(parts[A_INNER])) if A_INNER in parts else None,
            )
