# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells when a device goes or is set down, by whoever.

Source: rtnetlink(7), group RTNLGRP_LINK; struct ifinfomsg.
Invariant: what may have been missed is told as well: a full socket (ENOBUFS) counts as trouble.
Not here: what is to be done about it.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ddtb6.dataplane.genetlink import Descriptors

_LINK_GROUP = 1
"""RTMGRP_LINK, as a bit."""
_NEW_LINK, _DEL_LINK = 16, 17
_UP = 0x1
_HEAD = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, which flags changed."""
_LARGEST = 1 << 16
_BURST = 16


@implementer(IReadDescriptor)
class LinkWatch:
    """One watched device, in the network namespace of who makes this."""

    def __init__(self, reactor: Descriptors, index: int, trouble: Callable[[str], None]) -> None:
        """`trouble` is called with why, in the reactor, each time. Raises OSError."""
        self._reactor = reactor
        self._index = index
        self._trouble = trouble
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            opened.bind((0, _LINK_GROUP))
        except OSError:
            opened.close()
            raise
        self._socket: socket.socket | None = opened
        reactor.addReader(self)

    def close(self) -> None:
        if self._socket is not None:
            self._reactor.removeReader(self)
            self._socket.close()
            self._socket = None

    def doRead(self) -> None:
        why = ""
        for _ in range(_BURST):
            if self._socket is None:
                break
            try:
                datagram = self._socket.recv(_LARGEST)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                lost = error.errno == errno.ENOBUFS
                why = "news of devices was lost" if lost else f"devices cannot be watched: {error.strerror}"
                break
            # A device that is deleted is set down first.
            why = self._read(datagram) or why
        if why:
            self._trouble(why)

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        return "rtnetlink"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave the descriptor up."""
        if self._socket is not None:
            self.close()
            self._trouble("devices are no longer watched")

    def _read(self, datagram: bytes) -> str:
        """What is wrong with our device; empty when nothing is."""
        at, why = 0, ""
        with contextlib.suppress(struct.error):
            while at < len(datagram):
                length, kind, *_ = _HEAD.unpack_from(datagram, at)
                if length < _HEAD.size:
                    break
                if kind in (_NEW_LINK, _DEL_LINK):
                    family, _, index, flags, _ = _LINK.unpack_from(datagram, at + _HEAD.size)
                    if index == self._index and kind == _DEL_LINK and family == socket.AF_UNSPEC:
                        why = "the device is gone"
                    elif index == self._index and kind == _NEW_LINK and not flags & _UP:
                        why = "the device was set down"
                at += length + 3 & ~3
        return why
