# SPDX-License-Identifier: GPL-2.0-or-later
"""The real programs in the network of `netns.Internet`: the broker as `twistd` runs it, the tool, and `ddtb6 connect`.

    with Lab() as lab:
        net = internet(lab)
        broker = Broker(net.broker, directory)
        broker.start()
        broker.add_user("alice", "secret")
        tunnel = Connection(net.client, broker, "alice", "secret", directory)
        tunnel.wait_up()

Used by the end-to-end tests and by the demonstration, so nothing here knows pytest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from support.activation import handing_over
from support.netns import BROKER_OUTER, HOST, Internet, Namespace, wait_until
from support.traffic import echo_request, is_echo_reply
from support.tsp_client import Client, Offer, Silence, Tcp, Udp
from twisted.internet import defer

from ddtb6.broker.ports import Account
from ddtb6.clock import SystemClock
from ddtb6.config import load
from ddtb6.store.store import open_store
from ddtb6.web.control_client import ControlClient

PROGRAMS = Path(sys.executable).parent
PORT = 3653
SERVER = (BROKER_OUTER, PORT)
STATUS_PORT = 8653
PASSWORD = "s3cret"

TABLES: Mapping[str, Mapping[str, Any]] = {
    "server": {},
    "listen": {"udp": [f"0.0.0.0:{PORT}"], "tcp": [f"0.0.0.0:{PORT}"]},
    "auth": {"chain": ["local", "anonymous"]},
    "tunnel": {"keepalive": 2, "latency": False},
    "limits": {"per_source_rate": 10000.0, "per_source_burst": 10000, "per_source_tunnels": 10000},
    "dataplane": {"kind": "tun"},
    "firewall": {"backend": "nft", "signalling_rate": 0},
    "web": {"listen": f"tcp:port={STATUS_PORT}:interface=127.0.0.1"},
    "pool.links": {"block": "2001:db8:0:1::/64", "use": "accounts"},
    "pool.guests": {"block": "2001:db8:0:2::/64", "use": "anonymous"},
    "pool.home56": {"block": "2001:db8:1000::/36", "use": "prefixes", "length": 56},
    "pool.home64": {"block": "2001:db8:3000::/36", "use": "prefixes", "length": 64},
}
"""A configuration whose limits do not get in the way of many clients behind one NAT, and whose broker sends clients
nothing of its own accord."""

LINKS = IPv6Network("2001:db8:0:1::/64")
GUESTS = IPv6Network("2001:db8:0:2::/64")
BROKER_ADDRESS = "2001:db8:0:1::1"
"""The broker's own end of every account's tunnel."""


def write_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values; a JSON string, number, boolean or list of these is one of TOML."""
    lines = []
    for name, values in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


