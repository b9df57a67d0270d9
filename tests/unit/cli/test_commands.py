# SPDX-License-Identifier: GPL-2.0-or-later
"""The tool's commands: on the store of a stopped broker, and over the control socket of a running one."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer, reactor, threads
from twisted.trial import unittest

from ddtb6.addressing.endpoint import Carrier, Encapsulation, Endpoint, Link
from ddtb6.auth.chain import Anonymous
from ddtb6.auth.passwords import verify_password
from ddtb6.broker.admission import Gate
from ddtb6.broker.broker import Broker, Policy
from ddtb6.broker.events import Bus
from ddtb6.broker.ports import Account, Opening, Session
from ddtb6.broker.views import AaaServerView, AaaView, AccountingView, Overview
from ddtb6.cli.doctor import daemon
from ddtb6.cli.main import COMMANDS, main
from ddtb6.clock import SystemClock
from ddtb6.config import load
from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.store.store import Store, open_store
from ddtb6.web import control_site
from ddtb6.web.amounts import moment
from ddtb6.web.control import Control

CONFIG = """
[server]
state = "{state}"
control = "{state}/control"
realm = "realm"

[pool.links]
block = "2001:db8:0:1::/64"
use = "accounts"
quarantine = 60

[pool.home]
block = "2001:db8:1000::/36"
use = "prefixes"
length = 56
quarantine = 3600
"""


def write_config(directory: Path) -> Path:
    path = directory / "ddtb6.toml"
    path.write_text(CONFIG.format(state=directory))
    return path


def opened(config: Path) -> Store:
    loaded = load(config)
    return open_store(loaded.server.database, loaded.pools, SystemClock(), in_thread=defer.execute)


def now(work: Any) -> Any:
    """The result of what is done at once."""
    results: list[Any] = []
    defer.Deferred.fromCoroutine(work).addBoth(results.append)
    return results[0]


def opening(user: str) -> Opening:
    return Opening(
        owner=f"user:{user}",
        user=user,
        link=Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.7", 4001)),
        encapsulation=Encapsulation.V6UDPV4,
        mechanism="DIGEST-MD5",
        client_version="2.0.2",
        address_pool="links",
        prefix_pool="home",
        mtu=1280,
        idle_limit=180.0,
    )


# --- the tool as a whole ------------------------------------------------------------------------------------------


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["explode"]) == 2
    assert main(["user"]) == 2
    assert main(["user", "add", "alice", "the-password"]) == 2
    capsys.readouterr()
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert main(["--version"]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: ddtb6 {command}" in capsys.readouterr().out


def test_help_is_fast_because_it_imports_next_to_nothing() -> None:
    program = "import sys; from ddtb6.cli.main import main; main(['--help']); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"twisted", "lxml", "pyroute2", "sqlite3"}.isdisjoint(modules)


def test_a_command_s_name_may_be_a_file_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "user", "check"]) == 1
    assert "user does not exist" in capsys.readouterr().out


def test_configuration_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[tunnel]\nmtu = 1\nkeepalive = -1\n")
    assert main(["-c", str(path), "user", "list"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [
        f"ddtb6: {path}: tunnel.keepalive: -1 is not between 0 and 3600",
        f"ddtb6: {path}: tunnel.mtu: 1 is not between 1280 and 65507",
    ]


def test_configuration_by_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DDTB6_CONFIG", str(write_config(tmp_path)))
    assert main(["user", "list"]) == 0
    assert "There are no accounts yet." in capsys.readouterr().out


def test_readers_that_go_away(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    program = f"import sys; from ddtb6.cli.main import main; sys.exit(main(['-c', {str(config)!r}, 'check']))"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as closed:
        done = subprocess.run([sys.executable, "-c", program], stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")


# --- check --------------------------------------------------------------------------------------------------------


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    assert main(["-c", str(config), "check"]) == 0
    shown = capsys.readouterr().out
    assert f"{config} is fine." in shown
    assert "Caution: pool.home.block: 2001:db8:1000::/36 is documentation space" in shown
    assert "2001:db8:1000::/36 for prefixes, a /56 each, rest 1 h" in shown
    assert main(["-c", str(config), "check", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cautions"]) == 2


def test_check_tells_all_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.toml"
    config.write_text('[pool.home56]\nblock = "2001:db8::/40"\nuse = "prefixes"\nlength = 57\n[server]\nrealmm = "x"\n')
    assert main(["-c", str(config), "check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "pool.home56.length: 57 is not one of 48, 52, 56, 60, 64",
        "server.realmm: there is no such key; did you mean realm?",
        f"{config} has 2 errors; the broker would not start.",
    ]
    assert main(["-c", str(config), "check", "--json"]) == 1
    assert [each["key"] for each in json.loads(capsys.readouterr().out)["errors"]] == [
        "pool.home56.length",
        "server.realmm",
    ]


# --- while the broker is stopped ----------------------------------------------------------------------------------


class Keyboard(io.StringIO):
    """Standard input that may be a terminal."""


class Tool:
    """Runs the tool on one configuration; keeps what it printed."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.capsys = capsys
        self.monkeypatch = monkeypatch

    def __call__(self, *words: str, stdin: str = "", code: int = 0) -> str:
        self.monkeypatch.setattr(sys, "stdin", Keyboard(stdin))
        assert main(["-c", str(self.config), *words]) == code
        said = self.capsys.readouterr()
        return said.err if code else said.out

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def account(self, name: str) -> Account:
        store = opened(self.config)
        account = store.find_account(name)
        now(store.close())
        assert account is not None
        return account

    def log_in(self, user: str) -> Session:
        store = opened(self.config)
        session: Session = now(store.open_session(opening(user)))
        now(store.close())
        return session


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Tool]:
    return Tool(write_config(tmp_path), capsys, monkeypatch)


