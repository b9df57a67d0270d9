# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages on a Debian 12 with systemd, from installation to purge: one virtual machine for the lot, in this order.

Clients are outside: the machine is the broker alone, a NAT is between, and they live on while it boots.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.capabilities import need_tun
from support.debian_root import DebianRoot, build
from support.debian_system import Machine, Surroundings, furnish, surroundings
from support.netns import BROKER_OUTER, HOST, Lab, wait_until
from support.scenario import PASSWORD, Connection
from support.streams import Stream
from support.traffic import Train, ping
from support.vm import FAULT

pytestmark = [pytest.mark.vm, pytest.mark.deb, pytest.mark.netns, pytest.mark.slow]

BLOCK = "2001:db8:1000::/36"
NEWER = "9:9.9"
"""A version above all that there will be."""
NEWER_FILE = "/srv/newer.deb"
WATCHDOG = "/run/systemd/system/ddtb6.service.d/watchdog.conf"
WINDOW = 200_000
"""Octets of the transfer that are under way: less than any queue holds."""
CAPABILITIES = 1 << 12 | 1 << 13
"""CAP_NET_ADMIN, CAP_NET_RAW."""
OLD_SYSTEMD = ("Unknown key 'RestartSteps'", "Unknown key 'RestartMaxDelaySec'")
"""What systemd 252 says about the back-off that it does not have."""


class Installed:
    """The machine with the packages in it, and its client."""

    def __init__(self, machine: Machine, around: Surroundings, directory: Path) -> None:
        self.machine, self.around = machine, around
        self.tunnel = Connection(around.client, directory, "alice", PASSWORD, "--prefix-length", "56")
        self.known: dict[str, Any] = {}
        """What `session` has said last."""

    def ask(self, verb: str) -> Any:
        """What the tool asks for by `ddtb6 ... --json`, whose start would take an emulated machine ten seconds."""
        head = f"POST /v1/{verb} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        answer = self.machine.talk("/run/ddtb6/control", head + "{}")
        first, _, rest = answer.partition("\r\n")
        assert " 200 " in first, answer
        return json.loads(rest.partition("\r\n\r\n")[2])

    def session(self) -> dict[str, Any]:
        (self.known,) = self.ask("session.list")["sessions"]
        return self.known

    def ups(self) -> int:
        """How often the client has had a new tunnel, or none."""
        return sum(each["event"] in ("up", "changed", "lost") for each in self.tunnel.events())

    def life(self) -> str:
        """What differs between two lives of the daemon; empty while it does not serve."""
        shown = self.machine.run("systemctl", "show", "--property=ActiveState,InvocationID", "ddtb6")
        said = dict(line.split("=", 1) for line in shown.splitlines())
        return said["InvocationID"] if said["ActiveState"] == "active" else ""

    def next_life(self, before: str) -> str:
        return str(self.machine.eventually(lambda: self.life() not in ("", before) and self.life(), "the next daemon"))

    def complaints(self) -> list[str]:
        """What the journal of this boot has of our units, at warning or worse."""
        units = ("-u", "ddtb6.service", "-u", "ddtb6.socket", "-u", "systemd-modules-load.service")
        said = self.machine.run("journalctl", "--boot", "--priority=warning", "--quiet", "--output=cat", *units)
        return [line for line in said.splitlines() if not any(known in line for known in OLD_SYSTEMD)]

    def failed(self) -> str:
        return self.machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend")