class Broker:
    """The daemon in a namespace, with its state and log in a directory."""

    def __init__(self, space: Namespace, directory: Path, **overrides: Mapping[str, Any] | None) -> None:
        """`overrides` replace whole tables of `TABLES`, None leaves one out; `pool_NAME` is ``[pool.NAME]``."""
        self.space = space
        self.directory = directory
        self.log_file = directory / "broker.log"
        self.config = directory / "ddtb6.toml"
        tables = dict(TABLES) | {name.replace("_", ".", 1): values for name, values in overrides.items()}
        chosen = {name: values for name, values in tables.items() if values is not None}
        chosen["server"] = {
            "state": str(directory / "state"),
            "control": str(directory / "control"),
            **chosen["server"],
        }
        (directory / "state").mkdir(mode=0o700, exist_ok=True)
        self.config.write_text(write_toml(chosen))
        self.process: subprocess.Popen[Any] | None = None
        self.sockets: list[socket.socket] = []
        """Its ports, where it shall not open them itself."""

    @property
    def database(self) -> Path:
        return load(self.config).server.database

    # --- the daemon ---------------------------------------------------------------------------------------------

    def start(self, deadline: float = 20) -> None:
        """Start it and wait until it answers an ECHO REQUEST. Raises AssertionError with its log."""
        command = [str(PROGRAMS / "twistd"), "-n", "--pidfile=", "ddtb6", "--config", str(self.config)]
        descriptors: list[int] = []
        if self.sockets:
            command, descriptors = handing_over(self.sockets, *command)
        with self.log_file.open("ab") as log:
            self.process = self.space.spawn(
                *command, pass_fds=descriptors,
                cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        wait_until(self._answers, "the broker's answer", deadline)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the broker ended:\n{self.log()}"
        wire = Udp(self.space.socket(socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", PORT), patience=(0.2,))
        try:
            return wire.echo_request().startswith(b"200")
        except (Silence, ConnectionRefusedError):
            return False
        finally:
            wire.close()

    def kill(self) -> None:
        """SIGKILL, as a power cut of the process."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, deadline: float = 20) -> None:
        """SIGTERM; fails unless it ends by that, at once and well."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(deadline)
        # Twisted ends with the signal it got, once it has stopped everything; before 22.10 with 0.
        assert status in (0, -signal.SIGTERM), f"exit status {status}:\n{self.log()}"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def check_log(self) -> None:
        """Fails when the log has what a bug leaves there."""
        text = self.log()
        for word in ("Traceback", "Unhandled", "never awaited", "Task was destroyed"):
            assert word not in text, text[max(0, text.index(word) - 2000) :][:6000]

    # --- the tool -----------------------------------------------------------------------------------------------

    def tool(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """`ddtb6 --config ... WORDS` in the broker's namespace; its standard output."""
        return self.space.run(PROGRAMS / "ddtb6", "--config", self.config, *words, input=stdin, check=check)

    def ask(self, *words: str) -> Any:
        """As `tool` with --json, read."""
        return json.loads(self.tool(*words, "--json"))

    def add_user(self, name: str, password: str) -> None:
        self.tool("user", "add", name, "--password-stdin", stdin=f"{password}\n")

    def add_accounts(self, names: Iterable[str], password: str) -> None:
        """Many at once, for DIGEST-MD5 only, into the store of the broker while it is stopped."""
        config = load(self.config)
        clock = SystemClock()
        store = open_store(config.server.database, config.pools, clock, in_thread=defer.execute)

        async def fill() -> None:
            for name in names:
                digest = hashlib.md5(f"{name}:{config.server.realm}:{password}".encode()).digest()
                await store.add_account(Account(name, digest, None, False, clock.epoch()))
            await store.close()

        done: list[None] = []
        defer.Deferred.fromCoroutine(fill()).addCallback(done.append)
        assert done == [None]

    def call(self, verb: str, **arguments: object) -> Any:
        """A verb's answer from the control socket, as `tool` would get it, without the time that a program takes."""
        return ControlClient(load(self.config).server.control).call(verb, **arguments)

    def sessions(self, user: str | None = None) -> list[dict[str, Any]]:
        """Live sessions, of one user or of all."""
        listed: list[dict[str, Any]] = self.call("session.list", **({"user": user} if user else {}))["sessions"]
        return listed

    def status(self, path: str = "/status.json") -> str:
        """A page of the status server, which gives strangers a bounded number of them a second."""
        head, body = self._fetch(path)
        while b" 429 " in head:
            time.sleep(0.5)
            head, body = self._fetch(path)
        assert b" 200 " in head, head
        return body.decode()

    def _fetch(self, path: str) -> tuple[bytes, bytes]:
        """First line and body of an answer."""
        with self.space.socket(socket.AF_INET, socket.SOCK_STREAM) as handle:
            handle.settimeout(10)
            handle.connect(("127.0.0.1", STATUS_PORT))
            handle.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            reply = b"".join(iter(lambda: handle.recv(65536), b""))
        head, _, body = reply.partition(b"\r\n\r\n")
        return head.partition(b"\r\n")[0], body

    # --- scripted clients ---------------------------------------------------------------------------------------

    def log_in(
        self,
        space: Namespace,
        user: str,
        password: str = PASSWORD,
        *,
        mechanism: str = "DIGEST-MD5",
        prefix_length: int | None = 56,
    ) -> tuple[Udp, Offer]:
        """A scripted client in `space` that goes all the way; returns its wire, which then carries packets."""
        wire = Udp(space.socket(socket.AF_INET, socket.SOCK_DGRAM), SERVER)
        client = Client(wire)
        client.log_in(mechanism, user, password)
        offer = client.create(prefix_length=prefix_length)
        client.accept()
        return wire, offer


class Connection:
    """`ddtb6 connect` in a namespace; without a user it logs in as nobody in particular."""

    def __init__(
        self,
        space: Namespace,
        directory: Path,
        user: str | None,
        password: str,
        *options: str,
        server: str = BROKER_OUTER,
        device: str = "tun6",
    ) -> None:
        self.space = space
        self.device = device
        self.identity = ["--user", user, "--password-stdin"] if user is not None else []
        self.password = password
        self.options = options
        self.server = server
        self.log_file = directory / f"connect-{user}.log"
        self.process: subprocess.Popen[Any] | None = None
        self._before = 0

    def start(self) -> None:
        self._before = len(self.log())
        with self.log_file.open("ab") as log:
            self.process = self.space.spawn(
                PROGRAMS / "ddtb6", "connect", "--server", self.server, *self.identity, "--json",
                "--device", self.device, *self.options,
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.password}\n".encode())
        self.process.stdin.close()

    def address(self) -> IPv6Address | None:
        """The global address on the tunnel device, if it is there."""
        text = self.space.run("ip", "-json", "-6", "address", "show", "dev", self.device, check=False)
        if not text.strip():
            return None
        for link in json.loads(text):
            for each in link.get("addr_info", ()):
                if each["scope"] == "global":
                    return IPv6Address(each["local"])
        return None

    def events(self) -> list[dict[str, Any]]:
        """What the client has reported since it was started."""
        return [json.loads(line) for line in self.log()[self._before :].splitlines() if line.startswith("{")]

    def wait_up(self, deadline: float = 20) -> IPv6Address:
        """Wait until the client says that its tunnel is up; returns the address on the device."""

        def up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the client ended:\n{self.log()}"
            names = [event["event"] for event in self.events() if event["event"] in ("up", "changed", "lost")]
            return bool(names) and names[-1] != "lost"

        try:
            wait_until(up, "the tunnel", deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        address = self.address()
        assert address is not None
        return address

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def stop(self, number: int = signal.SIGTERM, deadline: float = 10) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(deadline)


@dataclass(frozen=True, slots=True)
class World:
    """A network and the broker that runs in it."""

    net: Internet
    broker: Broker

    def udp(self, *, server: tuple[str, int] = SERVER, legacy: bool = False) -> Udp:
        """A new UDP port of the client behind the NAT."""
        return Udp(self.net.client.socket(socket.AF_INET, socket.SOCK_DGRAM), server, legacy=legacy)

    def tcp(self) -> Tcp:
        """A new connection of the client behind the NAT."""
        return Tcp(self.net.client.socket(socket.AF_INET, socket.SOCK_STREAM), SERVER)


def carries(wire: Udp, offer: Offer, destination: str = HOST, *, source: str | None = None, tries: int = 3) -> bool:
    """Whether an echo request put into the scripted client's tunnel comes back as a reply, in a second a try."""
    source = source or offer.client_inner
    for sequence in range(tries):
        wire.socket.send(echo_request(source, destination, sequence=sequence))
        wire.socket.settimeout(1)
        try:
            while not is_echo_reply(wire.socket.recv(4096), destination, source, sequence=sequence):
                pass
        except TimeoutError:
            continue
        return True
    return False
