# SPDX-License-Identifier: GPL-2.0-or-later
"""One bulk transfer over TCP between two namespaces."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from tests.support.netns import Namespace


def bulk(
    sending: Namespace,
    source: str,
    receiving: Namespace,
    target: str,
    seconds: float,
    begins: Callable[[], object] = lambda: None,
) -> float:
    """Octets a second of one connection, over `seconds` after a moment to find its speed; `begins` is called then."""
    with (
        receiving.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener,
        sending.socket(socket.AF_INET6, socket.SOCK_STREAM) as sender,
    ):
        listener.bind((target, 0))
        listener.listen(1)
        sender.bind((source, 0))
        sender.settimeout(10)
        sender.connect(listener.getsockname()[:2])
        receiver, _ = listener.accept()
        thread = threading.Thread(target=_send_until_closed, args=(sender,), daemon=True)
        with receiver:
            receiver.settimeout(10)
            thread.start()
            buffer = bytearray(1 << 18)
            _receive_for(receiver, buffer, 0.5)
            begins()
            began = time.perf_counter()
            octets = _receive_for(receiver, buffer, seconds)
            rate = octets / (time.perf_counter() - began)
        thread.join()
    return rate


def _send_until_closed(sender: socket.socket) -> None:
    data = bytes(1 << 18)
    with contextlib.suppress(OSError):
        while True:
            sender.sendall(data)


def _receive_for(receiver: socket.socket, buffer: bytearray, seconds: float) -> int:
    octets, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        octets += receiver.recv_into(buffer)
    return octets
