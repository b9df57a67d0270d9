# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets between the TUN device and the broker, while the tunnel is alive.

Invariants: only IPv6 packets pass, either way; a full queue loses packets and never raises; one turn of the reactor
carries a bounded number of packets.
Not here: when a keepalive is due and what a loss is (`keepalive`), judging sources and destinations (the broker judges
what comes from us, the kernel what comes to us).
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ddtb6.broker.planes import DataPlaneError
from ddtb6.client.keepalive import KeepaliveClock
from ddtb6.client.paths import Reactor, UdpPath
from ddtb6.dataplane.device import LARGEST_PACKET
from ddtb6.dataplane.icmp6 import HEADER

PACKETS_A_TURN = 64
"""Read from the device before the reactor gets its turn."""


@implementer(IReadDescriptor)
class Tunnel:
    """Carries packets until the keepalive is lost, the device fails, or it is cancelled."""

    def __init__(self, reactor: Reactor, fd: int, path: UdpPath, keepalive: KeepaliveClock | None) -> None:
        """`fd` is the device's; it stays open. The path stays open, too, and drops packets afterwards."""
        self._reactor = reactor
        self._fd = fd
        self._path = path
        self._keepalive = keepalive
        self._timer: Any = None
        self._ended: Deferred[str] | None = None

    def carry(self) -> Deferred[str]:
        """Begin; fires with why the tunnel is dead, or fails with DataPlaneError. May be cancelled."""
        ended: Deferred[str] = Deferred(lambda _: self._stop())
        self._ended = ended
        self._path.receive_packet = self._from_broker
        self._reactor.addReader(self)
        self._arm()
        return ended

    # --- once a packet --------------------------------------------------------------------------------------------

    def _from_broker(self, packet: bytes) -> None:
        if len(packet) < HEADER:
            return
        if self._keepalive is not None and self._keepalive.heard(packet, self._reactor.seconds()):
            self._arm()
            return
        try:
            os.write(self._fd, packet)
        except OSError:  # the device is down or its queue is full: the packet is lost, as on any link
            return

    def doRead(self) -> None:
        for _ in range(PACKETS_A_TURN):
            try:
                packet = os.read(self._fd, LARGEST_PACKET)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(error)
                return
            if len(packet) >= HEADER and packet[0] >> 4 == 6:
                self._path.send(packet)

    # --- what Twisted asks of a reader -----------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "tunnel"

    def connectionLost(self, reason: Failure) -> None:
        self._fail(reason.value)

    # --- keepalive ------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._disarm()
        if self._keepalive is not None and self._keepalive.deadline is not None:
            delay = max(0.0, self._keepalive.deadline - self._reactor.seconds())
            self._timer = self._reactor.callLater(delay, self._expired)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        assert self._keepalive is not None, "only a keepalive sets the timer"
        self._timer = None
        packet = self._keepalive.expired(self._reactor.seconds())
        if packet is None:
            self._end("the broker answers no keepalive any more")
            return
        self._path.send(packet)
        self._arm()

    def _end(self, why: str) -> None:
        self._stop()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.callback(why)

    def _fail(self, error: BaseException | None) -> None:
        self._stop()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.errback(DataPlaneError(f"the device was taken away or down: {error}"))

    def _stop(self) -> None:
        self._disarm()
        self._reactor.removeReader(self)
        self._path.receive_packet = None
