# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 radius test` and `ddtb6 doctor` beside a real FreeRADIUS."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.freeradius import REALM, SECRET, FreeRadius, free_ports

pytestmark = pytest.mark.radius

USERS = """
alice	Cleartext-Password := "wonder land"
	User-Name = "alice@isp.example",
	Delegated-IPv6-Prefix = 2001:db8:1000::/48,
	Session-Timeout = 3600,
	Class = 0x3078343100ff

outside	Cleartext-Password := "wonder land"
	Framed-IPv6-Address = 2001:db8:ffff::9

mallory	Cleartext-Password := "right", Auth-Type := Reject
	Reply-Message := "Your contract\u001b has ended."
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreeRadius]:
    made = FreeRadius(tmp_path_factory.mktemp("freeradius"), USERS)
    made.start()
    yield made
    made.stop()


def configured(directory: Path, *ports: tuple[int, int], secret: str = SECRET, modes: str = '"pap", "digest"') -> Path:
    path = directory / "ddtb6.toml"
    servers = "".join(
        f'[radius.server.s{place}]\naddress = "127.0.0.1"\nsecret = "{secret}"\n'
        f"auth_port = {auth}\nacct_port = {acct}\n"
        for place, (auth, acct) in enumerate(ports)
    )
    path.write_text(
        f'[server]\nrealm = "{REALM}"\nstate = "{directory}"\ncontrol = "{directory}/control"\n'
        f'[auth]\nchain = ["radius"]\n[radius]\nmodes = [{modes}]\ntimeout = 0.1\ntries = 2\npatience = 1\n{servers}'
        '[pool.links]\nblock = "2001:db8:0:1::/64"\nuse = "accounts"\n'
        '[pool.homes]\nblock = "2001:db8:1000::/40"\nuse = "prefixes"\nlength = 48\n'
    )
    return path


def run(config: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "ddtb6", "--config", config, *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def test_a_log_in_in_every_mode(server: FreeRadius, tmp_path: Path) -> None:
    config = configured(tmp_path, (server.auth_port, server.acct_port))
    done = run(config, "radius", "test", "alice", "--password-stdin", stdin="wonder land\n")
    assert done.returncode == 0, done
    pap, digest, granted, *facts = done.stdout.splitlines()
    place = f"s0 (127.0.0.1:{server.auth_port})"
    assert pap.startswith(f"{place}, PLAIN by pap: accepted in ")
    assert digest.startswith(f"{place}, DIGEST-MD5 by digest: accepted in ")
    assert digest.endswith("and it proved itself to the client")
    assert granted == "Granted to alice:"
    said = dict(line.strip().split("  ", 1) for line in facts)
    assert said["prefix"].strip() == "2001:db8:1000::/48"
    assert said["name in accounting"].strip() == "alice@isp.example"
    assert said["ends after"].strip() == "1 h"
    assert "wonder land" not in done.stdout + done.stderr


def test_as_json(server: FreeRadius, tmp_path: Path) -> None:
    config = configured(tmp_path, (server.auth_port, server.acct_port))
    done = run(config, "radius", "test", "alice", "--password-stdin", "--json", stdin="wonder land\n")
    first, second = json.loads(done.stdout)
    assert (first["mode"], second["mode"]) == ("pap", "digest")
    assert first["verdict"] == "accepted"
    assert first["terms"]["account_class"] == ["3078343100ff"]
    assert first["terms"]["prefix"] == "2001:db8:1000::/48"


def test_an_accept_that_no_pool_can_meet(server: FreeRadius, tmp_path: Path) -> None:
    config = configured(tmp_path, (server.auth_port, server.acct_port))
    done = run(config, "radius", "test", "outside", "--password-stdin", stdin="wonder land\n")
    assert done.returncode == 1
    *_, last = done.stdout.splitlines()
    assert last == (
        "The broker would refuse that: the accept names 2001:db8:ffff::9/128, which is in no [pool.NAME] with "
        "use = accounts."
    )
    done = run(config, "radius", "test", "outside", "--password-stdin", "--json", stdin="wonder land\n")
    assert done.returncode == 1
    assert [len(each["unmet"]) for each in json.loads(done.stdout)] == [1, 1]


def test_refused(server: FreeRadius, tmp_path: Path) -> None:
    config = configured(tmp_path, (server.auth_port, server.acct_port), modes='"pap"')
    done = run(config, "radius", "test", "mallory", "--password-stdin", stdin="right\n")
    assert done.returncode == 1
    assert "refused by RADIUS server s0: Your contract has ended." in done.stdout
    wrong = run(config, "radius", "test", "alice", "--password-stdin", stdin="wrong\n")
    assert wrong.returncode == 1
    assert "refused by RADIUS server s0" in wrong.stdout


def test_one_server_is_down(server: FreeRadius, tmp_path: Path) -> None:
    config = configured(tmp_path, tuple(free_ports(2)), (server.auth_port, server.acct_port), modes='"pap"')
    done = run(config, "radius", "test", "alice", "--password-stdin", stdin="wonder land\n")
    assert done.returncode == 0
    assert "s0" in done.stdout.splitlines()[0]
    assert "no answer" in done.stdout.splitlines()[0]
    assert "accepted" in done.stdout.splitlines()[1]


def test_no_server(tmp_path: Path) -> None:
    config = configured(tmp_path)
    config.write_text(config.read_text().replace('"radius"', '"local"'))
    done = run(config, "radius", "test", "alice", "--password-stdin", stdin="x\n")
    assert done.returncode == 1
    assert "names no RADIUS server for log-ins" in done.stderr


def findings(config: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for each in json.loads(run(config, "doctor", "--json").stdout):
        found.setdefault(each["name"], []).append(each)
    return found


def test_doctor_says_who_answers(server: FreeRadius, tmp_path: Path) -> None:
    dead = tuple(free_ports(2))
    found = findings(configured(tmp_path, (server.auth_port, server.acct_port), dead))
    log_ins, accounting = found["radius s0"]
    assert (log_ins["state"], accounting["state"]) == ("ok", "ok")
    assert log_ins["sentence"].startswith(f"127.0.0.1:{server.auth_port} answers for log-ins, after ")
    assert accounting["sentence"].startswith(f"127.0.0.1:{server.acct_port} answers for accounting, after ")
    for each in found["radius s1"]:
        assert each["state"] == "warn"
        assert "does not answer Status-Server" in each["sentence"]
        assert "ddtb6 radius test USER" in each["remedy"]


def test_doctor_and_another_secret(server: FreeRadius, tmp_path: Path) -> None:
    """The server drops what is not signed with its secret, so that silence is all there is."""
    found = findings(configured(tmp_path, (server.auth_port, server.acct_port), secret="another secret of this test"))
    assert {each["state"] for each in found["radius s0"]} == {"warn"}
    assert "another secret" in found["radius s0"][0]["remedy"]
