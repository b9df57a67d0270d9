# SPDX-License-Identifier: GPL-2.0-or-later
"""A broker in a network of its own, the real client beside it, and a browser on the broker's machine.

One of each for all tests of this directory: starting them takes longer than most of the tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.capabilities import missing_browser, unavailable
from support.netns import Lab, Namespace, internet
from support.scenario import PASSWORD, STATUS_PORT, TABLES, Broker, Connection, World

ORIGIN = f"http://127.0.0.1:{STATUS_PORT}"
"""A page from loopback counts as secure, so scripts may use the clipboard."""
ROOT = "root"
NASTY = "<script>window.gotIn=1</script><img src=x onerror='window.gotIn=2'>\"{{7*7}}"
"""What strangers would like to see in a page; also what the RADIUS server here refuses everybody with."""
SECRET = b"shared with the tests"
RADIUS_PORT = 18120

Connect = Callable[..., Connection]


@contextlib.contextmanager
def refusing(space: Namespace) -> Iterator[None]:
    """A RADIUS server (RFC 2865) that answers every log-in with an Access-Reject that has `NASTY` as Reply-Message."""
    handle = space.socket(socket.AF_INET, socket.SOCK_DGRAM)
    handle.bind(("127.0.0.1", RADIUS_PORT))

    def answer() -> None:
        while (request := handle.recvfrom(4096))[0]:
            message = bytes([18, 2 + len(NASTY)]) + NASTY.encode()
            head = bytes([3, request[0][1]]) + (20 + len(message)).to_bytes(2, "big")
            proof = hashlib.md5(head + request[0][4:20] + message + SECRET).digest()
            handle.sendto(head + proof + message, request[1])

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        handle.sendto(b"", handle.getsockname())
        thread.join()
        handle.close()


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The administrator `ROOT` and the accounts alice, bob, erin and idle, all with the password `PASSWORD`.

    The browser is where a trusted proxy would be.
    """
    if (why := missing_browser()) is not None:
        unavailable("browser", why)
    with Lab() as lab:
        net = internet(lab)
        tables = {
            "web": {**TABLES["web"], "trusted_proxies": ["127.0.0.1"]},
            "auth": {"chain": ["local", "radius", "anonymous"]},
            "radius.server.isp": {
                **{"address": "127.0.0.1", "auth_port": RADIUS_PORT, "acct_port": 0, "secret": SECRET.decode()},
                "message_authenticator": "no",
            },
        }
        broker = Broker(net.broker, tmp_path_factory.mktemp("broker"), **tables)
        broker.add_accounts(("alice", "bob", "erin", "idle"), PASSWORD)
        broker.start()
        broker.tool("admin", "add", ROOT, "--password-stdin", stdin=f"{PASSWORD}\n")
        with refusing(net.broker):
            yield World(net, broker)
        broker.stop()
        broker.check_log()


@pytest.fixture(scope="package")
def one_browser(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:  # noqa: F821
    from support.chromium import Chromium

    # Chromedriver speaks HTTP to us, so this thread lives where the browser does.
    with world.net.broker.inside(), Chromium(tmp_path_factory.mktemp("chromium"), ORIGIN) as chromium:
        yield chromium


@pytest.fixture
def browser(one_browser: Chromium, world: World) -> Iterator[Chromium]:  # noqa: F821
    """Nobody is logged in at first; a test that left a line on the console, or on the broker's log of bugs, fails."""
    one_browser.driver.get("about:blank")
    one_browser.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    one_browser.console(), one_browser.requests()
    yield one_browser
    world.broker.check_log()


@pytest.fixture
def connect(world: World, tmp_path: Path) -> Iterator[Connect]:
    """Starts clients behind the NAT, which are ended with the test."""
    started: list[Connection] = []

    def start(user: str, password: str = PASSWORD, *options: str) -> Connection:
        connection = Connection(world.net.client, tmp_path, user, password, *options)
        started.append(connection)
        connection.start()
        return connection

    yield start
    for each in started:
        with contextlib.suppress(AssertionError):
            each.stop()
