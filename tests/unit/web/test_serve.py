# SPDX-License-Identifier: GPL-2.0-or-later
"""Served for real: answers that take time or have no end, visitors who leave, crowds, TLS by an endpoint string."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from support.coroutines import awaited
from support.web import Browser
from support.website import PASSWORD, WebCase
from twisted.internet import reactor
from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial import unittest

from ddtb6.web.exchange import Answer, Request, Stream, text
from ddtb6.web.http import CONNECTIONS, CONNECTIONS_OF_SOURCE, IDLE_TIMEOUT
from ddtb6.web.routes import Desk, Route
from ddtb6.web.serve import make_pages_site
from ddtb6.web.visitors import Role, Visitor


class Slow(WebCase):
    """A handler that waits."""

    def setUp(self) -> None:
        super().setUp()
        self.waiting: list[Deferred[Answer]] = []
        self.written: list[Callable[[bytes], None]] = []
        self.stopped = 0
        rows = [
            Route("GET", "/slow", Role.NOBODY, self.slow),
            Route("GET", "/stream", Role.NOBODY, lambda request, visitor: Stream(self.begin)),
            Route("GET", "/broken", Role.NOBODY, self.broken),
        ]
        self.browser_here = Browser(make_pages_site(Desk(rows, self.web._visitors), (), self.world.clock))

    def slow(self, request: Request, visitor: Visitor) -> Deferred[Answer]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def begin(self, write: Callable[[bytes], None]) -> Callable[[], None]:
        self.written.append(write)

        def stop() -> None:
            self.stopped += 1

        return stop

    def broken(self, request: Request, visitor: Visitor) -> Answer:
        raise RuntimeError("secret of the broker")

    def test_an_answer_may_take_time(self) -> None:
        fetch = self.browser_here.ask("GET", "/slow")
        assert fetch.got is None
        self.waiting[0].callback(text("done"))
        assert fetch.got is not None
        assert fetch.got.body == b"done\n"

    def test_who_left_is_not_answered(self) -> None:
        fetch = self.browser_here.ask("GET", "/slow")
        fetch.hang_up()
        self.waiting[0].callback(text("done"))
        assert fetch.got is None
        assert self.flushLoggedErrors() == []

    def test_a_stream_goes_on_until_its_reader_leaves(self) -> None:
        fetch = self.browser_here.ask("GET", "/stream")
        self.written[0](b"data: 1\n\n")
        assert fetch.got is not None
        assert b"data: 1\n\n" in fetch.got.body
        assert fetch.got.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert fetch.got.headers["cache-control"] == "no-store"
        assert self.stopped == 0
        fetch.hang_up()
        assert self.stopped == 1
        self.written[0](b"data: 2\n\n")
        assert self.flushLoggedErrors() == []

    def test_the_head_of_a_stream_ends(self) -> None:
        fetch = self.browser_here.ask("HEAD", "/stream")
        assert fetch.got is not None
        assert (fetch.got.body, self.written) == (b"", [])

    def test_a_bug_is_logged_and_not_told(self) -> None:
        got = self.browser_here.get("/broken")
        assert (got.status, "secret" in got.text) == (500, False)
        assert len(self.flushLoggedErrors(RuntimeError)) == 1


class Crowds(WebCase):
    """Connections of many, of whom most say nothing."""

    trusted_proxies = ("192.0.2.1",)

    def connect(self, host: str) -> Any:
        """One that begins a request and never ends it; its transport says whether it was hung up on."""
        transport = StringTransport(peerAddress=IPv6Address("TCP", host, 40000))
        channel: Any = self.site.buildProtocol(transport.getPeer())
        channel.makeConnection(transport)
        channel.dataReceived(b"GET / HTTP/1.1\r\n")
        self.channels.append(channel)
        return transport

    def setUp(self) -> None:
        super().setUp()
        self.channels: list[Any] = []

    def end(self) -> None:
        while self.channels:
            self.channels.pop().connectionLost(Failure(ConnectionDone()))

    def test_one_source_has_its_share(self) -> None:
        for each in range(CONNECTIONS_OF_SOURCE):
            assert not self.connect(f"2001:db8::{each:x}").disconnecting
        assert self.connect("2001:db8::ffff").disconnecting, "all of a /64 are one"
        assert not self.connect("2001:db8:0:1::").disconnecting
        assert not self.connect("::ffff:198.51.100.1").disconnecting
        self.end()
        assert not self.connect("2001:db8::1").disconnecting
        self.end()

    def test_a_proxy_has_those_of_many_and_all_have_an_end(self) -> None:
        for _ in range(CONNECTIONS):
            assert not self.connect("::ffff:192.0.2.1").disconnecting
        assert self.connect("::ffff:192.0.2.1").disconnecting
        assert self.connect("198.51.100.1").disconnecting
        self.end()
        assert self.browser().get("/").status == 200

    def test_who_says_nothing_is_hung_up_on_without_a_line_in_the_log(self) -> None:
        with capturedLogs() as logged:
            transport = self.connect("198.51.100.1")
            self.world.clock.advance(IDLE_TIMEOUT + 1)
            assert transport.disconnecting
            self.world.clock.advance(60)
        assert logged == []
        self.end()

    def test_nobody_speaks_http_2(self) -> None:
        assert list(self.site.acceptableProtocols()) == [b"http/1.1"]


class Tls(WebCase):
    @awaited
    async def test_by_an_endpoint_string(self) -> None:
        try:
            import OpenSSL
        except ImportError:
            raise unittest.SkipTest("pyOpenSSL is not installed: pip install ddtb6[tls]") from None
        assert OpenSSL
        key, certificate = self.world.directory / "key.pem", self.world.directory / "certificate.pem"
        _self_signed(key, certificate)
        listen = f"ssl:port=0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        config = self.web._daemon.config
        server = replace(config.server, control=self.world.directory / "control")
        config = replace(config, web=replace(config.web, listen=listen), server=server)
        web = type(self.web)(replace(self.web._daemon, config=config, reactor=reactor))
        await web.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(web.stop()))
        port = web._ports[0].getHost().port
        headers, cookie = await deferToThread(_log_in, port, certificate)
        assert cookie.startswith("__Host-ddtb6=")
        assert cookie.endswith("; Secure")
        assert "others can read the password" not in headers


def _log_in(port: int, certificate: Any) -> tuple[str, str]:
    """The log-in page, and the cookie that a log-in sets."""
    context = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
    connection.request("GET", "/login")
    answer = connection.getresponse()
    page, cookie = answer.read().decode(), str(answer.headers["Set-Cookie"]).partition(";")[0]
    csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
    connection.request(
        "POST",
        "/login",
        f"csrf={csrf}&role=owner&name=alice&password={PASSWORD}",
        {
            "Content-Type": "application/x-www-form-urlencoded",
            "Cookie": cookie,
            "Origin": f"https://localhost:{port}",
            "Sec-Fetch-Site": "same-origin",
        },
    )
    answer = connection.getresponse()
    assert answer.status == 303, answer.read()
    connection.close()
    return page, str(answer.headers["Set-Cookie"])


def _self_signed(key: Any, certificate: Any) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(made.public_key())
        .serial_number(1)
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(made, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    key.write_bytes(made.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    certificate.write_bytes(signed.public_bytes(encoding))
