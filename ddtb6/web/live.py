# SPDX-License-Identifier: GPL-2.0-or-later
"""What is carried at this moment, and the streams of server-sent events that keep open pages up to date.

All streams get the same octets, made once. Source: HTML Standard, section 9.2 for the format.
Invariants: `STREAMS` at most, `STREAMS_OF_SOURCE` of them from one source, each for `LIFETIME` seconds at most, after
which a browser asks anew; who does not read what was sent before the next event comes is hung up on, so what waits for
somebody is one event beyond what a connection buffers.
Not here: what the events say (`status`), HTTP (`serve`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping

from ddtb6.addressing.endpoint import Endpoint, source_of
from ddtb6.broker.history import Point, Series
from ddtb6.broker.planes import Carried
from ddtb6.broker.ports import Clock
from ddtb6.web.exchange import Refused, Request, Sink, Stream

EVERY = 5
"""Seconds between two samples, and two events."""
REMEMBERED = 300
"""Seconds for which samples are."""
STREAMS = 200
STREAMS_OF_SOURCE = 20
LIFETIME = 3600.0
RETRY = b"retry: 5000\n\n"
"""Milliseconds until a browser comes back."""


class Pulse:
    """How much the data plane carries now, a sample each `EVERY` seconds."""

    def __init__(self, clock: Clock, carried: Callable[[], Carried | None]) -> None:
        self._clock = clock
        self._carried = carried
        self._points: deque[Point] = deque(maxlen=REMEMBERED // EVERY)
        self._last: Carried | None = None
        self._at = clock.monotonic()

    def tick(self) -> bool:
        """Once a second; whether it took a sample."""
        now = self._clock.monotonic()
        if self._last is not None and now - self._at < EVERY - 0.5:
            return False
        seconds, self._at = now - self._at, now
        before, self._last = self._last, self._carried()
        if before is None or self._last is None or seconds <= 0:
            return False
        # Counters that went down have begun anew.
        octets_in, octets_out, packets_in, packets_out = (
            max(0, new - old) / seconds for new, old in zip(self._last, before, strict=True)
        )
        self._points.append(
            Point(
                at=self._clock.epoch() - seconds,
                octets_in=octets_in,
                octets_out=octets_out,
                packets_in=packets_in,
                packets_out=packets_out,
                logins=0.0,
                refusals=0.0,
                sessions=0.0,
            )
        )
        return True

    def latest(self) -> Point | None:
        """The last sample; None where there is none yet, or it is old."""
        if not self._points or self._clock.monotonic() - self._at > 3 * EVERY:
            return None
        return self._points[-1]

    def series(self) -> Series:
        """The last minutes."""
        return Series(EVERY, tuple(self._points))


class Live:
    """All who listen."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._sinks: dict[Sink, tuple[str, float]] = {}
        """By whom, and until when."""
        self._of_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sinks)

    def stream(self, request: Request, first: Callable[[], bytes]) -> Stream:
        """One more; `first` makes what it is told at once. Raises Refused."""
        source = source_of(Endpoint(request.source, 0)) if request.source else ""
        if len(self._sinks) >= STREAMS or self._of_source[source] >= STREAMS_OF_SOURCE:
            raise Refused(503, "Too many pages are kept up to date already; this one is when it is loaded again.")

        def begin(sink: Sink) -> Callable[[], None]:
            self._sinks[sink] = source, self._now() + LIFETIME
            self._of_source[source] += 1
            sink(RETRY + first())

            def gone() -> None:
                self._sinks.pop(sink, None)
                self._of_source[source] -= 1
                if not self._of_source[source]:
                    del self._of_source[source]

            return gone

        return Stream(begin)

    def tell(self, octets: bytes) -> None:
        """Send it to all who read, and hang up on the others."""
        now = self._now()
        for sink, (_, until) in list(self._sinks.items()):
            if sink.stalled:
                sink.abort()
            elif now >= until:
                sink.end()
            else:
                sink(octets)

    def close(self) -> None:
        """End all of them."""
        for sink in list(self._sinks):
            sink.end()


def event(parts: Mapping[str, str]) -> bytes:
    """Events of these names, each with a text of any lines."""
    written = [
        f"event: {name}\n" + "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
        for name, text in parts.items()
    ]
    return "".join(written).encode("utf-8", "replace")
