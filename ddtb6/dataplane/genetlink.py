# SPDX-License-Identifier: GPL-2.0-or-later
"""A generic netlink family, asked through a raw socket that never blocks the reactor.

Source: Linux, include/uapi/linux/netlink.h and genetlink.h; Documentation/userspace-api/netlink/intro.rst. Everything
is in host byte order, and attributes are aligned to four octets.
The kernel works a request off inside of send(): its effect is there, and its answer waits, when send() returns. So
requests take effect in the order in which they were asked, and `ask` mostly returns a Deferred that has fired. What is
long (a dump) goes on in later turns of the reactor, and requests asked meanwhile do not wait for it.
Invariants: requests that wait are bounded in number; one turn reads a bounded number of datagrams; each request is
answered or refused once.
Not here: what the family's commands and attributes mean (`dataplane.utun_messages`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

NETLINK_GENERIC = 16
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
SO_RCVBUFFORCE = 33
REQUEST, ACK, REPLACE, DUMP = 0x1, 0x4, 0x100, 0x300
NESTED = 0x8000
"""In the type of an attribute that holds others."""

RECEIVE_BUFFER = 4 << 20
"""Octets; room for the answers to thousands of requests."""
MOST_WAITING = 4096
"""Requests not answered yet; only a kernel that has stopped answering lets so many come together."""
BURST = 16
"""Datagrams read in one turn; one of a dump holds a hundred peers."""
_LARGEST = 1 << 19
"""Octets of an answer; 128 peers with 64 prefixes each take half of it."""
_PATIENCE = 2.0
"""Seconds to wait for the kernel's answer before there is a reactor; loading a module takes a part of one."""

_ERROR, _DONE, _CONTROL = 2, 3, 16
_INTERRUPTED, _HAS_SENTENCE = 0x10, 0x200
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME, _FAMILY_VERSION = 3, 1, 2, 3
_SAID, _WHERE = 1, 2

_HEAD = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""
_GENERIC = struct.Struct("=BBH")
"""struct genlmsghdr: command, version, reserved."""
_ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr: length with this header, type."""
_BODY = _HEAD.size + _GENERIC.size
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_CODE = struct.Struct("=i")


class Refused(Exception):
    """The kernel refused a request; the message is a sentence."""

    def __init__(self, code: int, said: str = "", where: int | None = None) -> None:
        super().__init__(said or os.strerror(code))
        self.code = code
        """errno."""
        self.where = where
        """Octets from the beginning of the request's attributes to the one at fault; None: it does not say."""


class Interrupted(Exception):
    """What was dumped has changed meanwhile."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family as this kernel has it."""

    id: int
    version: int


class Descriptors(Protocol):
    """What is needed of a reactor: Twisted's IReactorFDSet."""

    def addReader(self, reader: Any) -> object: ...
    def removeReader(self, reader: Any) -> object: ...
    def addWriter(self, writer: Any) -> object: ...
    def removeWriter(self, writer: Any) -> object: ...


