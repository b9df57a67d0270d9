# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of the doctor: each on a machine, real or in files, that is well and on one that is not."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.ports import StoreError
from ddtb6.cli import doctor, reach
from ddtb6.cli.doctor import State
from ddtb6.cli.main import main
from ddtb6.store.backup import back_up, restore
from ddtb6.store.database import open_writer

POOL = Pool("links", IPv6Network("2001:db8:0:1::/64"), Use.ACCOUNTS, 128)


def machine(root: Path, **files: str) -> Path:
    """A /proc in files; the names with __ for /."""
    for name, text in files.items():
        path = root / "proc" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_python() -> None:
    assert doctor.python((3, 10, 9)).state is State.FAIL
    assert doctor.python((3, 11, 0)).state is State.OK
    assert doctor.python().state is State.OK


def test_libraries() -> None:
    assert [doctor.library(name, floor).state for name, floor in doctor.LIBRARIES.items()] == [State.OK] * 6
    assert "not installed" in doctor.library("no-such-distribution-anywhere", (1,)).sentence
    old = doctor.library("twisted", (9999, 1))
    assert (old.state, old.remedy) == (State.FAIL, "Install 9999.1 or later.")


def test_clock() -> None:
    assert doctor.clock(datetime(1970, 1, 1, tzinfo=UTC)).state is State.FAIL
    assert doctor.clock(datetime(2030, 1, 1, tzinfo=UTC)).state is State.OK


def test_status_page() -> None:
    assert list(doctor.status_page("")) == []
    assert list(doctor.status_page("tcp:port=8653:interface=127.0.0.1")) == []
    for wrong in ("tcp:port=http-alt-nowhere", "tcp:colour=red:port=1", "ssl:1:privateKey=/nowhere", "nonsense:1", "x"):
        (finding,) = doctor.status_page(wrong)
        assert finding.state is State.FAIL, wrong
    for open_to_all in ("tcp:8653", "tcp:port=8653:interface=0.0.0.0", "tcp6:port=8653:interface=\\:\\:"):
        (finding,) = doctor.status_page(open_to_all)
        assert (finding.state, "without TLS" in finding.sentence) == (State.WARN, True), open_to_all
    for closed in ("tcp6:port=8653:interface=\\:\\:1", "tcp:8653:interface=127.0.0.1", "unix:/run/ddtb6/web"):
        assert list(doctor.status_page(closed)) == []


def test_state_directory(tmp_path: Path) -> None:
    assert doctor.state_directory(tmp_path / "missing").remedy.startswith("install -d ")
    (tmp_path / "file").touch()
    assert "not a directory" in doctor.state_directory(tmp_path / "file").sentence
    directory = tmp_path / "state"
    directory.mkdir(mode=0o750)
    assert doctor.state_directory(directory).state is State.OK
    directory.chmod(0o777)
    assert doctor.state_directory(directory).state is State.WARN


def test_database(tmp_path: Path) -> None:
    path = tmp_path / "a b#?.sqlite"
    assert doctor.database(path).state is State.OK
    assert not path.exists()
    open_writer(path).close()
    assert doctor.database(path).state is State.OK
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    assert "newer ddtb6 (schema 999" in doctor.database(path).sentence
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 1")
    assert "not a database of ddtb6" in doctor.database(path).sentence
    path.write_bytes(b"not a database at all " * 100)
    assert "cannot be read" in doctor.database(path).sentence


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may look into, unlike those that pytest gives."""
    with tempfile.TemporaryDirectory(prefix="ddtb6-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def stranger() -> Iterator[None]:
    """Somebody who may not look into what is another's, though root runs the tests."""
    us = os.geteuid()
    if us == 0:
        os.seteuid(65534)
    yield
    os.seteuid(us)


def test_what_nobody_lets_us_see_is_not_missing(place: Path, request: pytest.FixtureRequest) -> None:
    directory = place / "state"
    directory.mkdir()
    path = directory / "ddtb6.sqlite"
    open_writer(path).close()
    directory.chmod(0)
    request.getfixturevalue("stranger")
    for finding in (doctor.state_directory(directory), doctor.database(path)):
        assert (finding.state, "not writable for you" in finding.sentence) == (State.FAIL, True)
        assert finding.remedy.startswith("Run this as root")
    with pytest.raises(StoreError, match="run this as root"):
        back_up(path, place / "copy")
    with pytest.raises(StoreError, match="run this as root"):
        restore(path, place / "copy")


