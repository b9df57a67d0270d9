# SPDX-License-Identifier: GPL-2.0-or-later
"""The public status page: what the broker is doing, without user data.

Pages are functions from a view to text; they read snapshots and have no verbs.
Not here: management (`web.control`), which never shares a listener with this.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2
from twisted.web import resource, server

from ddtb6.broker.views import Overview, PoolView, plain
from ddtb6.web import http

_pages = jinja2.Environment(
    loader=jinja2.PackageLoader("ddtb6.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def _grouped(number: int) -> str:
    """``1 234``, with narrow blanks; whole powers of two beyond counting as ``2^64``."""
    if number >= 10**9:
        return f"2^{number.bit_length() - 1 if number.bit_count() == 1 else number.bit_length()}"
    return f"{number:,}".replace(",", "\u202f")


def _fullness(pool: PoolView) -> str:
    """The part of a pool that nobody can get now, 0 to 1."""
    return f"{min(1.0, (pool.held + pool.resting) / max(1, pool.capacity)):.3f}"


_pages.filters["grouped"] = _grouped
_pages.filters["fullness"] = _fullness


def make_site(overview: Callable[[], Overview], reactor: Any) -> server.Site:
    """The status site; `overview` is called for each page."""
    root: Any = _NotFound()
    root.putChild(b"", _Leaf(lambda request: _page(request, overview())))
    root.putChild(b"status.json", _Leaf(lambda request: http.answer_json(request, plain(overview()))))
    root.putChild(b"healthz", _Leaf(lambda request: _health(request, overview())))
    style = resources.files("ddtb6.web").joinpath("templates", "style.css").read_bytes()
    root.putChild(b"style.css", _Leaf(lambda request: _style(request, style)))
    return http.make_site(root, reactor)


def render(overview: Overview) -> str:
    """The status page."""
    return _pages.get_template("status.html").render(
        view=overview,
        since=datetime.datetime.fromtimestamp(overview.started, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        counts=[
            ("Log-ins", "by mechanism", overview.activity.logins),
            ("Refused", "by status code", overview.activity.refusals),
            ("Sessions ended", "by reason", overview.activity.ended),
            ("Stray packets", "that belong to no tunnel, by reason", overview.activity.strays),
        ],
    )


def _page(request: server.Request, overview: Overview) -> bytes:
    request.setHeader(b"Cache-Control", b"no-store")
    return http.answer(request, render(overview).encode(), "text/html; charset=utf-8")


def _style(request: server.Request, style: bytes) -> bytes:
    request.setHeader(b"Cache-Control", b"max-age=3600")
    return http.answer(request, style, "text/css; charset=utf-8")


def _health(request: server.Request, overview: Overview) -> bytes:
    """200 as long as the broker listens; for load balancers and watchdogs."""
    request.setHeader(b"Cache-Control", b"no-store")
    if overview.listening:
        return http.answer(request, b"ok\n", "text/plain; charset=utf-8")
    return http.answer(request, b"not listening\n", "text/plain; charset=utf-8", 503)


class _Leaf(resource.Resource):
    isLeaf = False

    def __init__(self, respond: Callable[[server.Request], bytes]) -> None:
        super().__init__()
        self._respond = respond

    def getChild(self, path: bytes, request: server.Request) -> resource.Resource:
        return _NotFound()

    def render(self, request: server.Request) -> bytes:
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"Allow", b"GET, HEAD")
            return http.answer(request, b"This page can only be read.\n", "text/plain; charset=utf-8", 405)
        return self._respond(request)


class _NotFound(resource.Resource):
    def getChild(self, path: bytes, request: server.Request) -> resource.Resource:
        return _NotFound()

    def render(self, request: server.Request) -> bytes:
        text = _pages.get_template("missing.html").render()
        return http.answer(request, text.encode(), "text/html; charset=utf-8", 404)