def test_accounts(tool: Tool) -> None:
    said = tool("user", "add", "alice", "--password-stdin", stdin="s3cret\n")
    assert said.startswith("Added user alice.")
    assert "Next: ddtb6 connect " in said
    account = tool.account("alice")
    assert verify_password("s3cret", account.password_hash or "")
    assert "exists already" in tool("user", "add", "alice", "--password-stdin", stdin="x\n", code=1)
    assert tool("user", "list").splitlines()[1].split()[:2] == ["alice", "enabled"]
    assert tool.json("user", "list")[0]["mechanisms"] == ["DIGEST-MD5", "PLAIN"]
    assert tool("user", "disable", "alice").startswith("Disabled user alice. It keeps its addresses.")
    assert "disabled" in tool("user", "show", "alice")
    assert tool("user", "enable", "alice").startswith("Enabled user alice.")
    tool("user", "passwd", "alice", "--password-stdin", stdin="other")
    assert verify_password("other", tool.account("alice").password_hash or "")
    assert tool("user", "delete", "alice").startswith("Deleted user alice.\n")
    assert "there is no user alice" in tool("user", "show", "alice", code=1)
    assert tool.json("user", "list") == []


def test_secrets_are_never_printed(tool: Tool) -> None:
    tool("user", "add", "alice", "--password-stdin", stdin="s3cret\n")
    account = tool.account("alice")
    assert account.digest is not None
    assert account.password_hash is not None
    for words in (["list"], ["list", "--json"], ["show", "alice"], ["show", "alice", "--json"]):
        said = tool("user", *words)
        for secret in ("s3cret", account.digest.hex(), account.password_hash[-20:]):
            assert secret not in said


def test_passwords_from_the_terminal(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "use --password-stdin" in tool("user", "add", "alice", code=1)
    assert "standard input has no password" in tool("user", "add", "alice", "--password-stdin", code=1)
    typed: list[str] = []
    monkeypatch.setattr(Keyboard, "isatty", lambda self: True)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: typed.pop(0))
    typed[:] = ["one", "two"]
    assert "the two passwords differ" in tool("user", "add", "alice", code=1)
    typed[:] = ["one", "one"]
    assert "Added user alice" in tool("user", "add", "alice")
    assert verify_password("one", tool.account("alice").password_hash or "")


def test_names_and_passwords_that_will_not_do(tool: Tool) -> None:
    assert "user name" in tool("user", "add", "a b", "--password-stdin", stdin="x\n", code=1)
    assert "password" in tool("user", "add", "alice", "--password-stdin", stdin="\n", code=1).lower()


def test_leases(tool: Tool) -> None:
    assert tool("lease", "list") == "Nothing is held.\n"
    assert tool("lease", "list", "--released") == "Nothing was released.\n"
    session = tool.log_in("alice")
    assert session.spec.prefix is not None
    listed = tool("lease", "list", "--owner", "alice")
    assert listed.splitlines()[0].split() == ["PREFIX", "OWNER", "POOL", "GRANTED"]
    assert str(session.spec.address) in listed
    assert [each["pool"] for each in tool.json("lease", "list")] == ["links", "home"]
    assert tool("lease", "list", "--owner", "bob") == "Nothing is held.\n"
    said = tool("lease", "release", "alice")
    assert f"Released {session.spec.prefix} of pool home; it rests for 1 h." in said
    assert "RELEASED" in tool("lease", "list", "--released")
    assert "holds nothing" in tool("lease", "release", "alice", code=1)


