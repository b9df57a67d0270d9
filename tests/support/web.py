# SPDX-License-Identifier: GPL-2.0-or-later
"""A browser without a window: it speaks HTTP to a site over a transport in memory, and keeps cookies."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import server


@dataclass(frozen=True, slots=True)
class Got:
    """An answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case; of Set-Cookie the last."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def csrf(self) -> str:
        """The token of the page's forms."""
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.text)
        assert found, self.text
        return found[1]


class Fetch:
    """One request under way; `got` is None until the answer is complete."""

    def __init__(self, site: server.Site, head: bytes, body: bytes) -> None:
        self._channel: Any = site.buildProtocol(None)  # type: ignore[arg-type]
        self.transport: Any = StringTransport()
        self._channel.makeConnection(self.transport)
        self._channel.dataReceived(head + b"\r\n" + body)

    def hang_up(self) -> None:
        self._channel.connectionLost(Failure(ConnectionDone()))

    @property
    def got(self) -> Got | None:
        octets: bytes = self.transport.value()
        top, found, rest = octets.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = top.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return Got(int(first.split()[1]), headers, rest)


class Browser:
    """Fetches from one site."""

    def __init__(self, site: server.Site) -> None:
        self.site = site
        self.cookies: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        """Sent with every request."""

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, host: str = "broker"
    ) -> Fetch:
        """Send a request."""
        sent = {
            "Host": host,
            "Connection": "close",
            "Content-Length": str(len(body)),
            **self.headers,
            **(headers or {}),
        }
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        return Fetch(self.site, "".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape"), body)

    def take(self, fetch: Fetch) -> Got:
        """The answer, which must be there; its cookies are kept."""
        got = fetch.got
        assert got is not None, "no answer yet"
        fetch.hang_up()
        for line in fetch.transport.value().partition(b"\r\n\r\n")[0].decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name.lower() == "set-cookie":
                cookie, _, rest = value.partition(";")
                key, _, held = cookie.partition("=")
                if "Max-Age=0" in rest:
                    self.cookies.pop(key, None)
                else:
                    self.cookies[key] = held
        return got

    def get(self, path: str, **headers: str) -> Got:
        return self.take(self.ask("GET", path, headers=headers))

    def post(self, path: str, form: dict[str, str], **headers: str) -> Got:
        """Submit a form as it is given."""
        return self.take(self.submit(path, form, **headers))

    def submit(self, path: str, form: dict[str, str], **headers: str) -> Fetch:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, urlencode(form).encode(), {**kind, **headers})

    def log_in(self, role: str, name: str, password: str) -> Got:
        csrf = self.get("/login").csrf
        return self.post("/login", {"csrf": csrf, "role": role, "name": name, "password": password})
