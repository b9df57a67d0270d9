# SPDX-License-Identifier: GPL-2.0-or-later
"""A stranger's first steps: `ddtb6 setup` on a terminal, the commands it prints, a client's ping through the tunnel.

/etc, /run and /var/lib are the test's own, by mounts that only the processes in them see.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from support.capabilities import need_tun
from support.netns import BROKER_OUTER, HOST, Internet, Lab, internet, wait_until
from support.scenario import PROGRAMS, Connection
from support.terminal import Terminal
from support.traffic import ping

pytestmark = pytest.mark.netns

BLOCK = IPv6Network("2001:db8:77::/48")
CHOSEN = {"address": BROKER_OUTER, "block": BLOCK, "prefix-length": 56, "anonymous": "no", "users": "local"}
SCRIPT = """
for each in etc run var/lib; do mount --bind "$0/$each" "/$each"; done
exec "$@"
"""


class Box:
    """A machine of its own, as far as files go, in the namespace of the broker."""

    def __init__(self, net: Internet, directory: Path) -> None:
        self.net = net
        self.root = directory
        for each in ("etc", "run", "var/lib"):
            (directory / each).mkdir(parents=True)
        for each in ("passwd", "group"):
            shutil.copy(f"/etc/{each}", directory / "etc" / each)
        net.broker.run("ip", "-6", "route", "add", "unreachable", str(BLOCK))
        net.broker.run("ip", "route", "add", "default", "via", "192.0.2.2")
        net.broker.sysctl("net/ipv6/conf/all/forwarding", 0)

    def words(self, *command: str) -> list[str]:
        program = str(PROGRAMS / command[0]) if (PROGRAMS / command[0]).exists() else command[0]
        return ["unshare", "--mount", "sh", "-c", SCRIPT, str(self.root), program, *command[1:]]

    def run(self, *command: str, check: bool = True, **options: str) -> str:
        return self.net.broker.run(*self.words(*command), check=check, **options)

    def converse(self, *command: str, answers: list[tuple[str, str]], status: int = 0) -> str:
        """Run it on a terminal; each answer is typed when its question stands there. Returns all that was shown."""
        environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
        terminal = Terminal(self.net.broker, *self.words(*command), env=environment)
        for question, text in answers:
            terminal.answer(question, text)
        return terminal.end(status)

    @property
    def config(self) -> Path:
        return self.root / "etc" / "ddtb6" / "ddtb6.toml"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    need_tun()
    with Lab() as lab:
        yield Box(internet(lab), tmp_path)


def test_from_setup_to_the_first_ping(box: Box, tmp_path: Path) -> None:
    shown = box.converse(
        "ddtb6",
        "setup",
        answers=[
            ("address [192.0.2.1]: ", ""),
            (f"block [{BLOCK}]: ", "2001:db8:77::/47"),
            (f"block [{BLOCK}]: ", ""),
            ("prefix-length [56]: ", ""),
            ("anonymous [no]: ", "yes"),
            ("users [local]: ", ""),
            ("Write this? [yes]: ", ""),
        ],
    )
    assert '"2001:db8:77::/47" is an address; the block that it is in would be 2001:db8:76::/47' in shown
    assert oct(box.config.stat().st_mode & 0o777) == "0o640"
    assert "is fine" in box.run("ddtb6", "check")
    assert "forwarding = 1" in (box.root / "etc/sysctl.d/60-ddtb6.conf").read_text()
    assert box.net.broker.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding") == "1\n"

    start, add, connect = re.findall(r"(?m)^  (\S*(?:twistd|ddtb6) .+)$", shown.partition("\nNext:\n")[2])
    daemon = box.net.broker.spawn(
        *box.words(*shlex.split(start)),
        cwd=box.root,
        stdin=subprocess.DEVNULL,
        stdout=(box.root / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    wait_until(lambda: (box.root / "run/ddtb6/control").exists() or daemon.poll(), "the daemon", 20)
    box.run(*shlex.split(add.replace("NAME", "alice")), "--password-stdin", input="s3cret\n")

    words = shlex.split(connect.replace("NAME", "alice"))
    assert words == ["ddtb6", "connect", "--server", BROKER_OUTER, "--user", "alice", "--prefix-length", "56"]
    tunnel = Connection(box.net.client, tmp_path, "alice", "s3cret", "--prefix-length", "56")
    tunnel.start()
    assert tunnel.wait_up() in IPv6Network("2001:db8:77::/64")
    assert ping(box.net.client, HOST) is not None
    (session,) = json.loads(box.run("ddtb6", "session", "list", "--json"))["sessions"]
    assert IPv6Network(session["prefix"]).subnet_of(IPv6Network("2001:db8:77:8000::/49"))
    guest = Connection(box.net.lan or box.net.nat, tmp_path, None, "", "--no-default-route")
    guest.start()
    assert guest.wait_up() in IPv6Network("2001:db8:77:1::/64")
    for each in (tunnel, guest):
        each.stop()
    assert "fail" not in box.run("ddtb6", "doctor", check=False)


def test_again_with_options_only(box: Box) -> None:
    told = json.loads(box.run("ddtb6", "setup", "--json"))
    assert told["copies"] == []
    assert [each["name"] for each in told["pools"]] == ["links", "homes"]
    assert told["next"][1].endswith("ddtb6 user add NAME")
    assert told["next"][2] == f"ddtb6 connect --server {BROKER_OUTER} --user NAME --prefix-length 56"
    first = box.config.read_text()
    box.run("ddtb6", "setup", "--yes")
    assert box.config.read_text() == first, "the same answers write the same"
    box.config.write_text(first.replace("#mtu = 1280", "mtu = 1400"))
    refused = box.run("ddtb6", "setup", "--yes", "--anonymous", "yes", check=False)
    assert "mtu = 1400" in box.config.read_text(), refused
    told = json.loads(box.run("ddtb6", "setup", "--json", "--replace", "--anonymous", "yes"))
    assert '"local", "anonymous"' in box.config.read_text()
    (copy,) = told["copies"]
    assert "mtu = 1400" in (box.root / copy.lstrip("/")).read_text()


def test_radius_with_a_secret_typed_in(box: Box) -> None:
    answers = [
        ("address [192.0.2.1]: ", ""),
        ("block [", ""),
        ("prefix-length [56]: ", "48"),
        ("prefix-length [56]: ", "60"),
        ("anonymous [no]: ", ""),
        ("radius-secret-file [/etc/ddtb6/radius.secret]: ", ""),
        ("Write this? [yes]: ", "yes"),
        ("to be kept in /etc/ddtb6/radius.secret: ", "a secret of some length"),
    ]
    shown = box.converse("ddtb6", "setup", "--users", "radius", "--radius-server", "192.0.2.2", answers=answers)
    assert "2001:db8:77::/48 has no room for addresses and for prefixes of /48" in shown
    secret = box.config.with_name("radius.secret")
    assert (secret.read_text(), oct(secret.stat().st_mode & 0o777)) == ("a secret of some length\n", "0o640")
    assert "a secret of some length" not in shown
    assert "radius test NAME" in shown
    assert json.loads(box.run("ddtb6", "check", "--json"))["fine"]


def test_no_is_no(box: Box) -> None:
    answers = [("Write this? [yes]: ", "no")]
    options = [f"--{name}={value}" for name, value in CHOSEN.items()]
    shown = box.converse("ddtb6", "setup", *options, answers=answers, status=1)
    assert shown.endswith("Nothing was written.\n")
    assert not box.config.parent.exists()
