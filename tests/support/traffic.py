# SPDX-License-Identifier: GPL-2.0-or-later
"""Traffic between namespaces that can be checked: pings and TCP transfers by the kernels' own stacks, packets by hand.

Not here: outer UDP and TSP (`tsp_client`).
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from ipaddress import IPv6Address

from support.netns import Namespace

ECHO_REQUEST, ECHO_REPLY = 128, 129
ICMPV6 = 58


def ping(space: Namespace, destination: str, *, source: str = "::", size: int = 56, wait: float = 4) -> float | None:
    """One ICMPv6 echo by the stack of `space`; the round trip in seconds, or None when no reply came in `wait`."""
    identifier, payload = os.getpid() & 0xFFFF, os.urandom(size)
    with space.socket(socket.AF_INET6, socket.SOCK_RAW, ICMPV6) as handle:
        handle.bind((source, 0))
        began = time.monotonic()
        try:
            handle.sendto(struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, identifier, 1) + payload, (destination, 0))
        except OSError:
            return None
        while (left := began + wait - time.monotonic()) > 0:
            handle.settimeout(left)
            try:
                reply = handle.recv(65535)
            except TimeoutError:
                return None
            if reply[0] == ECHO_REPLY and reply[4:6] == struct.pack("!H", identifier) and reply[8:] == payload:
                return time.monotonic() - began
    return None


class Train:
    """ICMPv6 echo requests, one after the other at an interval, by the stack of a namespace until it is stopped."""

    def __init__(self, space: Namespace, destination: str, interval: float = 0.02) -> None:
        self.sent, self.answered = 0, set[int]()
        self._stop = threading.Event()
        self._interval = interval
        self._handle = space.socket(socket.AF_INET6, socket.SOCK_RAW, ICMPV6)
        self._handle.connect((destination, 0))
        self._handle.settimeout(0.2)
        self._identifier = struct.pack("!H", os.getpid() & 0xFFFF)
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._receive)]
        for each in self._threads:
            each.start()

    def _send(self) -> None:
        while not self._stop.wait(self._interval):
            head = struct.pack("!BBH", ECHO_REQUEST, 0, 0) + self._identifier
            self._handle.send(head + struct.pack("!HQ", self.sent & 0xFFFF, self.sent))
            self.sent += 1

    def _receive(self) -> None:
        while not self._stop.is_set() or len(self.answered) < self.sent:
            try:
                reply = self._handle.recv(2048)
            except TimeoutError:
                if self._stop.is_set() and time.monotonic() > self._patience:
                    return
                continue
            if reply[0] == ECHO_REPLY and reply[4:6] == self._identifier and len(reply) == 16:
                self.answered.add(int.from_bytes(reply[8:], "big"))

    def stop(self, patience: float = 20) -> None:
        """Fails unless every request has been answered, the last ones within `patience` seconds."""
        self._patience = time.monotonic() + patience
        self._stop.set()
        for each in self._threads:
            each.join()
        self._handle.close()
        lost = sorted(set(range(self.sent)) - self.answered)
        assert not lost, f"{len(lost)} of {self.sent} echo requests were lost: {lost[:20]}"


def transfer(
    sender: Namespace, receiver: Namespace, address: str, octets: int, *, source: str = "::", deadline: float = 60
) -> float:
    """Send random `octets` over TCP to `address` in `receiver`; returns seconds. Fails unless every octet arrived."""
    payload = os.urandom(octets)
    got = hashlib.sha256()
    counted = 0

    def receive() -> None:
        nonlocal counted
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(deadline)
            while chunk := connection.recv(65536):
                got.update(chunk)
                counted += len(chunk)

    with (
        receiver.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener,
        sender.socket(socket.AF_INET6, socket.SOCK_STREAM) as out,
    ):
        listener.settimeout(deadline)
        listener.bind((address, 0))
        listener.listen(1)
        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        began = time.monotonic()
        out.settimeout(deadline)
        out.bind((source, 0))
        out.connect((address, listener.getsockname()[1]))
        out.sendall(payload)
        out.shutdown(socket.SHUT_WR)
        thread.join(deadline)
        took = time.monotonic() - began
    assert counted == octets, f"{counted} of {octets} octets arrived"
    assert got.digest() == hashlib.sha256(payload).digest(), "what arrived is not what was sent"
    return took


def echo_request(source: str, destination: str, *, sequence: int = 0, payload: bytes = b"0123456789abcdef") -> bytes:
    """An IPv6 packet with an ICMPv6 echo request, as a client puts it into a tunnel."""
    ends = IPv6Address(source).packed + IPv6Address(destination).packed
    body = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, 0xE5C, sequence) + payload
    checksum = _checksum(ends + struct.pack("!IHBB", len(body), 0, 0, ICMPV6) + body)
    return struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, 64) + ends + body[:2] + checksum + body[4:]


def is_echo_reply(packet: bytes, source: str, destination: str, *, sequence: int = 0) -> bool:
    """Whether `packet` answers the `echo_request` that was sent from `destination` to `source`."""
    return (
        len(packet) >= 48
        and packet[6] == ICMPV6
        and packet[8:40] == IPv6Address(source).packed + IPv6Address(destination).packed
        and packet[40] == ECHO_REPLY
        and packet[46:48] == sequence.to_bytes(2, "big")
    )


def _checksum(data: bytes) -> bytes:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
