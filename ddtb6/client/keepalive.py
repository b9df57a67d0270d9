# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the NAT's mapping open, and notices when the tunnel is dead: ICMPv6 echoes through it.

Source: RFC 5572 section 4.6; intervals and losses as gogoCLIENT 1.2 counts them.
Invariants: pure; only the reply to our own outstanding echo is a sign of life. Other packets from the broker are none:
after the NAT changed our port they still arrive for a while, and nothing of ours gets through.
Not here: timers, sockets, what happens after the loss (`program`).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address

from ddtb6.dataplane.icmp6 import ECHO_REPLY, ECHO_REQUEST, HEADER, ICMP6, message

REPLY_TIMEOUT = 5.0
"""Seconds that one echo is waited for."""
FIRST = 3.0
"""Seconds until the first echo. A Linux NAT forgets a mapping after 30 s, which is what brokers ask for as an interval,
unless it has carried packets both ways for more than two: then after 120."""
LOSSES = 3
"""Consecutive echoes without reply after which the tunnel counts as dead."""
SHORTEST_INTERVAL = 1
"""Seconds; what a broker asks for below that is raised to it."""
LONGEST_INTERVAL = 86400
"""Seconds; what a broker asks for above that is lowered to it."""

_CHECKSUM_END = HEADER + 4


class KeepaliveClock:
    """When to ask the broker for a sign of life, and whether it is given up.

    Times are monotonic seconds. Call `expired` when `deadline` has come, and show every packet from the broker to
    `heard`. The first echo leaves soon after `now`, the others about an interval after a reply. After a loss the next
    leaves at once, so that a dead tunnel is noticed one interval and 15 seconds after its last sign of life.
    """

    def __init__(
        self,
        source: IPv6Address,
        target: IPv6Address,
        interval: float,
        identifier: int,
        cookie: bytes,
        now: float,
        draw: Callable[[], float],
    ) -> None:
        """`identifier` has 16 bits, `cookie` is 16 unpredictable octets, `draw` gives numbers from 0 to 1."""
        self.lost = False
        """The tunnel counts as dead; nothing more will be sent."""
        self._source = source
        self._target = target
        self._interval = max(SHORTEST_INTERVAL, min(interval, LONGEST_INTERVAL))
        self._identifier = (identifier & 0xFFFF).to_bytes(2, "big")
        self._cookie = cookie
        self._draw = draw
        self._sequence = 0
        self._awaited: bytes | None = None  # the body that the reply to the outstanding echo has, after its checksum
        self._losses = 0
        self.deadline: float | None = now + min(FIRST, self._interval)
        """When `expired` is due; None: never again."""

    def expired(self, now: float) -> bytes | None:
        """The echo to send now; None when the tunnel is `lost`."""
        if self._awaited is not None:
            self._losses += 1
            if self._losses >= LOSSES:
                self.lost = True
                self.deadline = None
                self._awaited = None
                return None
        self._awaited = self._identifier + self._sequence.to_bytes(2, "big") + self._cookie
        packet = message(self._source.packed, self._target.packed, ECHO_REQUEST, 0, self._awaited)
        self._sequence = (self._sequence + 1) & 0xFFFF
        self.deadline = now + REPLY_TIMEOUT
        return packet

    def heard(self, packet: bytes, now: float) -> bool:
        """Whether `packet` answers the outstanding echo; it is then nobody else's business."""
        if (
            self._awaited is None
            or packet[_CHECKSUM_END:] != self._awaited
            or packet[6] != ICMP6
            or packet[HEADER] != ECHO_REPLY
            or packet[8:24] != self._target.packed
        ):
            return False
        self._awaited = None
        self._losses = 0
        # 4.6: a random time between 0.75 T and T, so that clients that began together do not stay together.
        self.deadline = now + self._interval * (0.75 + 0.25 * self._draw())
        return True
