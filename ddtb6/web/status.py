# SPDX-License-Identifier: GPL-2.0-or-later
"""The public status page: what the broker is doing, without user data.

Pages are functions from a view to an answer; they read snapshots and have no verbs.
Not here: management (`web.control`).
"""

from __future__ import annotations

from collections.abc import Callable

from ddtb6.broker.views import Overview, plain
from ddtb6.web.exchange import Answer, Request, json_answer
from ddtb6.web.metrics import health, readiness
from ddtb6.web.pages import page
from ddtb6.web.routes import Route
from ddtb6.web.visitors import Role, Visitor


def routes(overview: Callable[[], Overview]) -> list[Route]:
    """The rows of the status page; `overview` is called for each answer."""
    return [
        Route("GET", "/", Role.NOBODY, lambda request, visitor: show(request, visitor, overview()), menu="Status"),
        Route("GET", "/status.json", Role.NOBODY, lambda request, visitor: json_answer(plain(overview()))),
        Route("GET", "/healthz", Role.NOBODY, lambda request, visitor: health(overview())),
        Route("GET", "/readyz", Role.NOBODY, lambda request, visitor: readiness(overview())),
    ]


def show(request: Request, visitor: Visitor, overview: Overview) -> Answer:
    """The status page."""
    return page(
        request,
        visitor,
        "status.html",
        view=overview,
        counts=[
            ("Log-ins", "by mechanism", overview.activity.logins),
            ("Refused", "by status code", overview.activity.refusals),
            ("Sessions ended", "by reason", overview.activity.ended),
            ("Stray packets", "that belong to no tunnel, by reason", overview.activity.strays),
        ],
    )
