# SPDX-License-Identifier: GPL-2.0-or-later
"""The ports clients come to: adopted where the service manager has opened them, else opened here.

Source: sd_listen_fds(3). A socket that the service manager holds outlives the daemon: what arrives while no daemon runs
waits in the kernel, and with it the outer end of every tunnel.
Invariants: an inherited socket is never bound again and only our copy of it is ever closed; which socket is meant for
what follows from its kind and address, never from its place in the list or its name.
Not here: what comes through them (`udp`, `tcp`).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import maybeDeferred

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.transport.socket import Receiver, UdpSocket
from ddtb6.transport.tcp import TcpListener, listen_tcp

FIRST_DESCRIPTOR = 3
MOST_DESCRIPTORS = 256

_KINDS = {socket.SOCK_DGRAM: "udp", socket.SOCK_STREAM: "tcp"}


class ListenError(Exception):
    """A port cannot be had; the message is a sentence for the operator."""


class Passed(NamedTuple):
    """A descriptor that the service manager left open for us."""

    descriptor: int
    name: str
    """FileDescriptorName=, by default the name of the socket unit; empty where it said none."""


def environment_at_start() -> Mapping[str, str]:
    """The environment this process was given.

    Twisted takes LISTEN_PID and LISTEN_FDS out of `os.environ` when its endpoints are imported; the kernel keeps them.
    """
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        return os.environ
    pairs = (each.partition("=") for each in os.fsdecode(block).split("\0"))
    return {name: value for name, equals, value in pairs if equals}


def passed(environment: Mapping[str, str], pid: int) -> tuple[Passed, ...]:
    """What sd_listen_fds(3) says was passed to the process `pid`. Raises ListenError."""
    if environment.get("LISTEN_PID") != str(pid):
        return ()
    count = environment.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdecimal() and int(count) <= MOST_DESCRIPTORS):
        raise ListenError(f'the service manager says LISTEN_FDS="{count}", which is no count of sockets')
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * int(count)
    return tuple(Passed(FIRST_DESCRIPTOR + place, names[place]) for place in range(int(count)))


class Inherited:
    """Sockets that were passed and are not in use yet."""

    def __init__(self, descriptors: Iterable[Passed] = ()) -> None:
        """Takes them over. Raises ListenError for what is no socket of ours to use."""
        self._sockets: dict[tuple[str, Endpoint], socket.socket] = {}
        for descriptor, name in descriptors:
            who = name or f"descriptor {descriptor}"
            try:
                taken = socket.socket(fileno=descriptor)
            except OSError as error:
                raise ListenError(f"the service manager passed {who}, which is no socket: {error.strerror}") from None
            taken.set_inheritable(False)
            kind = _KINDS.get(taken.type)
            if kind is None or taken.family not in (socket.AF_INET, socket.AF_INET6):
                raise ListenError(f"the service manager passed {who}, which is neither UDP nor TCP; see ddtb6.socket")
            place = Endpoint(*taken.getsockname()[:2])
            if place.address == "::" and not taken.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                raise ListenError(f"{who}: {kind} {place} takes IPv4, too; it needs BindIPv6Only=ipv6-only")
            self._sockets[kind, place] = taken

    def take(self, kind: str, place: Endpoint) -> socket.socket | None:
        """The socket of that kind that is bound to `place`; it is the caller's from here on."""
        return self._sockets.pop((kind, place), None)

    def rest(self) -> list[str]:
        """Those that nobody took, such as ``tcp 0.0.0.0:3653``."""
        return [f"{kind} {place}" for kind, place in self._sockets]

    def close(self) -> None:
        """Close our copies of the rest."""
        while self._sockets:
            self._sockets.popitem()[1].close()


class Listening:
    """All ports of the process that clients and the AAA come to."""

    def __init__(self, reactor: Any, inherited: Inherited) -> None:
        self._reactor = reactor
        self._inherited = inherited
        self._closing: list[Callable[[], Any]] = []
        self.udp_sockets: dict[tuple[int, int], UdpSocket] = {}
        """Those of `udp` by family and port."""
        self.carrying: list[int] = []
        """Descriptors of those of `udp`: what tunnelled packets come through."""
        self.places: list[str] = []
        """Where we listen, such as ``udp 192.0.2.1:3653``."""

    def udp(self, endpoints: Iterable[Endpoint], receive: Receiver) -> None:
        """Open those. Raises ListenError."""
        for endpoint in endpoints:
            opened = self._open_udp(endpoint, receive)
            self.places.append(f"udp {Endpoint(endpoint.address, opened.port)}")
            self.udp_sockets[opened.family, opened.port] = opened
            self.carrying.append(opened.fileno())

    def transmit(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> bool:
        """Send through the right one of `udp`; False when it was not sent."""
        through = self.udp_sockets.get((local.family, local.port))
        return through is not None and through.send(datagram, local, remote)

    def dynamic(self, endpoints: Iterable[Endpoint], receive: Receiver) -> None:
        """Open those for requests of the AAA. Raises ListenError."""
        for endpoint in endpoints:
            self._open_udp(endpoint, receive)
            self.places.append(f"dynamic authorization {endpoint}")

    def tcp(self, endpoints: Iterable[Endpoint], listener: TcpListener) -> None:
        """Listen there. Raises ListenError."""
        for endpoint in endpoints:
            try:
                port = listen_tcp(self._reactor, endpoint, listener, self._inherited.take("tcp", endpoint))
            except OSError as error:
                raise self._refused("tcp", endpoint, error) from None
            self._closing.append(port.stopListening)
            self.places.append(f"tcp {Endpoint(endpoint.address, port.getHost().port)}")

    def unwanted(self) -> str:
        """What there is to say of inherited sockets that no one has asked for by now; empty: there are none."""
        rest = self._inherited.rest()
        self._inherited.close()
        if not rest:
            return ""
        return (
            f"the service manager has opened {', '.join(rest)} as well, which [listen] does not name, so who comes "
            "there gets no answer: let ddtb6.socket and [listen] say the same"
        )

    async def close(self) -> None:
        """Close all of them, the newest first."""
        self._inherited.close()
        while self._closing:
            await maybeDeferred(self._closing.pop())

    def _open_udp(self, endpoint: Endpoint, receive: Receiver) -> UdpSocket:
        opened = UdpSocket(self._reactor, endpoint, receive, self._inherited.take("udp", endpoint))
        try:
            opened.start()
        except OSError as error:
            raise self._refused("udp", endpoint, error) from None
        self._closing.append(opened.stop)
        return opened

    def _refused(self, kind: str, endpoint: Endpoint, error: OSError) -> ListenError:
        in_the_way = [each for each in self._inherited.rest() if each.startswith(kind)]
        if error.errno == errno.EADDRINUSE and in_the_way:
            return ListenError(
                f"cannot listen on {kind} {endpoint}: the service manager has {', '.join(in_the_way)} instead; let "
                f"ddtb6.socket and listen.{kind} say the same"
            )
        return ListenError(f"cannot listen on {kind} {endpoint}: {error.strerror}; see `ddtb6 doctor`")
