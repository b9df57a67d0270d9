# SPDX-License-Identifier: GPL-2.0-or-later
"""What our sites have in common: bounded requests and connections, headers that forbid what a page does not need, no
tracebacks.

Invariants: a request holds at most `BODY_LIMIT` octets of body in memory and none on disk, whatever was sent; there are
`CONNECTIONS` at most, and `CONNECTIONS_OF_SOURCE` from one source; nothing that strangers do on a connection is logged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import resource, server
from twisted.web.http import HTTPChannel, Request

BODY_LIMIT = 65536
"""Octets of a request body; what is beyond is counted and thrown away."""
IDLE_TIMEOUT = 30
"""Seconds of silence after which a connection is closed."""
CONNECTIONS = 1000
CONNECTIONS_OF_SOURCE = 100
"""Open at once; one more is hung up on."""

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


class _Channel(HTTPChannel):
    """A connection that counts as long as it is open."""

    _log = Logger(observer=lambda event: None)  # type: ignore[arg-type]
    """Twisted's own lines: one for each client that is silent for too long."""
    _counted: str | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        # Not None in place of a protocol: around TLS Twisted has no use for that.
        transport: Any = self.transport
        self._counted = self.factory.begin(getattr(transport.getPeer(), "host", ""))
        if self._counted is None:
            transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        if self._counted is not None:
            self.factory.end(self._counted)


class _QuietSite(server.Site):
    """Pages that are polled would fill the log."""

    noisy = False
    protocol = _Channel  # type: ignore[assignment]

    def __init__(self, root: resource.Resource, reactor: Any, source: Callable[[str], str]) -> None:
        super().__init__(root, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT, reactor=reactor)
        self._source = source
        self._open: Counter[str] = Counter()

    def acceptableProtocols(self) -> Sequence[bytes]:
        """No HTTP/2, whose streams have none of our limits, wherever Twisted could speak it."""
        return [b"http/1.1"]

    def begin(self, host: str) -> str | None:
        """Count a connection from `host`; what `end` takes, None where it is one too many."""
        source = self._source(host)
        if self._open.total() >= CONNECTIONS or (source and self._open[source] >= CONNECTIONS_OF_SOURCE):
            return None
        self._open[source] += 1
        return source

    def end(self, source: str) -> None:
        self._open[source] -= 1
        if not self._open[source]:
            del self._open[source]

    def log(self, request: Request) -> None:
        """Nothing."""


def make_site(root: resource.Resource, reactor: Any, source: Callable[[str], str] = lambda host: "") -> server.Site:
    """A site of `root`. `reactor` keeps its time-outs; `source` tells whose a connection from an address is, empty:
    of nobody who is limited alone.
    """
    site = _QuietSite(root, reactor, source)
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