def test_root_is_told_what_the_daemon_may_not(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can have the rights of somebody else")
    config, state, store = place / "ddtb6.toml", place / "state", place / "state/ddtb6.sqlite"
    monkeypatch.setattr(reach, "USER", "nobody")
    monkeypatch.setattr(reach, "DEFAULT_CONFIG", config)
    pool = '[pool.links]\nblock = "2001:db8:0:1::/64"\nuse = "accounts"\n'
    config.write_text(f'[server]\nstate = "{state}"\n{pool}')
    state.mkdir(mode=0o700)
    open_writer(store).close()

    def failing() -> dict[str, str]:
        _, found = doctor.files(config)
        return {each.name: each.remedy for each in found if each.state is State.FAIL}

    config.chmod(0o600)
    assert failing() == {"configuration": "chgrp nobody FILE; chmod g+r FILE"}
    config.chmod(0o644)
    assert failing() == {"state": f"chown -R nobody: {state}", "database": f"chown -R nobody: {store}"}
    os.chown(state, 65534, 65534)
    assert failing() == {"database": f"chown -R nobody: {store}"}
    os.chown(store, 65534, 65534)
    assert failing() == {}
    config.unlink()
    assert failing() == {"configuration": "Run ddtb6 setup, as root."}
    assert os.geteuid() == 0


def test_daemon(tmp_path: Path) -> None:
    running, finding = doctor.daemon(tmp_path / "control")
    assert (running, finding.state) == (False, State.OK)


@pytest.mark.parametrize(("carrier", "kind"), [("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM)])
def test_port(carrier: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        endpoint = Endpoint(*taken.getsockname())
        finding = doctor.port(carrier, kind, endpoint, running=False)
        assert finding.state is State.FAIL
        assert f"sport = :{endpoint.port}" in finding.remedy
        assert doctor.port(carrier, kind, endpoint, running=True).state is State.OK
    assert doctor.port(carrier, kind, endpoint, running=False).sentence == "It is free."
    elsewhere = doctor.port(carrier, kind, Endpoint("192.0.2.1", 3653), running=True)
    assert (elsewhere.state, elsewhere.remedy) == (
        State.FAIL,
        f"Give this machine the address, or change listen.{carrier}.",
    )


@pytest.mark.parametrize(("carrier", "kind"), [("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM)])
def test_a_port_that_systemd_holds_for_the_daemon(tmp_path: Path, carrier: str, kind: socket.SocketKind) -> None:
    """The table of this kernel's sockets is real, process 1 is not."""
    held = tmp_path / "proc" / "1" / "fd"
    held.mkdir(parents=True)
    root = machine(
        tmp_path, **{f"net__{each}": Path("/proc/net", each).read_text() for each in (carrier, f"{carrier}6")}
    )
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("0.0.0.0", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        endpoint = Endpoint(*taken.getsockname())
        machine(root, **{f"net__{carrier}": Path("/proc/net", carrier).read_text()})
        assert doctor.port(carrier, kind, endpoint, running=False, root=root).state is State.FAIL
        (held / "5").symlink_to(f"socket:[{os.fstat(taken.fileno()).st_ino}]")
        (held / "6").symlink_to("/dev/null")
        finding = doctor.port(carrier, kind, endpoint, running=False, root=root)
        assert (finding.state, "systemd holds it" in finding.sentence) == (State.OK, True)


def test_data_plane() -> None:
    assert doctor.data_plane("memory").state is State.OK
    refused = doctor.data_plane("utun")
    assert refused.state is State.FAIL
    assert refused.remedy


def test_firewall() -> None:
    assert doctor.firewall("none").state is State.OK
    assert doctor.firewall("auto").state in (State.OK, State.WARN)


def test_forwarding(tmp_path: Path) -> None:
    assert "no IPv6" in doctor.forwarding(tmp_path).sentence
    root = machine(tmp_path, sys__net__ipv6__conf__all__forwarding="0\n")
    assert doctor.forwarding(root).remedy.startswith("sysctl net.ipv6.conf.all.forwarding=1")
    machine(tmp_path, sys__net__ipv6__conf__all__forwarding="1\n")
    assert doctor.forwarding(root).state is State.OK
    machine(tmp_path, sys__net__ipv6__conf__all__disable_ipv6="1\n")
    assert "turned off" in doctor.forwarding(root).sentence


def test_upstream(tmp_path: Path) -> None:
    nowhere = f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"
    assert doctor.upstream(machine(tmp_path, net__ipv6_route=nowhere)).state is State.WARN
    real = f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00000003     eth0\n"
    assert "leaves by eth0" in doctor.upstream(machine(tmp_path, net__ipv6_route=nowhere + real)).sentence
    assert doctor.upstream(machine(tmp_path, net__ipv6_route="nonsense\n\n")).state is State.WARN


def test_neighbours(tmp_path: Path) -> None:
    ours = "20010db8000000010000000000000001 05 40 00 80    ddtb6\n"
    other = "20010db8000000010000000000000009 02 40 00 80     eth0\n"
    apart = "20010db8000000990000000000000009 02 40 00 80     eth0\n"
    assert list(doctor.neighbours([POOL], "ddtb6", machine(tmp_path, net__if_inet6=ours + apart))) == []
    (finding,) = doctor.neighbours([POOL], "ddtb6", machine(tmp_path, net__if_inet6=ours + other))
    assert finding.state is State.FAIL
    assert "2001:db8:0:1::/64, which is on eth0" in finding.sentence


def test_connection_tracking(tmp_path: Path) -> None:
    def state(largest: str, count: str) -> list[State]:
        folder = "sys__net__netfilter__nf_conntrack_"
        root = machine(tmp_path, **{f"{folder}max": largest, f"{folder}count": count})
        return [each.state for each in doctor.connection_tracking(root)]

    assert list(doctor.connection_tracking(tmp_path / "without")) == []
    assert state("262144", "17") == [State.OK]
    assert state("262144", "260000") == [State.WARN]
    assert state("1024", "1") == [State.WARN]
    assert state("nonsense", "") == []


def test_remedies_go_with_what_is_not_well(tmp_path: Path) -> None:
    """On this machine, whatever it is like."""
    for finding in doctor.examine(Path(__file__).parents[3] / "etc/ddtb6.toml", tmp_path):
        assert bool(finding.remedy) is (finding.state is not State.OK), finding


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ddtb6.toml"
    path.write_text("[server]\nstat = 1\n")
    assert main(["--config", str(path), "doctor"]) == 1
    shown = capsys.readouterr().out
    assert "fail  configuration: server.stat: there is no such key; did you mean state?\n" in shown
    assert "cannot work here" in shown
    os.environ.pop("DDTB6_CONFIG", None)
    assert main(["-c", str(path), "doctor", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert {"name", "state", "sentence", "remedy"} == set(findings[0])
