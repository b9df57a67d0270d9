# SPDX-License-Identifier: GPL-2.0-or-later
"""Many TSP clients in one process, so lean that the server is what is measured.

One socket plays all of them: each writes from an address of its own out of 127.0.0.0/8 (IP_PKTINFO), and puts its
number into the timestamp, which the server returns. The socket is polled and never waited for: waking a sleeping
process is work that the one who sends does, so it would be counted as the server's.

A client says what gogoCLIENT says (six requests from VERSION to accept, DIGEST-MD5, a /56 asked for), and when: it
repeats what is not answered, and one that is told that the server is busy, or is told nothing, begins again later.
"""

from __future__ import annotations

import socket
import struct
import time
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import md5

from bench.servers import PASSWORD, REALM, Place
from ddtb6.sasl.digest import user_secret

IP_PKTINFO, SO_RCVBUFFORCE = 8, 33
BUFFER = 64 << 20
WAITS = (2.0, 2.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)
"""Seconds after each copy of a request."""
FIRST_COPIES = 3
"""Copies of VERSION; of any later request there are as many as `WAITS`."""
RETRY_DELAY = 30.0
"""Seconds from giving up to the next VERSION."""
PATIENCE = 60.0
"""Seconds after which a log-in that is not complete is lost."""

NEWCOMERS = 64
"""Clients that begin before the socket is looked at again."""

FIRST = 0xF00000F0
"""First word of the first request: 0xF and the sequence number that gogoCLIENT begins with."""
_HEADER = struct.Struct(">II")
_PKTINFO = struct.Struct("=i4s4s")


def _command(document: bytes) -> bytes:
    return b"Content-length: %d\r\n%b" % (len(document), document)


_CREATE = _command(
    b'<tunnel action="create" type="v6udpv4" proxy="no">\r\n <client>\r\n  <address type="ipv4">10.0.0.1</address>\r\n'
    b'  <keepalive interval="30">\r\n    <address type="ipv6">::</address>\r\n  </keepalive>\r\n  <router>\r\n'
    b'   <prefix length="56"/>\r\n  </router>\r\n </client>\r\n</tunnel>\r\n'
)
_ACCEPT = _command(b'<tunnel action="accept"></tunnel>\r\n')
_RESPOND = 2
_RESTING = -1
_REQUESTS = (b"VERSION=2.0.2\r\n", b"AUTHENTICATE DIGEST-MD5\r\n\0", b"", b"", _CREATE, _ACCEPT)
"""What is said at each step. The response is made when the challenge comes; the empty text polls for the status."""
STEPS = len(_REQUESTS)

_A2 = md5(b"AUTHENTICATE:tsp/bench", usedforsecurity=False).hexdigest().encode()


@dataclass(slots=True)
class Outcome:
    """What became of a number of log-ins."""

    seconds: float = 0.0
    """From the first datagram to the last."""
    ends: list[float] = field(default_factory=list)
    """When each complete log-in was, in seconds from the first datagram."""
    copies: int = 0
    """Requests that were repeated."""
    lost: list[int] = field(default_factory=list)
    """Clients that did not get through."""
    refusals: dict[bytes, int] = field(default_factory=dict)
    """What clients were told instead, and how often."""

    @property
    def completed(self) -> int:
        return len(self.ends)

    @property
    def rate(self) -> float:
        """Complete log-ins a second."""
        return self.completed / self.seconds


