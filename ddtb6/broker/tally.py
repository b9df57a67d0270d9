# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of what has happened since start, for the status page and metrics.

Invariant: labels come from closed lists (mechanisms, status codes, reasons), never from what a client said.
"""

from __future__ import annotations

from collections import Counter

from ddtb6.broker.events import Event, LoggedIn, LoginRefused, NewcomerRefused, RequestRefused, SessionEnded
from ddtb6.tsp.status import BY_CODE, ServerBusy


class Tally:
    """Listens to the bus."""

    def __init__(self) -> None:
        self.logins: Counter[str] = Counter()
        """By mechanism."""
        self.refusals: Counter[str] = Counter()
        """By status code and its standard text, such as ``301 No more tunnels available``."""
        self.ended: Counter[str] = Counter()
        """Sessions by the reason of their end."""

    def count(self, event: Event) -> None:
        match event:
            case LoggedIn():
                self.logins[event.mechanism] += 1
            case LoginRefused():
                self.refusals[_label(event.code)] += 1
            case NewcomerRefused():
                self.refusals[_label(ServerBusy.code)] += 1
            case RequestRefused():
                self.refusals[_label(int(event.status[:3]))] += 1
            case SessionEnded():
                self.ended[event.ending.reason.value] += 1
            case _:
                pass


def _label(code: int) -> str:
    return f"{code} {BY_CODE[code].text}"
