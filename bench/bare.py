# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers that do nothing but answer: what the same six datagrams cost without a broker.

`python -m bench.bare twisted|loop ADDRESS PORT FILE`: a Twisted DatagramProtocol, or a loop of recvmsg and sendmsg
without any framework, which is the kernel's part and little more. FILE has the six answers, as JSON of hexadecimal.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from pathlib import Path
from typing import Any


def serve_twisted(address: str, port: int, answers: list[bytes]) -> None:
    """A reactor and a protocol."""
    from twisted.internet import protocol
    from twisted.internet import reactor as installed

    reactor: Any = installed

    class Bare(protocol.DatagramProtocol):
        transport: Any

        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            self.transport.write(datagram[:8] + answers[(datagram[3] - 0xF0) % len(answers)], addr)

    listening = reactor.listenUDP(port, Bare(), interface=address)
    _widen(listening.socket)
    reactor.run()


def serve_loop(address: str, port: int, answers: list[bytes]) -> None:
    """Two system calls a datagram, with the control messages that the broker uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        opened.bind((address, port))
        _widen(opened)
        while True:
            datagram, control, _, remote = opened.recvmsg(65535, 64)
            opened.sendmsg((datagram[:8] + answers[(datagram[3] - 0xF0) % len(answers)],), control, 0, remote)


def _widen(opened: socket.socket) -> None:
    """As large a receive buffer as the broker's, where that is allowed."""
    with contextlib.suppress(PermissionError):
        opened.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE


if __name__ == "__main__":
    kind, address, port, file = sys.argv[1:]
    serve = {"twisted": serve_twisted, "loop": serve_loop}[kind]
    serve(address, int(port), [bytes.fromhex(each) for each in json.loads(Path(file).read_text())])
