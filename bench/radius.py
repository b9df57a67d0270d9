# SPDX-License-Identifier: GPL-2.0-or-later
"""Log-ins through a FreeRADIUS of this machine, and what an outage of accounting costs and takes to make good.

The server runs our own policy (`etc/freeradius`) and shares the processors with the daemon and its clients, so the
rates are those of the three together. The baseline is the same log-ins judged by local accounts, in the same run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.clients import Crowd
from bench.logins import AT_ONCE, MEBIBYTE, Say, Storm
from bench.servers import PASSWORD, Daemon, Here
from bench.table import Row
from tests.support.freeradius import SECRET, FreeRadius, free_ports

BAR = 1200
"""Log-ins a second through RADIUS."""
OWNERS = 3400
"""Each logs in twice: a Start, and a Stop with the next Start, make somewhat more than 10,000 records."""
PATIENCE = 90.0
"""Seconds within which an outage that is over must have been noticed and made good."""

CONFIG = """
[auth]
chain = ["{chain}"]
[web]
listen = ""
[radius]
accounting = {accounting}
[radius.server.bench]
address = "127.0.0.1"
auth_port = {auth_port}
acct_port = {acct_port}
secret = "{secret}"
"""


def available() -> bool:
    """Whether there is a FreeRADIUS to measure with."""
    return shutil.which("freeradius") is not None


def radius(directory: Path, runs: int, each: int, say: Say) -> list[Row]:
    """All figures of this part."""
    return [*_log_ins(directory / "logins", runs, each, say), *_outage(directory / "outage", say)]


def _log_ins(directory: Path, runs: int, each: int, say: Say) -> list[Row]:
    users = [f"user{number:06}" for number in range(runs * each)]
    known = "".join(f'{user} Cleartext-Password := "{PASSWORD}"\n' for user in users)
    asked, local = Storm(), Storm()
    with ExitStack() as stack:
        server = FreeRadius(directory / "freeradius", known)
        server.start()
        stack.callback(server.stop)
        crowds = []
        for storm, chain in ((asked, "radius"), (local, "local")):
            place = directory / chain
            place.mkdir()
            daemon = stack.enter_context(_daemon(place, server, chain, accounting=False, users=users))
            crowds.append((storm, daemon, stack.enter_context(Crowd(Here(), daemon.address, users))))
        for run in range(runs):
            say(f"log-ins through RADIUS, run {run + 1} of {runs}")
            for storm, daemon, crowd in crowds:
                storm.run(daemon, crowd, range(run * each, (run + 1) * each))
    return [
        Row("log-ins a second through RADIUS, beside local", "", asked.rates, local.rates, bar=BAR),
        Row("processor time of a log-in through RADIUS", "us", asked.total, local.total, bar=1e6 / BAR, at_most=True),
    ]


def _outage(directory: Path, say: Say) -> list[Row]:
    users = [f"user{number:06}" for number in range(OWNERS)]
    records = 3 * OWNERS
    directory.mkdir()
    server = FreeRadius(directory / "freeradius", "")
    with ExitStack() as stack:
        daemon = stack.enter_context(_daemon(directory, server, "local", accounting=True, users=users))
        crowd = stack.enter_context(Crowd(Here(), daemon.address, users))
        say("log-ins while nobody acknowledges accounting")
        crowd.log_in(range(OWNERS), AT_ONCE)
        before = daemon.resident()
        crowd.log_in(range(OWNERS), AT_ONCE)
        time.sleep(10)
        waited = (daemon.resident() - before) / MEBIBYTE
        lines = sum("accounting" in line for line in (directory / "log").read_text(errors="replace").splitlines())
        say(f"the server is back, {records} records wait")
        server.start()
        stack.callback(server.stop)
        _until(lambda: _written(server) > 0)
        began, had = time.monotonic(), _written(server)
        _until(lambda: _written(server) >= records)
        rate = (_written(server) - had) / (time.monotonic() - began)
    return [
        Row("accounting records a second after an outage, 10,200 waiting", "", [rate]),
        Row("  log lines about it while they waited", "", [lines]),
        Row("  memory that the second half of them took, with its log-ins", "MiB", [waited]),
    ]


def _daemon(directory: Path, server: FreeRadius, chain: str, *, accounting: bool, users: list[str]) -> Daemon:
    text = CONFIG.format(
        chain=chain,
        accounting="true" if accounting else "false",
        auth_port=server.auth_port,
        acct_port=server.acct_port,
        secret=SECRET,
    )
    address = ("127.0.0.1", free_ports(1)[0])
    return Daemon(Here(), directory, "memory", address, users=users, more=text)


def _written(server: FreeRadius) -> int:
    """Records of sessions that the server has written down."""
    detail = server.detail
    return detail.count("Acct-Status-Type = Start") + detail.count("Acct-Status-Type = Stop")


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError("accounting records did not arrive")
        time.sleep(0.1)
