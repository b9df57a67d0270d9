# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages from build to purge: a clean root, a client in another namespace, an upgrade under its tunnel.

What the README says is done as it says, each of its commands.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.capabilities import need_program
from support.debian_root import DebianRoot, build, checkout, run
from support.netns import BROKER_OUTER, HOST, NAT_OUTER, Internet, Lab, Namespace, internet, wait_until
from support.scenario import Connection
from support.terminal import Terminal
from support.traffic import ping

pytestmark = [pytest.mark.deb, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BLOCK = "2001:db8:1000::/36"
NEWER = "9:9.9"
"""A version above all that there will be."""
UNIT = ROOT / "debian" / "ddtb6.service"
PASSWORD = "correct horse"
CHECKOUT = "/srv/ddtb6"


def commands(page: Path) -> list[str]:
    """What a page tells its reader to type, as root does it."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", page.read_text())
    return [line.removeprefix("sudo ") for block in blocks for line in block.splitlines()]


BUILD, INSTALL, SETUP, START, ADD, CONNECT, PING, RUN, DEMO = commands(ROOT / "README.md")
"""A command that is new there wants to be run here."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DebianRoot:
    return DebianRoot(tmp_path_factory.mktemp("debian"))


# --- the packages themselves --------------------------------------------------------------------------------------


def test_a_second_build_gives_the_same_octets(
    packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert set(packages) == {"ddtb6", "utun-dkms"}
    again = build(tmp_path_factory.mktemp("again"))
    for name, path in packages.items():
        assert again[name].read_bytes() == path.read_bytes(), name


def test_lintian_has_nothing_to_say(packages: dict[str, Path]) -> None:
    changes = next(packages["ddtb6"].parent.glob("*.changes"))
    assert run("lintian", "--allow-root", "--fail-on", "error,warning", changes) == ""


def test_the_unit_is_sound_and_little_exposed() -> None:
    """At most 2.0 of the 10 that systemd gives to a service without any hardening."""
    program = need_program("deb", "systemd-analyze")
    assert run(program, "security", "--offline=true", "--threshold=20", UNIT)


# --- installed ----------------------------------------------------------------------------------------------------


class Installed:
    """The broker from its package in one namespace, and clients from it in another."""

    def __init__(self, root: DebianRoot, net: Internet) -> None:
        self.root = root
        self.net = net
        self._daemon: subprocess.Popen[Any] | None = None
        self.log_file = root.path.with_name("broker.log")

    def tool(self, *words: str, space: Namespace | None = None, **options: Any) -> str:
        """`ddtb6 ...` as root in a namespace, by default the broker's."""
        return (space or self.net.broker).run(*self.root.command("ddtb6", *words), **options)

    def start(self) -> None:
        """As the unit does: its command and its user, with the capability that it cannot do without."""
        (command,) = (line[10:] for line in UNIT.read_text().splitlines() if line.startswith("ExecStart="))
        drop = ["setpriv", "--reuid=ddtb6", "--regid=ddtb6", "--clear-groups", "--no-new-privs"]
        keep = ["--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin"]
        self.root.run("install", "-d", "-o", "ddtb6", "-g", "ddtb6", "-m", "0750", "/run/ddtb6")
        with self.log_file.open("ab") as log:
            self._daemon = self.net.broker.spawn(
                *self.root.command(*drop, *keep, *command.split()),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        wait_until(self.serves, "the broker", 20)

    def serves(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, self.log_file.read_text()
        try:
            self.tool("status")
        except (AssertionError, subprocess.CalledProcessError):
            return False
        return True

    def stop(self) -> None:
        assert self._daemon is not None
        self._daemon.terminate()
        # twistd ends by the signal that ended it, once it has stopped everything.
        assert self._daemon.wait(20) == -signal.SIGTERM, self.log_file.read_text()
        assert "Traceback" not in self.log_file.read_text()
        self._daemon = None

    def sessions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.tool("session", "list", "--json"))["sessions"]
        return found


@pytest.fixture(scope="module")
def installed(packages: dict[str, Path], root: DebianRoot) -> Iterator[Installed]:
    """Installed, set up by the tool and started, with one account, by the commands of the README."""
    assert BUILD == "make deb", "what `packages` ran"
    root.apt("install", "iputils-ping")
    root.bring(packages["ddtb6"].parent, f"{CHECKOUT}/dist")
    with root.archives():
        root.run("sh", "-c", f"cd {CHECKOUT} && {INSTALL}", input="y\n")
    root.take_away(CHECKOUT)
    with Lab() as lab:
        made = Installed(root, internet(lab))
        made.net.broker.run("ip", "route", "add", "default", "via", NAT_OUTER)
        terminal = Terminal(made.net.broker, *root.command(*SETUP.split()))
        terminal.answer(f"address [{BROKER_OUTER}]: ", "")
        terminal.answer("block: ", BLOCK)
        for question in ("prefix-length [56]: ", "anonymous [no]: ", "users [local]: ", "Write this? [yes]: "):
            terminal.answer(question, "")
        plan = terminal.end()
        assert {ADD.replace("alice", "NAME")} <= {line.strip() for line in plan.splitlines()}, plan
        assert START == "systemctl enable --now ddtb6", "for which, without systemd, stands"
        made.start()
        terminal = Terminal(made.net.broker, *root.command(*ADD.split()))
        for question in ("Password for alice: ", "The same again: "):
            terminal.answer(question, PASSWORD)
        terminal.end()
        yield made


def test_what_an_administrator_finds(installed: Installed) -> None:
    inside = installed.root.run
    assert inside("stat", "-c", "%U %a", "/var/lib/ddtb6", "/etc/ddtb6/ddtb6.toml").split() == [
        *("ddtb6", "700"),
        *("root", "640"),
    ]
    assert "IPv6 tunnel broker" in inside("twistd3", "--help")
    assert inside("python3", "-c", "import ddtb6; print(ddtb6.__file__)").startswith("/usr/lib/python3/dist-packages/")
    assert inside("dpkg", "--verify", "ddtb6") == ""
    assert installed.tool("check")
    config = "/etc/ddtb6/ddtb6.toml"
    said = inside(
        "sh", "-c", f"chgrp root {config}; ddtb6 doctor; twistd3 -n ddtb6 -c /no; echo $?; chgrp ddtb6 {config}"
    )
    assert f"{config} cannot be read: Permission denied\n      chgrp ddtb6 FILE" in said, "root is not the daemon"
    assert said.endswith("\n1\n")
    for page in ("README.md", "CHANGELOG.md", "docs/operator.md", "docs/decisions/README.md"):
        assert {f"/usr/share/doc/ddtb6/{page}", f"/usr/share/doc/ddtb6/{page}.gz"} & installed.root.files(), page
    assert json.loads(installed.tool("status", "--json"))["data_plane"] == "tun"


def test_debians_versions_of_everything_pass_the_tests(root: DebianRoot, packages: dict[str, Path]) -> None:
    """The fast ones; without those about the source tree, which take git and make."""
    root.install(packages["ddtb6"])
    root.apt("install", "--no-install-recommends", "python3-pytest", "python3-pytest-xdist", "python3-hypothesis")
    root.bring(packages["ddtb6"].parents[1], CHECKOUT)
    chosen = ("-n2", "-m", "not slow", "tests/unit", "tests/property", "--ignore=tests/unit/test_tree.py")
    said = root.run("env", "-C", CHECKOUT, "pytest-3", "-p", "no:cacheprovider", *chosen)
    assert re.search(r"\b[0-9]{4,} passed", said.replace(",", "")) or "100%" in said, said
    root.apt("purge", "--autoremove", "python3-pytest", "python3-pytest-xdist", "python3-hypothesis")
    root.take_away(CHECKOUT)


def test_the_packages_own_test(root: DebianRoot, packages: dict[str, Path]) -> None:
    """That of debian/tests, as Debian runs it."""
    root.install(packages["ddtb6"])
    root.apt("install", "--no-install-recommends", "autopkgtest")
    root.bring(packages["ddtb6"].parents[1], CHECKOUT)
    root.run("autopkgtest", "--no-built-binaries", CHECKOUT, "--", "null")
    root.apt("purge", "--autoremove", "autopkgtest")
    root.take_away(CHECKOUT)


def test_a_client_comes_and_an_upgrade_does_not_disturb_it(
    installed: Installed, packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    client = installed.net.client
    terminal = Terminal(client, *installed.root.command(*CONNECT.replace("192.0.2.1", BROKER_OUTER).split()))
    terminal.answer("Password of alice: ", PASSWORD)
    wait_until(lambda: ping(client, HOST, wait=1) is not None, "a ping through the tunnel", 30)
    with (installed.root.path / "etc/hosts").open("a") as hosts:
        hosts.write(f"{HOST} {PING.split()[-1]}\n")
    assert " 3 received" in client.run(*installed.root.command(*PING.split()))
    (before,) = installed.sessions()

    newer = build(tmp_path_factory.mktemp("newer"), NEWER)
    installed.root.install(newer["ddtb6"])
    assert installed.root.run("dpkg-query", "-W", "-f", "${Version}", "ddtb6") == NEWER
    assert installed.root.run("grep", "-c", BROKER_OUTER, "/etc/ddtb6/ddtb6.toml") != "0\n"
    assert ping(client, HOST, wait=1) is not None, "with the old daemon still"
    installed.stop()
    installed.start()
    wait_until(lambda: ping(client, HOST, wait=1) is not None, "a ping through the new daemon", 15)
    (after,) = installed.sessions()
    assert after["id"] == before["id"], "nobody had to log in again"
    assert after["counters"]["octets_in"] > before["counters"]["octets_in"]
    terminal.process.terminate()
    assert "Traceback" not in terminal.end()


def test_remove_keeps_what_is_the_administrators_and_purge_leaves_nothing(installed: Installed) -> None:
    root = installed.root
    if installed._daemon is not None:
        installed.stop()
    root.apt("remove", "ddtb6")
    assert {"/etc/ddtb6/ddtb6.toml", "/var/lib/ddtb6"} <= root.files()
    root.apt("purge", "ddtb6")
    root.apt("autoremove", "--purge")
    left = root.files() - root.clean
    assert not {each for each in left if "ddtb6" in each or "utun" in each}
    assert "ddtb6" not in root.run("cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")


# --- not installed ------------------------------------------------------------------------------------------------


def test_a_checkout_shows_itself(tmp_path: Path) -> None:
    """`make run`, its log-in and its page, and `make demo`; with the virtual environment of the tests."""
    place = checkout(tmp_path / "checkout")
    (place / ".venv").symlink_to(ROOT / ".venv")
    assert "nothing lost or changed" in run(*DEMO.split(), cwd=place)
    with Lab() as lab:
        net = internet(lab)
        terminal = Terminal(net.broker, *RUN.split(), cwd=place)
        wait_until((place / "run/control").exists, "the broker", 30)
        tunnel = Connection(net.client, tmp_path, "demo", "demo", "--prefix-length", "56")
        tunnel.start()
        tunnel.wait_up()
        (seen,) = re.findall(r"here, in another terminal: (\S+ .*?)   \(or (\S+)\)", terminal.look())
        status, page = seen
        assert "Up since" in net.broker.run(*status.split(), cwd=place)
        assert "ddtb6" in net.broker.python(f"import urllib.request as r; print(r.urlopen({page!r}).read())")
        tunnel.stop()
        terminal.process.terminate()