class Crowd:
    """Clients of one server, one user each."""

    def __init__(self, place: Place, server: tuple[str, int], users: Sequence[str]) -> None:
        self._server = server
        self._socket = place.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._socket.bind(("0.0.0.0", 0))
        self._names = [user.encode() for user in users]
        self._secrets = [user_secret(user, REALM, PASSWORD) for user in users]
        self._sources = [_from_address(number) for number in range(len(users))]
        self._responses = [b""] * len(users)
        self.heard = [b""] * STEPS
        """The texts that client 0 got, by step; what a bare server answers."""

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def log_in(self, clients: Iterable[int], at_once: int) -> Outcome:
        """These clients log in, `at_once` of them under way at any time."""
        sendmsg, receive, server, sources = self._socket.sendmsg, self._socket.recv_into, self._server, self._sources
        buffer = bytearray(4096)
        texts, responses = list(_REQUESTS), self._responses
        steps: dict[int, int] = {}
        # Each wait has a queue of (when, client, step): what is put in last is due last.
        waits = [deque[tuple[float, int, int]]() for _ in WAITS]
        resting = deque[tuple[float, int]]()
        outcome = Outcome()
        coming = deque(clients)
        began = now = time.perf_counter()
        turns = 0

        def say(client: int, step: int, copy: int = 0) -> None:
            steps[client] = step
            text = responses[client] if step == _RESPOND else texts[step]
            sendmsg((_HEADER.pack(FIRST + step, client), text), sources[client], 0, server)
            waits[copy].append((now + WAITS[copy], client, step))

        def rest(client: int) -> None:
            steps[client] = _RESTING
            resting.append((now + RETRY_DELAY, client))

        def repeat(copy: int, client: int, step: int) -> None:
            if steps.get(client) != step:
                return  # It was answered.
            if copy + 1 < (FIRST_COPIES if step == 0 else len(WAITS)):
                outcome.copies += 1
                say(client, step, copy + 1)
            else:
                rest(client)

        while coming or steps:
            # A few newcomers at a time: while 50,000 begin, those that have begun are heard.
            for _ in range(min(NEWCOMERS, len(coming), at_once - len(steps))):
                say(coming.popleft(), 0)
            turns += 1
            if turns % 64 == 0:
                now = time.perf_counter()
                if now - began > PATIENCE:
                    break
                for copy, queue in enumerate(waits):
                    while queue and queue[0][0] <= now:
                        _, client, step = queue.popleft()
                        repeat(copy, client, step)
                while resting and resting[0][0] <= now:
                    say(resting.popleft()[1], 0)
            try:
                size = receive(buffer)
            except BlockingIOError:
                continue
            word, client = _HEADER.unpack_from(buffer)
            step = word - FIRST
            if steps.get(client) != step:
                continue  # The answer to a copy of what was answered already.
            if not self._good(step, buffer, size):
                line = bytes(buffer[8:size])
                outcome.refusals[line] = outcome.refusals.get(line, 0) + 1
                if step == 0:
                    rest(client)
                else:
                    outcome.lost.append(client)
                    del steps[client]
                continue
            if not client:
                self.heard[step] = bytes(buffer[8:size])
            if step == STEPS - 1:
                del steps[client]
                outcome.ends.append(time.perf_counter() - began)
                continue
            if step + 1 == _RESPOND:
                responses[client] = self._respond(client, buffer[8:size])
            say(client, step + 1)
        outcome.seconds = time.perf_counter() - began
        outcome.lost += [*steps, *coming]
        return outcome

    def _good(self, step: int, buffer: bytearray, size: int) -> bool:
        if step == 0:
            return buffer[8:11] == b"CAP"
        if step < 3:
            return buffer[8] > 0x39  # A status line begins with a digit, base64 of these texts with a letter.
        return b"200 Success" in buffer[8:48]

    def _respond(self, client: int, challenge: bytearray) -> bytes:
        """The DIGEST-MD5 message of RFC 2831 section 2.1.2, in base64."""
        nonce = b64decode(challenge).partition(b'nonce="')[2].partition(b'"')[0]
        a1 = md5(b"%b:%b:1" % (self._secrets[client], nonce), usedforsecurity=False).hexdigest().encode()
        proof = md5(b"%b:%b:00000001:1:auth:%b" % (a1, nonce, _A2), usedforsecurity=False).hexdigest().encode()
        text = (
            b'charset=utf8,username="%b",realm="%b",nonce="%b",nc=00000001,cnonce="1",digest-uri="tsp/bench",'
            b"response=%b,qop=auth" % (self._names[client], REALM.encode(), nonce, proof)
        )
        return b64encode(text) + b"\r\n"


def _from_address(number: int) -> list[tuple[int, int, bytes]]:
    """The control message that sends from the `number`-th address of 127.1.0.0 and on."""
    address = (0x7F010001 + number).to_bytes(4, "big")
    return [(socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO.pack(0, address, b"\0" * 4))]
