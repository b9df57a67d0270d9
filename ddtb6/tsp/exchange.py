# SPDX-License-Identifier: GPL-2.0-or-later
"""The client half of TSP's reliable UDP: one request outstanding, repeated until its reply comes or hope is gone.

Source: RFC 5572 section 5.2 (the reliability header), and the retransmission of gogoCLIENT 1.2.
Invariants: a request keeps its sequence number in every copy and has a fresh timestamp in each; a reply counts only for
the request that is outstanding; nothing a stranger sends changes the state.
Not here: who may answer (the edge compares endpoints), what the texts say (`client`), sockets and timers.
"""

from __future__ import annotations

from ddtb6.tsp.framing import Kind, classify, pack, unpack

FIRST_SEQUENCE = 0xF0
"""As gogoCLIENT begins: read in the wrong byte order the header still has its F nibble, which servers of 2004 need."""

INITIAL_TIMEOUT = 2.0
"""Seconds before the second copy while no round trip was measured; also the shortest wait there is."""
LONGEST_TIMEOUT = 30.0
"""Seconds that one wait never exceeds."""
UNHEARD_COPIES = 3
"""Copies of the first request: at 0, 2 and 4 s, given up at 6 s. A broker that is there answers one of them."""
HEARD_COPIES = 8
"""Copies of any later request; from the fourth on the wait doubles."""

_SEQUENCE_MASK = 0x0FFFFFFF


class ClientExchange:
    """Sequence numbers, timestamps and repetitions of one negotiation over UDP.

    Times are monotonic seconds. Deliver what `request` and `expired` return, call `expired` when `deadline` has come,
    and hand every datagram from the broker to `reply`.
    """

    def __init__(self, began: float) -> None:
        self.deadline: float | None = None
        """When `expired` is due; None: nothing is outstanding, or it was given up."""
        self.heard = False
        """A reply to some request has come."""
        self._began = began
        self._sequence = FIRST_SEQUENCE - 1
        self._text = b""
        self._copies = 0
        self._sent_at: dict[int, float] = {}  # timestamp of each copy of the outstanding request, to its sending
        self._smoothed: float | None = None
        self._variation = 0.0

    def request(self, text: bytes, now: float) -> bytes:
        """The first copy of a new request; an empty `text` is a poll. An outstanding request is forgotten."""
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        self._text = text
        self._copies = 0
        self._sent_at = {}
        return self._copy(now)

    def expired(self, now: float) -> bytes | None:
        """The next copy, or None: the broker does not answer, and nothing is outstanding any more."""
        if self._copies >= (HEARD_COPIES if self.heard else UNHEARD_COPIES):
            self.deadline = None
            return None
        return self._copy(now)

    def reply(self, datagram: bytes, now: float) -> bytes | None:
        """The text (perhaps empty) of the reply to the outstanding request; None: it is something else, drop it."""
        if self.deadline is None or classify(datagram) is not Kind.SIGNALLING:
            return None
        header, text = unpack(datagram)
        if header.sequence != self._sequence:
            return None
        self.heard = True
        self.deadline = None
        sent_at = self._sent_at.get(header.timestamp)
        if sent_at is not None:
            self._measure(now - sent_at)
        return text

    def _copy(self, now: float) -> bytes:
        self._copies += 1
        self.deadline = now + self._wait()
        timestamp = int((now - self._began) * 1000) & 0xFFFFFFFF
        self._sent_at[timestamp] = now
        return pack(self._sequence, timestamp, self._text)

    def _wait(self) -> float:
        estimate = 0.0 if self._smoothed is None else self._smoothed + 4 * self._variation
        wait = max(INITIAL_TIMEOUT, estimate)
        return float(min(LONGEST_TIMEOUT, wait * 2 ** max(0, self._copies - UNHEARD_COPIES)))

    def _measure(self, round_trip: float) -> None:
        # RFC 6298 2.2, 2.3. The echoed timestamp names the copy that was answered, so repetitions may be measured too.
        if self._smoothed is None:
            self._smoothed = round_trip
            self._variation = round_trip / 2
        else:
            self._variation += (abs(self._smoothed - round_trip) - self._variation) / 4
            self._smoothed += (round_trip - self._smoothed) / 8