@pytest.fixture(scope="module")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line of progress at once, whatever is captured; with the seconds since the one before."""
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    last = time.monotonic()

    def line(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        with capture.global_and_fixture_disabled():
            print(f"system: {text} ({now - last:.0f} s)", flush=True)
        last = now

    return line


@pytest.fixture(autouse=True)
def _progress(request: pytest.FixtureRequest, say: Callable[[str], None]) -> Iterator[None]:
    yield
    say(request.node.name.removeprefix("test_").replace("_", " "))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Installed]:
    need_tun()
    directory = tmp_path_factory.mktemp("system")
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(ThreadPoolExecutor(1))
        building = [workers.submit(build, tmp_path_factory.mktemp("build"), version) for version in (None, NEWER)]
        root = DebianRoot(directory)
        which = furnish(root)
        say(f"Debian 12 with systemd and Linux {which.version} is in a directory")
        packages, newer = (each.result() for each in building)
        root.install(packages["ddtb6"], packages["utun-dkms"])
        shutil.copy(newer["ddtb6"], root.path / NEWER_FILE[1:])
        say("the packages are installed in it, utun is built by DKMS")
        around = surroundings(stack.enter_context(Lab()), stack)
        machine = stack.enter_context(Machine(root, which, around, directory))
        assert machine.settle() == "running", machine.run("systemctl", "--failed") + machine.last_words()
        say("it has booted from a disk")
        yield Installed(machine, around, directory)


@contextlib.contextmanager
def undisturbed(installed: Installed) -> Iterator[Callable[[], None]]:
    """While this lasts a transfer and a train of pings go through the tunnel; nothing of them may be missing.

    Gives a function that waits for more of both to get through.
    """
    net = installed.around
    stream = Stream(net.client, net.host, HOST, WINDOW)
    train = Train(net.client, HOST)

    def goes_on() -> None:
        mark = len(train.answered)
        stream.flows(deadline=120)
        wait_until(lambda: len(train.answered) > mark + 10, "answers to pings", 120)

    goes_on()
    before = installed.known
    yield goes_on
    goes_on()
    stream.finish(120)
    train.stop(60)
    after = installed.session()
    for same in ("id", "remote", "address", "prefix", "started"):
        assert after[same] == before[same]
    assert after["counters"]["octets_in"] >= before["counters"]["octets_in"] + (1 << 20), "not all is counted"
    assert installed.ups() == 1, "the client had to log in again"


def test_dkms_has_built_the_module_and_the_boot_has_loaded_it(installed: Installed) -> None:
    run = installed.machine.run
    running = run("uname", "-r").strip()
    assert f"utun/1, {running}, x86_64: installed" in run("dkms", "status")
    assert run("modinfo", "-n", "utun").strip() == f"/lib/modules/{running}/updates/dkms/utun.ko"
    assert "utun" in [line.split()[0] for line in run("cat", "/proc/modules").splitlines()]
    assert installed.life() == "", "nobody has configured it"


def test_what_setup_says_starts_the_broker(installed: Installed) -> None:
    run = installed.machine.run
    said = run("ddtb6", "setup", "--yes", "--address", BROKER_OUTER, "--block", BLOCK, "--users", "local")
    assert "systemctl enable --now ddtb6" in said
    run("systemctl", "enable", "--now", "ddtb6")
    run("ddtb6", "user", "add", "alice", "--password-stdin", input=f"{PASSWORD}\n")
    assert json.loads(run("ddtb6", "status", "--json"))["data_plane"] == "utun"
    assert installed.life() != ""
    assert installed.failed() == ""
    assert installed.complaints() == []


def test_the_unit_is_what_it_promises(installed: Installed) -> None:
    machine = installed.machine
    promised = {"Type": "notify", "User": "ddtb6", "WatchdogUSec": "1min", "Restart": "always", "NRestarts": "0"}
    promised |= dict.fromkeys(("AmbientCapabilities", "CapabilityBoundingSet"), "cap_net_admin cap_net_raw")
    promised |= {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "MemoryDenyWriteExecute": "yes"}
    shown = machine.run("systemctl", "show", "--property", ",".join(promised), "ddtb6")
    assert dict(line.split("=", 1) for line in shown.splitlines()) == promised
    process = machine.property("ddtb6", "MainPID")
    status = dict(line.split(":", 1) for line in machine.run("cat", f"/proc/{process}/status").splitlines())
    for capabilities in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == CAPABILITIES
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert set(status["Uid"].split()) == {machine.run("id", "-u", "ddtb6").strip()} != {"0"}
    where = machine.run(
        "stat", "-c", "%U %a", "/var/lib/ddtb6", "/run/ddtb6", "/run/ddtb6/control", "/etc/ddtb6/ddtb6.toml"
    )
    assert where.splitlines() == ["ddtb6 700", "ddtb6 750", "ddtb6 660", "root 640"]


def test_a_client_logs_in_and_pings_through_the_kernel(installed: Installed) -> None:
    installed.tunnel.start()
    address = installed.tunnel.wait_up(120)
    wait_until(lambda: ping(installed.around.client, HOST) is not None, "a ping to the host behind the broker", 60)
    assert ping(installed.around.host, str(address)) is not None, "nor the other way"
    session = installed.session()
    assert session["address"] == str(address)
    journal = installed.machine.run("journalctl", "--quiet", "--output=cat", f"DDTB6_SESSION={session['id']}")
    assert journal.startswith(f"session {session['id']}: user:alice at ")


def test_a_restart_loses_nothing(installed: Installed) -> None:
    """And gives the daemon a watchdog that does not take a minute, for the test after the next."""
    machine, before = installed.machine, installed.life()
    machine.run("mkdir", "-p", str(Path(WATCHDOG).parent))
    machine.run("tee", WATCHDOG, input="[Service]\nWatchdogSec=10\n")
    machine.run("systemctl", "daemon-reload")
    with undisturbed(installed):
        machine.run("systemctl", "restart", "ddtb6")
        assert installed.next_life(before)
    assert installed.complaints() == []


def test_a_kill_loses_nothing(installed: Installed) -> None:
    before = installed.life()
    with undisturbed(installed):
        installed.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "ddtb6")
        assert installed.next_life(before), "nobody started it again"


def test_the_watchdog_ends_a_daemon_that_hangs(installed: Installed) -> None:
    machine, before = installed.machine, installed.life()
    with undisturbed(installed):
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "ddtb6")
        assert installed.next_life(before), "nobody started it again"
    assert "Watchdog timeout" in machine.run("journalctl", "--boot", "--quiet", "--output=cat", "-u", "ddtb6.service")
    machine.run("rm", WATCHDOG)


def test_an_upgrade_loses_nothing(installed: Installed) -> None:
    machine, before = installed.machine, installed.life()
    opened = machine.property("ddtb6.socket", "InvocationID")
    with undisturbed(installed):
        machine.run("dpkg", "--install", NEWER_FILE)
        assert installed.next_life(before), "it goes on with what was there before"
    assert machine.run("dpkg-query", "-W", "-f", "${Version}", "ddtb6") == NEWER
    assert machine.property("ddtb6.socket", "InvocationID") == opened, "its ports were closed"
    assert machine.property("ddtb6", "WatchdogUSec") == "1min"


def test_a_boot_brings_the_tunnels_back(installed: Installed) -> None:
    """The client is the same process all the time, and nobody does anything in the machine."""
    machine, before = installed.machine, installed.known
    machine.reboot()
    assert machine.settle() == "running"
    wait_until(lambda: ping(installed.around.client, HOST, wait=5) is not None, "a ping after the boot", 120)
    after = installed.session()
    assert (after["address"], after["prefix"]) == (before["address"], before["prefix"])
    status = installed.ask("overview")
    assert status["data_plane"] == "utun"
    assert status["reconciled"]["raised"] == 1
    assert installed.failed() == ""
    assert installed.complaints() == []
    assert ping(installed.around.host, str(installed.tunnel.address())) is not None


def test_the_kernel_has_nothing_to_complain_of(installed: Installed) -> None:
    log = installed.machine.run("journalctl", "--boot", "--dmesg", "--quiet", "--output=cat")
    assert [line for line in log.splitlines() if FAULT.search(line)] == []


def test_purge_leaves_nothing(installed: Installed) -> None:
    installed.tunnel.stop()
    run = installed.machine.run
    run("rm", NEWER_FILE)
    run("dpkg", "--purge", "ddtb6", "utun-dkms")
    named = ("(", "-name", "*ddtb6*", "-o", "-name", "*utun*", ")")
    assert run("find", "/", "-xdev", *named, "-print") == ""
    assert run("find", "/run", *named, "-print") == ""
    assert run("systemctl", "list-units", "--all", "--plain", "--no-legend", "ddtb6*", "*utun*") == ""
    assert "ddtb6" not in run("cat", "/etc/passwd", "/etc/group", "/proc/net/dev")
    assert "utun" not in run("cat", "/proc/modules")
    assert "utun" not in run("dkms", "status")
    assert run("nft", "list", "tables") == ""
    assert run("ip", "-6", "route", "show", "table", "all", "proto", "182") == ""
    assert run("ss", "-Hlun", "sport = :3653") == ""
    assert installed.failed() == ""
