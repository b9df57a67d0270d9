# SPDX-License-Identifier: GPL-2.0-or-later
"""Everybody at once: as many clients as the broker is built for come back when it does.

They log in, the daemon is killed, a new one resumes their sessions, and all of them, still at the endpoints they had,
start over in the same moment and go on as gogoCLIENT does until they are back.
"""

from __future__ import annotations

import signal
from pathlib import Path

from bench.clients import PATIENCE, Crowd
from bench.logins import MEBIBYTE, Say
from bench.servers import Daemon, Place
from bench.table import Row

BAR = 25.0
"""Seconds in which everybody must be back."""
FIRST_AT_ONCE = 1000
"""Log-ins under way at any time before the storm."""


def reconnect(place: Place, directory: Path, plane: str, clients: int, say: Say) -> list[Row]:
    """Log `clients` in, kill the daemon, start it again, and let all come back."""
    users = [f"user{number:06}" for number in range(clients)]
    address = ("127.0.0.1", 3653)
    say(f"{clients:,} clients log in, {FIRST_AT_ONCE:,} at a time (data plane {plane})")
    with Daemon(place, directory, plane, address, users=users) as daemon, Crowd(place, address, users) as crowd:
        idle = daemon.resident()
        first = crowd.log_in(range(clients), FIRST_AT_ONCE)
        weight = (daemon.resident() - idle) / clients
        say("the daemon is killed and started again")
        daemon.stop(signal.SIGKILL)
        stored = daemon.database.stat().st_size / clients
        with Daemon(place, directory, plane, address) as successor:
            resumed = successor.resident()
            say(f"{clients:,} clients come back at once")
            before = sum(successor.cpu())
            back = crowd.log_in(range(clients), clients)
            cost = (sum(successor.cpu()) - before) / clients
            resident = successor.resident()
    for outcome in (first, back):
        if outcome.refusals:
            say(f"what clients were told on the way: {outcome.refusals}")
    if first.lost:
        raise RuntimeError(f"{len(first.lost)} of {clients} first log-ins failed")
    in_time = sum(end <= BAR for end in back.ends)
    return [
        Row(f"start to listening with {clients:,} sessions", "s", [successor.listening_after]),
        Row("  resident memory then", "MiB", [resumed / MEBIBYTE]),
        Row(f"{clients:,} clients come back at once", "s", [back.seconds], bar=BAR, at_most=True),
        Row(f"  of them back within {BAR:.0f} s", "", [in_time], bar=clients),
        Row(f"  of them not back after {PATIENCE:.0f} s", "", [clients - back.completed], bar=0, at_most=True),
        Row("  requests they repeated", "", [back.copies]),
        Row("  processor time of a log-in, with what was repeated", "us", [cost * 1e6]),
        Row("  resident memory then", "MiB", [resident / MEBIBYTE], bar=200, at_most=True),
        Row("memory of a live session and its negotiation", "octets", [weight]),
        Row("database of a session with address and prefix", "octets", [stored]),
    ]
