# SPDX-License-Identifier: GPL-2.0-or-later
"""A TCP connection between namespaces that goes on for as long as a test wants it to."""

from __future__ import annotations

import hashlib
import os
import socket
import threading

from support.netns import Namespace, wait_until

CHUNK = 16384
ENOUGH = 1 << 20
IDLE = 60
"""Seconds without anything after which it fails."""


class Stream:
    """A TCP connection on which one side sends random octets until it is told to finish."""

    def __init__(
        self, sender: Namespace, receiver: Namespace, address: str, window: int | None = None, pause: float = 0.0
    ) -> None:
        """`window`: octets that may be under way, so that no queue on the way runs over.

        `pause`: seconds after each 16,384 octets, which leaves the processors to others.
        """
        self._pause = pause
        self.received = 0
        self._sent, self._got = hashlib.sha256(), hashlib.sha256()
        self._enough = threading.Event()
        self._listener = receiver.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self._listener.bind((address, 0))
        self._listener.listen(1)
        self._out = sender.socket(socket.AF_INET6, socket.SOCK_STREAM)
        if window is not None:
            self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window // 2)
        for each in (self._listener, self._out):
            each.settimeout(IDLE)
        self._out.connect(self._listener.getsockname())
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with self._out:
            while not self._enough.is_set():
                chunk = os.urandom(CHUNK)
                self._out.sendall(chunk)
                self._sent.update(chunk)
                self._enough.wait(self._pause)

    def _receive(self) -> None:
        with self._listener, self._listener.accept()[0] as connection:
            connection.settimeout(IDLE)
            while chunk := connection.recv(65536):
                self._got.update(chunk)
                self.received += len(chunk)

    def flows(self, more: int = ENOUGH, deadline: float = 30) -> None:
        """Wait until it has carried so many octets more than now."""
        mark = self.received
        wait_until(lambda: self.received > mark + more, f"another {more} octets", deadline)

    def finish(self, deadline: float = 30) -> None:
        """Fails unless all that was sent has arrived."""
        self._enough.set()
        for thread in self._threads:
            thread.join(deadline)
        assert self._sent.digest() == self._got.digest(), "what arrived is not what was sent"
