# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: the daemon as twistd runs it, and bare servers beside it, each pinned to one processor.

The measuring process and its clients have the other processor (`WORLD`), so neither takes the server's time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from ddtb6.sasl.digest import user_secret
from ddtb6.store.database import open_writer

PROCESSORS = sorted(os.sched_getaffinity(0))
WORLD, SERVER = PROCESSORS[0], PROCESSORS[-1]
"""Processors of the clients and of what is measured; the same where there is only one."""

REALM, PASSWORD = "bench", "secret"
FIRST_REQUEST = struct.pack(">II", 0xF00000F0, 0) + b"ECHO REQUEST"
TICK = os.sysconf("SC_CLK_TCK")

TWISTD = "from twisted.scripts.twistd import run; run()"
"""The program twistd, run by this very interpreter."""

CONFIG = """
[server]
state = "{state}"
control = "{state}/control"
realm = "{realm}"
[listen]
udp = ["{address}:{port}"]
tcp = ["{address}:{port}"]
[tunnel]
latency = false

[dataplane]
kind = "{plane}"
[firewall]
backend = "none"
[pool.links]
block = "2001:db8:0:1::/64"
use = "accounts"
[pool.home56]
block = "2001:db8:1000::/36"
use = "prefixes"
length = 56
"""
"""What is not said here is as `make run` and the package have it, the limits and the status page included."""


class Place(Protocol):
    """Where a server runs and its clients' sockets are: this machine, or a `Namespace` of it."""

    def command(self, *command: str | Path) -> list[str]: ...
    def socket(self, family: int, kind: int) -> socket.socket: ...


class Here:
    """This machine itself."""

    def command(self, *command: str | Path) -> list[str]:
        return list(map(str, command))

    def socket(self, family: int, kind: int) -> socket.socket:
        return socket.socket(family, kind)


class Cpu(NamedTuple):
    """Processor seconds of a process, all threads."""

    user: float
    system: float

    def since(self, before: Cpu) -> Cpu:
        return Cpu(self.user - before.user, self.system - before.system)


class Server:
    """A running server."""

    def __init__(self, place: Place, command: Sequence[str | Path], address: tuple[str, int], log: Path) -> None:
        """Start it and wait until it answers. Raises RuntimeError with its log."""
        self.place = place
        self.address = address
        with log.open("ab") as output:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                place.command(*command),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {SERVER}),
            )
        try:
            self._await_answer(log)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        self.listening_after = time.perf_counter() - began
        """Seconds from its start to its first answer."""

    def _await_answer(self, log: Path, deadline: float = 30.0) -> None:
        end = time.monotonic() + deadline
        with self.place.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.05)
            probe.connect(self.address)
            while time.monotonic() < end and self.process.poll() is None:
                try:
                    probe.send(FIRST_REQUEST)
                    probe.recv(2048)
                    return
                except OSError:
                    time.sleep(0.005)
        raise RuntimeError(f"the server did not answer:\n{log.read_text(errors='replace')}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self) -> Cpu:
        fields = self._proc("stat").rpartition(") ")[2].split()
        return Cpu(int(fields[11]) / TICK, int(fields[12]) / TICK)

    def resident(self) -> int:
        """Octets of memory in RAM."""
        return int(self._proc("statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text()


class Daemon(Server):
    """`twistd -n ddtb6` with its state in a directory that stays when it stops."""

    def __init__(
        self,
        place: Place,
        directory: Path,
        plane: str,
        address: tuple[str, int],
        *,
        users: Sequence[str] = (),
        profile: Path | None = None,
        more: str = "",
    ) -> None:
        """`users` get accounts first; `profile` is where cProfile writes when the daemon stops.

        `more` is added to the configuration.
        """
        config = directory / "ddtb6.toml"
        values = {"state": directory, "realm": REALM, "address": address[0], "port": address[1], "plane": plane}
        config.write_text(CONFIG.format(**values) + more)
        self.database = directory / "ddtb6.sqlite"
        if users:
            add_accounts(self.database, users)
        profiling: list[str | Path] = ["--profile", profile, "--profiler", "cprofile", "--savestats"] if profile else []
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", *profiling, "ddtb6", "--config", config]
        super().__init__(place, command, address, directory / "log")

    def commits(self) -> int:
        """Transactions committed so far: `iChange` in SQLite's wal-index, which counts them modulo 2**32."""
        with self.database.with_name(f"{self.database.name}-shm").open("rb") as index:
            return int(struct.unpack("=I", index.read(12)[8:])[0])


def bare(place: Place, directory: Path, kind: str, address: tuple[str, int], answers: Sequence[bytes]) -> Server:
    """One of the servers of `bench.bare`, answering what the daemon answered."""
    file = directory / "answers.json"
    file.write_text(json.dumps([each.hex() for each in answers]))
    program = Path(__file__).with_name("bare.py")
    return Server(place, [sys.executable, program, kind, *map(str, address), file], address, directory / "bare.log")


def add_accounts(database: Path, users: Sequence[str]) -> None:
    """Accounts by the thousand in one transaction; `Store.add_account` makes each durable by itself."""
    now = time.time()
    rows = [(user, user_secret(user, REALM, PASSWORD), now) for user in users]
    with contextlib.closing(open_writer(database)) as connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO account (name, digest, disabled, created) VALUES (?, ?, 0, ?)", rows)
        connection.execute("COMMIT")
