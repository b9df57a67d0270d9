# SPDX-License-Identifier: GPL-2.0-or-later
"""What our sites have in common: bounded requests, headers that forbid what a page does not need, no tracebacks.

Invariant: a request holds at most `BODY_LIMIT` octets of body in memory and none on disk, whatever was sent.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.web import resource, server
from twisted.web.http import Request

BODY_LIMIT = 65536
"""Octets of a request body; what is beyond is counted and thrown away."""
IDLE_TIMEOUT = 30
"""Seconds of silence after which a connection is closed."""

SECURITY_HEADERS = {
    "Server": "ddtb6",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with that, browsers say "Origin: null" of our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class BoundedRequest(server.Request):
    """A request whose body is bounded; `oversized` tells that some of it is missing."""

    received = 0

    @property
    def oversized(self) -> bool:
        return self.received > BODY_LIMIT

    @property
    def body(self) -> bytes:
        """What was kept of the body."""
        assert self.content is not None, "no request is rendered before its headers are complete"
        self.content.seek(0)
        octets: bytes = self.content.read()
        return octets

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)  # a buffer in memory; the announced length would choose a temporary file

    def handleContentChunk(self, data: bytes) -> None:
        self.received += len(data)
        if not self.oversized:
            super().handleContentChunk(data)


class _QuietSite(server.Site):
    """Pages that are polled would fill the log."""

    noisy = False

    def log(self, request: Request) -> None:
        """Nothing."""


def make_site(root: resource.Resource, reactor: Any) -> server.Site:
    """A site of `root`. `reactor` keeps its time-outs."""
    site = _QuietSite(root, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT, reactor=reactor)
    site.displayTracebacks = False
    return site


def answer(request: server.Request, body: bytes, content_type: str, status: int = 200) -> bytes:
    """Set status and headers for `body` and return it, as `render` methods do."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", content_type.encode("ascii"))
    for name, value in SECURITY_HEADERS.items():
        request.setHeader(name.encode("ascii"), value.encode("ascii"))
    return body


def answer_json(request: server.Request, value: object, status: int = 200) -> bytes:
    """The same for a JSON-able value, which is never cached."""
    request.setHeader(b"Cache-Control", b"no-store")
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
    return answer(request, body, "application/json", status)
