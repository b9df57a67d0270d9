# SPDX-License-Identifier: GPL-2.0-or-later
"""What the service manager hears, on sockets of both kinds, and that nothing it does can hurt."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ddtb6 import notify

EVERYTHING = [(notify.ready, b"READY=1"), (notify.stopping, b"STOPPING=1"), (notify.alive, b"WATCHDOG=1")]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@ddtb6-{os.getpid()}-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as handle:
        handle.bind(name.replace("@", "\0"))
        handle.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield handle


@pytest.mark.parametrize(("say", "heard"), EVERYTHING)
def test_is_heard(manager: socket.socket, say: Callable[[], None], heard: bytes) -> None:
    say()
    assert manager.recv(100) == heard


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative/path", "/nonexistent/notify", "/" + "x" * 200])
def test_nobody_who_listens_is_no_error(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    before = set(os.listdir("/proc/self/fd"))
    for say, _ in EVERYTHING:
        say()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_manager_that_hangs_does_not_hold_up_the_reactor(manager: socket.socket) -> None:
    began = time.monotonic()
    for _ in range(2000):  # more than any queue of datagrams has room for
        notify.alive()
    assert time.monotonic() - began < 1.5 < notify.PATIENCE
    assert manager.recv(100) == b"WATCHDOG=1"
