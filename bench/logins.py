# SPDX-License-Identifier: GPL-2.0-or-later
"""Log-ins a second, what they cost, how long the daemon takes to listen, and what it weighs then.

A log-in is complete: VERSION to the answered accept, by DIGEST-MD5, with an address and a prefix that are on stable
storage before they are announced. The baseline is a bare exchange of the same six datagrams each way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.clients import Crowd, Outcome
from bench.servers import Cpu, Daemon, Place, Server, bare
from bench.table import Row

BAR = 3000
"""Log-ins a second that one processor must do; the same bar stands at what one costs, which other load hardly moves."""
AT_ONCE = 256
"""Log-ins under way at any time."""
MEBIBYTE = 1 << 20
Say = Callable[[str], None]


class Storm:
    """Rates and costs of one kind of log-in, run by run."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.user: list[float] = []
        """Microseconds of processor time a log-in, outside of the kernel."""
        self.system: list[float] = []
        """The same inside of it; what sending wakes up and carries over is the sender's."""

    def run(self, server: Server, crowd: Crowd, clients: range) -> Outcome:
        """These clients log in. Raises RuntimeError when not all do."""
        before = server.cpu()
        outcome = crowd.log_in(clients, AT_ONCE)
        cost = server.cpu().since(before)
        if outcome.lost:
            raise RuntimeError(f"{len(outcome.lost)} of {len(clients)} log-ins failed: {outcome.refusals}")
        self.rates.append(outcome.rate)
        self.user.append(cost.user / len(clients) * 1e6)
        self.system.append(cost.system / len(clients) * 1e6)
        return outcome

    @property
    def total(self) -> list[float]:
        return [sum(Cpu(*each)) for each in zip(self.user, self.system, strict=True)]


def start_up(place: Place, directory: Path, plane: str, runs: int, say: Say) -> list[Row]:
    """From start to listening, and resident memory before the first client."""
    say(f"start-up, {runs} times")
    address = ("127.0.0.1", 3653)
    after, resident, bare_after, bare_resident = [], [], [], []
    for run in range(runs + 1):
        with Daemon(place, directory, plane, address) as daemon:
            if run:  # The first makes the database.
                after.append(daemon.listening_after)
            time.sleep(0.2)
            resident.append(daemon.resident() / MEBIBYTE)
        with bare(place, directory, "twisted", address, [b""]) as server:
            bare_after.append(server.listening_after)
            bare_resident.append(server.resident() / MEBIBYTE)
    return [
        Row("start to listening", "s", after, bare_after, bar=1.0, at_most=True),
        Row("resident memory, idle", "MiB", resident, bare_resident, bar=64, at_most=True),
    ]


def log_ins(place: Place, directory: Path, plane: str, runs: int, each: int, say: Say) -> list[Row]:
    """`each` log-ins a run: by new owners, by the same again, and as often the bare exchanges."""
    users = [f"user{number:06}" for number in range(runs * each)]
    new, again, twisted, loop = Storm(), Storm(), Storm(), Storm()
    sharing, commit_rates = [], []
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(place, directory, plane, ("127.0.0.1", 3653), users=users))
        crowd = stack.enter_context(Crowd(place, daemon.address, users))
        crowd.log_in(range(1), 1)
        bares = []
        for storm, kind, port in ((twisted, "twisted", 3654), (loop, "loop", 3655)):
            server = stack.enter_context(bare(place, directory, kind, ("127.0.0.1", port), crowd.heard))
            bares.append((storm, server, stack.enter_context(Crowd(place, server.address, users))))
        for run in range(runs):
            say(f"log-ins, data plane {plane}, run {run + 1} of {runs}")
            clients = range(run * each, (run + 1) * each)
            before = daemon.commits()
            outcome = new.run(daemon, crowd, clients)
            commits = daemon.commits() - before
            sharing.append(outcome.completed / commits)
            commit_rates.append(commits / outcome.seconds)
            again.run(daemon, crowd, clients)
            for storm, server, bare_crowd in bares:
                storm.run(server, bare_crowd, clients)
    return [
        Row(f"log-ins a second, new tunnels ({plane})", "", new.rates, twisted.rates, bar=BAR),
        Row(f"log-ins a second, tunnels replaced ({plane})", "", again.rates, twisted.rates),
        Row(f"processor time of a log-in ({plane})", "us", new.total, twisted.total, bar=1e6 / BAR, at_most=True),
        Row("  of it outside of the kernel", "us", new.user, loop.user),
        Row("  of it in the kernel, beside recvmsg and sendmsg alone", "us", new.system, loop.system),
        Row("commits a second, beside fdatasync alone", "", commit_rates, [_syncs_per_second(directory)]),
        Row("log-ins that share a commit", "", sharing),
    ]


def _syncs_per_second(directory: Path, seconds: float = 0.5) -> float:
    """How often a file of `directory` can be written to and synced."""
    path = directory / "sync"
    done, end = 0, time.perf_counter() + seconds
    with path.open("wb", buffering=0) as file:
        while time.perf_counter() < end:
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            done += 1
    path.unlink()
    return done / seconds