def test_whois(tool: Tool) -> None:
    session = tool.log_in("alice")
    assert session.spec.prefix is not None
    inside = str(session.spec.prefix[77])
    said = tool("whois", inside)
    assert "user:alice" in said
    assert "198.51.100.7:4001" in said
    assert "not ended" in said
    assert tool.json("whois", f"[{inside}]", "--at", str(session.started + 1))["lease"]["owner"] == "user:alice"
    assert "nobody held" in tool("whois", inside, "--at", "1999-01-01", code=1)
    assert "must be an IPv6 address" in tool("whois", "192.0.2.1", code=1)
    assert tool("whois", inside, "--at", "yesterday", code=2)


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("0", 0.0),
        ("1700000000.5", 1_700_000_000.5),
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000.0),
        ("2023-11-14 22:13:20", 1_700_000_000.0),
        ("20231114T221320Z", 1_700_000_000.0),
        ("2023-11-14", 1_699_920_000.0),
    ],
)
def test_times(text: str, epoch: float) -> None:
    assert moment(text) == epoch


def test_live_verbs_need_the_broker(tool: Tool) -> None:
    for words in (["status"], ["session", "list"], ["session", "show", "1"], ["session", "kill", "1"]):
        assert "the broker is not running; start it with" in tool(*words, code=1)


def test_missing_state_directory(tool: Tool) -> None:
    shutil.rmtree(tool.config.parent / "gone", ignore_errors=True)
    tool.config.write_text(CONFIG.format(state=tool.config.parent / "gone"))
    said = tool("user", "list", code=1)
    assert said.startswith("ddtb6: The directory ")
    assert said.count("\n") == 1


def test_history_in_user_show(tool: Tool) -> None:
    tool("user", "add", "alice", "--password-stdin", stdin="x\n")
    session = tool.log_in("alice")
    assert "not closed" in tool("user", "show", "alice")
    assert "ended its session" in tool("user", "disable", "alice")
    shown = tool("user", "show", "alice")
    assert "disabled" in shown
    assert str(session.spec.prefix) in shown
    assert f"Released {session.spec.prefix} of pool home" in tool("user", "delete", "alice")


