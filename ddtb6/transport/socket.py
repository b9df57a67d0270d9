# SPDX-License-Identifier: GPL-2.0-or-later
"""A UDP socket that answers from the address it was asked on, wildcard or not.

Source: ip(7) IP_PKTINFO, RFC 3542 IPV6_PKTINFO. Clients connect() their sockets, so a reply from another address of a
multi-homed broker never reaches them; Twisted's own UDP port cannot choose.
Not here: what the datagrams mean (`udp`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from ddtb6.addressing.endpoint import Endpoint

IP_PKTINFO = 8
SO_RCVBUFFORCE = 33
BURST = 64
"""Datagrams taken in one reactor turn before others get theirs."""
RECEIVE_BUFFER = 16 << 20
"""Octets of kernel buffer asked for. The kernel doubles it and counts 768 for a short datagram: room for 43,000.

Clients give up for half a minute when three copies of VERSION are lost, so that of 50,000 that return at once the last
came back after 37 s with half of this, and after 21 s with this.
"""
LARGEST = 65535
MOST_LOCALS = 1024
"""Own addresses remembered at once; a host with a route of type local answers for whole networks."""

Receiver = Callable[["UdpSocket", bytes, Endpoint, Endpoint], None]
"""Called with (socket, datagram, local, remote)."""

_IN_PKTINFO = struct.Struct("=i4s4s")  # Interface index; the address to reply from; the destination. Host order.
_IN6_PKTINFO = struct.Struct("=16si")  # The destination; interface index.
_UNKNOWN = bytes(4)
"""As the address to reply from: the datagram came before IP_PKTINFO was set, on a socket that was inherited."""


@implementer(IReadDescriptor)
class UdpSocket:
    """One bound socket on the reactor."""

    def __init__(self, reactor: Any, bind: Endpoint, receive: Receiver, inherited: socket.socket | None = None) -> None:
        """Nothing is opened before `start`. `inherited` is bound to `bind` already, and ours from here on."""
        self._reactor = reactor
        self._receive = receive
        self._bind = bind
        self._inherited = inherited
        self._socket: socket.socket | None = None
        self._locals: dict[bytes, Endpoint] = {}
        self._control: dict[str, list[tuple[int, int, bytes]]] = {}
        self.port = bind.port
        """The port bound; the one the system chose where 0 was asked for."""

    def start(self) -> None:
        """Open and bind unless that is done, and read from now on. Raises OSError."""
        family = socket.AF_INET if self._bind.family == 4 else socket.AF_INET6
        inherited, self._inherited = self._inherited, None
        opened = inherited or socket.socket(family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            if family == socket.AF_INET:
                opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            else:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            if inherited is None:
                if family == socket.AF_INET6:
                    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                opened.bind((self._bind.address, self._bind.port))
            try:
                opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            except PermissionError:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        except OSError:
            opened.close()
            raise
        self._socket = opened
        self.port = opened.getsockname()[1]
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Close; what is unread is lost, unless somebody else has the socket open as well."""
        if self._socket is not None:
            self._reactor.removeReader(self)
            self._socket.close()
            self._socket = None

    @property
    def family(self) -> int:
        """4 or 6."""
        return self._bind.family

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def logPrefix(self) -> str:
        return "signalling"

    def connectionLost(self, reason: Any) -> None:
        self.stop()

    def doRead(self) -> None:
        four = self._bind.family == 4
        for _ in range(BURST):
            if self._socket is None:
                return
            try:
                datagram, ancillary, _, source = self._socket.recvmsg(LARGEST, 64)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # An ICMP error for something sent earlier; there is no telling for what.
            if not ancillary or source[1] == 0:
                continue
            info = ancillary[0][2]
            local_octets = info[4:8] if four else info[:20]
            if four and local_octets == _UNKNOWN:
                local_octets = info[8:12]
            local = self._locals.get(local_octets) or self._learn(local_octets)
            if four:
                remote = Endpoint(source[0], source[1])
            else:
                scope = source[3]
                remote = Endpoint(f"{source[0]}%{scope}" if scope else source[0], source[1])
            self._receive(self, datagram, local, remote)

    def send(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> bool:
        """Send from `local` (of this socket) to `remote`; False when the kernel would not take it."""
        if self._socket is None:
            return False
        control = self._control.get(local.address) or self._control_for(local.address)
        try:
            self._socket.sendmsg((datagram,), control, 0, remote)
        except OSError:
            return False
        return True

    def _learn(self, octets: bytes) -> Endpoint:
        """The local endpoint of an address seen for the first time."""
        if self._bind.family == 4:
            text = socket.inet_ntop(socket.AF_INET, octets)
        else:
            text = socket.inet_ntop(socket.AF_INET6, octets[:16])
            if octets[0] == 0xFE and octets[1] & 0xC0 == 0x80:
                text = f"{text}%{_IN6_PKTINFO.unpack(octets)[1]}"
        local = Endpoint(text, self.port)
        if len(self._locals) >= MOST_LOCALS:
            self._locals.clear()
            self._control.clear()
        self._locals[octets] = local
        return local

    def _control_for(self, address: str) -> list[tuple[int, int, bytes]]:
        """The control message that makes `address` the source."""
        if self._bind.family == 4:
            info = _IN_PKTINFO.pack(0, socket.inet_pton(socket.AF_INET, address), b"\0" * 4)
            control = [(socket.IPPROTO_IP, IP_PKTINFO, info)]
        else:
            text, _, scope = address.partition("%")
            info = _IN6_PKTINFO.pack(socket.inet_pton(socket.AF_INET6, text), int(scope or 0))
            control = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
        self._control[address] = control
        return control