class _Request:
    __slots__ = ("answer", "answers", "each", "interrupted", "last_is_answer")

    def __init__(self, each: Callable[[bytes], None] | None, *, last_is_answer: bool) -> None:
        self.answer: Deferred[list[bytes]] = Deferred()
        self.answers: list[bytes] = []
        self.each = each or self.answers.append
        self.interrupted = False
        self.last_is_answer = last_is_answer


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its padding."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(body: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """The attributes in `body` from `at` to `end`: type without flags, where the value begins, where it ends.

    What does not fit is left out with all that follows it.
    """
    end = len(body) if end is None else end
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < 4 or at + length > end:
            return
        yield kind & 0x3FFF, at + 4, at + length
        at += length + 3 & ~3


def message(family: int, command: int, version: int, sequence: int, flags: int, payload: bytes) -> bytes:
    """A request; `payload` is its attributes."""
    head = _HEAD.pack(_BODY + len(payload), family, REQUEST | flags, sequence, 0)
    return head + _GENERIC.pack(command, version, 0) + payload


def find_family(name: str) -> Family | None:
    """The family of that name; None when the kernel has none and no module that it would load for it.

    Blocks while the kernel loads the module. Raises OSError. Needs no right.
    """
    request = message(_CONTROL, _GET_FAMILY, 1, 1, 0, attribute(_FAMILY_NAME, name.encode() + b"\0"))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as netlink:
        netlink.settimeout(_PATIENCE)
        netlink.send(request)
        answer = netlink.recv(_LARGEST)
    kind = _HEAD.unpack_from(answer)[1]
    if kind == _ERROR:
        code = -_CODE.unpack_from(answer, _HEAD.size)[0]
        if code == errno.ENOENT:
            return None
        raise OSError(code, os.strerror(code))
    found = {kind: answer[at:end] for kind, at, end in attributes(answer, _BODY)}
    return Family(_U16.unpack(found[_FAMILY_ID])[0], _U32.unpack(found[_FAMILY_VERSION])[0])


@implementer(IReadWriteDescriptor)
class Genetlink:
    """One socket, for one family, in the network namespace of who opens it."""

    def __init__(self, reactor: Descriptors, family: Family, lost: Callable[[str], None]) -> None:
        """Opens it. Raises OSError. `lost` is called with why when answers have been lost, once."""
        self._reactor = reactor
        self._family = family
        self._lost = lost
        self._waiting: dict[int, _Request] = {}
        self._sequence = 0
        self._turns: list[Deferred[None]] = []
        self._buffer = memoryview(bytearray(_LARGEST))
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_GENERIC)
        try:
            opened.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            with contextlib.suppress(PermissionError):
                opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            opened.bind((0, 0))
        except OSError:
            opened.close()
            raise
        self._socket: socket.socket | None = opened
        reactor.addReader(self)

    def close(self) -> None:
        """Give up what waits."""
        if self._socket is None:
            return
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self._socket.close()
        self._socket = None
        self._refuse_all("the socket to the kernel was closed")
        self.doWrite()

    def ask(
        self, command: int, payload: bytes, flags: int = ACK, each: Callable[[bytes], None] | None = None
    ) -> Deferred[list[bytes]]:
        """Send a request; the Deferred gives the attributes of each answer.

        Without ACK and DUMP the first answer is the last. With `each` the answers go there as they come, and the list
        is empty. Fails with Refused, or Interrupted when all of a dump is there but it may not fit together.
        """
        if self._socket is None:
            return fail(Refused(errno.ENOTCONN, "the socket to the kernel is closed"))
        if len(self._waiting) >= MOST_WAITING:
            return fail(Refused(errno.EBUSY, "the kernel does not answer, and too many requests wait"))
        self._sequence = sequence = self._sequence % 0xFFFFFFFF + 1
        self._waiting[sequence] = request = _Request(each, last_is_answer=not flags & (ACK | DUMP))
        try:
            self._socket.send(message(self._family.id, command, self._family.version, sequence, flags, payload))
        except OSError as error:
            del self._waiting[sequence]
            return fail(Refused(error.errno or errno.EIO))
        self.doRead()
        return request.answer

    def turn(self) -> Deferred[None]:
        """Fires in the reactor's next turn: who has a long row of requests gives way to others with it."""
        if self._socket is None:
            return succeed(None)
        later: Deferred[None] = Deferred()
        self._turns.append(later)
        self._reactor.addWriter(self)
        return later

    # --- what the reactor calls -----------------------------------------------------------------------------------

    def doRead(self) -> None:
        for turn in range(BURST):
            # What nobody waits for (any more) is read too, or the reactor would call for it without end.
            if self._socket is None or (turn and not self._waiting):
                return
            try:
                size = self._socket.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                why = f"answers of the kernel were lost: {error.strerror}"
                self._refuse_all(why)
                self._lost(why)
                return
            self._take(bytes(self._buffer[:size]))

    def doWrite(self) -> None:
        self._reactor.removeWriter(self)
        turns, self._turns = self._turns, []
        for each in turns:
            each.callback(None)

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        return "netlink"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave the descriptor up."""
        if self._socket is not None:
            self.close()
            self._lost("the socket to the kernel was lost")

    def _take(self, datagram: bytes) -> None:
        at = 0
        while at + _HEAD.size <= len(datagram):
            length, kind, flags, sequence, _ = _HEAD.unpack_from(datagram, at)
            if length < _HEAD.size or at + length > len(datagram):
                return
            request = self._waiting.get(sequence)
            if request is not None:
                self._take_one(request, kind, flags, sequence, datagram[at : at + length])
            at += length + 3 & ~3

    def _take_one(self, request: _Request, kind: int, flags: int, sequence: int, answer: bytes) -> None:
        if flags & _INTERRUPTED:
            request.interrupted = True
        if kind in (_ERROR, _DONE):
            del self._waiting[sequence]
            code = -_CODE.unpack_from(answer, _HEAD.size)[0] if len(answer) >= _HEAD.size + 4 else 0
            if code > 0:
                request.answer.errback(_refusal(code, kind, flags, answer))
            elif request.interrupted:
                request.answer.errback(Interrupted())
            else:
                request.answer.callback(request.answers)
            return
        request.each(answer[_BODY:])
        if request.last_is_answer:
            del self._waiting[sequence]
            request.answer.callback(request.answers)

    def _refuse_all(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            request.answer.errback(Refused(errno.ENOBUFS, why))


def _refusal(code: int, kind: int, flags: int, answer: bytes) -> Refused:
    said, where = "", None
    if flags & _HAS_SENTENCE:
        # An error repeats the head of the request before what it says (struct nlmsgerr, capped).
        for what, at, end in attributes(answer, _HEAD.size + 4 + (_HEAD.size if kind == _ERROR else 0)):
            if what == _SAID:
                said = answer[at:end].rstrip(b"\0").decode("utf-8", "replace")
            elif what == _WHERE and end - at == 4:
                where = _U32.unpack_from(answer, at)[0] - _BODY
    return Refused(code, said, where)