def test_root_leaves_no_files_of_its_own(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    state = Path(tempfile.mkdtemp(prefix="ddtb6-"))
    try:
        config = write_config(state)
        os.chown(state, 65534, 65534)
        config.chmod(0o644)
        words = ["-c", str(config), "user", "list"]
        program = f"import sys; from ddtb6.cli.main import main; sys.exit(main({words!r}))"
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        assert (state / "ddtb6.sqlite").stat().st_uid == 65534
    finally:
        shutil.rmtree(state)


# --- while the broker runs ----------------------------------------------------------------------------------------


class Running(unittest.TestCase):
    """A real broker on the memory data plane, with one session that it found in its store."""

    aaa: AaaView | None = None

    def setUp(self) -> defer.Deferred[None]:
        directory = Path(tempfile.mkdtemp(prefix="ddtb6-"))
        self.addCleanup(shutil.rmtree, directory)
        self.config = write_config(directory)
        return defer.Deferred.fromCoroutine(self.start())

    async def start(self) -> None:
        config, clock = load(self.config), SystemClock()
        store = opened(self.config)
        self.addCleanup(lambda: defer.Deferred.fromCoroutine(store.close()))
        await store.add_account(Account("alice", bytes(16), None, disabled=False, created=1.0))
        self.session = await store.open_session(opening("alice"))
        policy = Policy("realm", ("DIGEST-MD5",), config.pools)
        gate = Gate(5.0, 40, 5000.0, 60000)
        plane = MemoryPlane(clock, tuple(config.pools.values()))
        bus = Bus(lambda event, fault: self.fail(f"a listener failed on {event}"))
        broker = Broker(policy, gate, clock, Anonymous(), store, plane, lambda: b"nonce", bus)
        await broker.start()
        self.addCleanup(lambda: defer.Deferred.fromCoroutine(broker.stop()))

        def overview() -> Overview:
            return Overview(
                version="1.2.3",
                started=1_700_000_000.0,
                listening=("udp 192.0.2.1:3653",),
                data_plane="memory",
                data_plane_reason="it was asked for",
                firewall="No rules.",
                encapsulations=("v6udpv4",),
                mechanisms=("DIGEST-MD5",),
                negotiations=0,
                activity=broker.activity(),
                aaa=self.aaa,
            )

        control = Control(
            store, broker, overview, realm="realm", pools=config.pools, clock=clock, in_thread=defer.execute
        )
        site = control_site.make_control_site(control, reactor)
        port = await control_site.listen(site, config.server.control, reactor)
        self.addCleanup(port.stopListening)

    async def tool(self, *words: str, code: int = 0) -> str:
        """What the tool prints, run in a thread; to the error output when it fails."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert await threads.deferToThread(main, ["-c", str(self.config), *words]) == code
        return err.getvalue() if code else out.getvalue()

    def test_sessions(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            id, prefix = str(self.session.id), str(self.session.spec.prefix)
            listed = await self.tool("session", "list")
            assert "alice" in listed
            assert prefix in listed
            assert prefix in await self.tool("session", "show", id)
            value = json.loads(await self.tool("session", "list", "--json"))
            assert (value["total"], value["sessions"][0]["user"]) == (1, "alice")
            assert "There are no live" in await self.tool("session", "list", "--user", "bob")
            assert "there is no live session 99" in await self.tool("session", "show", "99", code=1)
            assert "must be a whole number" in await self.tool("session", "list", "--limit", "0", code=1)
            assert f"Ended session {id} of alice" in await self.tool("session", "kill", id)
            assert "there is no live" in await self.tool("session", "kill", id, code=1)
            shown = await self.tool("user", "show", "alice")
            assert "disconnected" in shown
            assert prefix in shown

        return defer.Deferred.fromCoroutine(scenario())

    def test_status(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            shown = await self.tool("status")
            for part in ("1.2.3", "udp 192.0.2.1:3653", "memory: it was asked for", "1 live", "2001:db8:1000::/36"):
                assert part in shown
            assert json.loads(await self.tool("status", "--json"))["activity"]["sessions"] == 1
            assert "AAA" not in shown

        return defer.Deferred.fromCoroutine(scenario())

    def test_status_of_the_aaa(self) -> defer.Deferred[None]:
        servers = (
            AaaServerView("isp1", "log-ins", Endpoint("192.0.2.9", 1812), True, 3.0, 0.004, 2, {"unsigned": 7}),
            AaaServerView("isp2", "accounting", Endpoint("192.0.2.9", 1813), False, None, None, 5),
        )
        accounting = AccountingView(41, 100, 1_700_000_000.0, 1_700_000_001.0, "isp2: no answer")
        self.aaa = AaaView(servers, accounting, {"disconnected": 6})

        async def scenario() -> None:
            shown = await self.tool("status")
            lines = [re.split(r"  +", line.strip()) for line in shown.splitlines()]
            assert ["isp1", "log-ins", "192.0.2.9:1812", "answers", "3 s ago", "4.0 ms", "2", "unsigned: 7"] in lines
            assert ["isp2", "accounting", "192.0.2.9:1813", "does not answer", "none", "5", "none"] in lines
            for part in (
                "100 records delivered, 41 records wait, the oldest since 2023-11-14 22:13:20Z",
                "none since 2023-11-14 22:13:21Z: isp2: no answer",
                "disconnected: 6",
            ):
                assert part in shown

        return defer.Deferred.fromCoroutine(scenario())

    def test_disabling_ends_the_session(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            assert "live" in await self.tool("user", "show", "alice")
            assert "and ended its session" in await self.tool("user", "disable", "alice")
            assert "There are no live" in await self.tool("session", "list")
            assert "It keeps" in await self.tool("user", "disable", "alice")

        return defer.Deferred.fromCoroutine(scenario())

    def test_deleting_ends_the_session_and_releases(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            said = await self.tool("user", "delete", "alice")
            assert "ended its session" in said
            assert f"Released {self.session.spec.prefix} of pool home" in said
            assert await self.tool("lease", "list") == "Nothing is held.\n"
            assert "nobody holds" in await self.tool("whois", str(self.session.spec.address), code=1)

        return defer.Deferred.fromCoroutine(scenario())

    def test_release_ends_the_session(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            assert "Released" in await self.tool("lease", "release", "alice")
            assert "There are no live" in await self.tool("session", "list")

        return defer.Deferred.fromCoroutine(scenario())

    def test_doctor_knows_its_daemon(self) -> defer.Deferred[None]:
        async def scenario() -> None:
            running, finding = await threads.deferToThread(daemon, load(self.config).server.control)
            assert running
            assert finding.sentence == "It is running, version 1.2.3; reconciled: not yet."

        return defer.Deferred.fromCoroutine(scenario())
