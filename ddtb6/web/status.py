# SPDX-License-Identifier: GPL-2.0-or-later
"""The public status page: what the broker is doing and did, without user data; and the events that keep it alive.

The page has parts for this moment and one for what changes by the minute. Each is a template of its own, which is sent
again when it changes: the page is the same with and without a script.
Not here: management (`manage`), health and metrics (`metrics`), who listens (`live`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ddtb6.broker.history import DAY, HOUR, WEEK, Point
from ddtb6.broker.ports import Clock
from ddtb6.broker.views import Overview, plain
from ddtb6.web import plot
from ddtb6.web.exchange import Answer, Request, Stream, json_answer
from ddtb6.web.live import REMEMBERED, Live, Pulse, event
from ddtb6.web.metrics import health, readiness
from ddtb6.web.pages import fragment, page
from ddtb6.web.routes import Route
from ddtb6.web.tunnels import Past
from ddtb6.web.visitors import Role, Visitor

NOW, PULSE, PAST = "status_now.html", "status_pulse.html", "status_past.html"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and what it is of."""

    value: str
    words: str


class Status:
    """The page and its stream."""

    def __init__(self, overview: Callable[[], Overview], past: Past, pulse: Pulse, live: Live, clock: Clock) -> None:
        """`overview` is called for each answer."""
        self._overview = overview
        self._past = past
        self._pulse = pulse
        self._live = live
        self._clock = clock
        self._told: Point | None = None
        """The newest minute that listeners know of."""
        self._drawn: dict[str, Sequence[plot.Plot]] = {}
        self._drawn_of: object = None

    def routes(self) -> list[Route]:
        """The rows."""
        overview = self._overview
        return [
            Route("GET", "/", Role.NOBODY, self.show, menu="Status"),
            Route("GET", "/events", Role.NOBODY, self.listen),
            Route("GET", "/status.json", Role.NOBODY, lambda request, visitor: json_answer(plain(overview()))),
            Route("GET", "/healthz", Role.NOBODY, lambda request, visitor: health(overview())),
            Route("GET", "/readyz", Role.NOBODY, lambda request, visitor: readiness(overview())),
        ]

    def show(self, request: Request, visitor: Visitor) -> Answer:
        """The page."""
        return page(request, visitor, "status.html", **{**self._of_now(), **self._of_past()})

    def listen(self, request: Request, visitor: Visitor) -> Stream:
        """What changes on it, as events that are named as the element is whose content they have."""
        return self._live.stream(request, lambda: event(self._parts()))

    def tick(self) -> None:
        """Once a second."""
        if not self._pulse.tick() or not len(self._live):
            return
        parts = self._parts()
        latest = self._past.latest()
        if latest != self._told:
            self._told = latest
            parts["past"] = fragment(PAST, **self._of_past())
        self._live.tell(event(parts))

    def _parts(self) -> dict[str, str]:
        return {"now": fragment(NOW, **self._of_now()), "pulse": fragment(PULSE, **self._of_pulse())}

    # --- what they say --------------------------------------------------------------------------------------------

    def _of_now(self) -> dict[str, Any]:
        view, now = self._overview(), self._clock.epoch()
        latest = self._pulse.latest() or self._past.latest()
        rates = ("", "") if latest is None else (latest.octets_in, latest.octets_out)
        shown = [plot.said(each, plot.BITS) if isinstance(each, float) else "unknown" for each in rates]
        return {
            "view": view,
            "ready": readiness(view),
            "up_for": now - view.started,
            "figures": (
                Figure(f"{view.activity.sessions:,}".replace(",", "\u202f"), _several(view.activity.sessions)),
                Figure(shown[0], "from clients"),
                Figure(shown[1], "to clients"),
                Figure(f"{view.negotiations:,}".replace(",", "\u202f"), "logging in"),
            ),
        }

    def _of_pulse(self) -> dict[str, Any]:
        return {
            "pulse": plot.traffic("traffic-now", "Now", self._pulse.series(), self._clock.epoch(), REMEMBERED),
        }

    def _plots_of_past(self) -> dict[str, Sequence[plot.Plot]]:
        """Drawn once for each minute, however many ask."""
        now = self._clock.epoch()
        wanted = self._past.latest(), now // 60
        if self._drawn_of != wanted:
            past, self._drawn_of = self._past.history(), wanted
            self._drawn = {
                "plots": (
                    plot.traffic("traffic-hour", "Last hour", past.hour, now, HOUR),
                    plot.traffic("traffic-day", "Last day", past.day, now, DAY),
                    plot.traffic("traffic-week", "Last week", past.week, now, WEEK),
                ),
                "clients": (
                    plot.sessions("sessions-day", "Tunnels, last day", past.day, now, DAY),
                    plot.sessions("sessions-week", "Tunnels, last week", past.week, now, WEEK),
                    plot.logins("logins-day", "Log-ins an hour, last day", past.day, now, DAY),
                    plot.logins("logins-week", "Log-ins an hour, last week", past.week, now, WEEK),
                ),
            }
        return self._drawn

    def _of_past(self) -> dict[str, Any]:
        view = self._overview()
        activity = view.activity
        return {
            "view": view,
            **self._of_pulse(),
            **self._plots_of_past(),
            "counts": [
                ("Log-ins", "by mechanism", activity.logins),
                ("Refused", "by status code", activity.refusals),
                ("Sessions ended", "by reason", activity.ended),
                ("Stray packets", "that belong to no tunnel, by reason", activity.strays),
            ],
        }


def _several(sessions: int) -> str:
    return "tunnel" if sessions == 1 else "tunnels"
