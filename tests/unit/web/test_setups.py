# SPDX-License-Identifier: GPL-2.0-or-later
"""Client set-ups: quoted as each reader asks, the same in docs/clients.md, taken by the programs that read them."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import stat
import subprocess
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.capabilities import need_program

from ddtb6.cli import connect
from ddtb6.web.explained import STATUS
from ddtb6.web.setups import EXAMPLE, Setup, Values, setups

DOCS = Path(__file__).parents[3] / "docs" / "clients.md"
NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), min_size=1, max_size=20).filter(str.isprintable)
AWKWARD = "ISP\\dora $HOME '\"%u é"


def made(id: str, values: Values = EXAMPLE) -> Setup:
    (found,) = (each for each in setups(values) if each.id == id)
    return found


def options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    connect.configure(parser)
    return parser.parse_args(words)


def exec_start(line: str) -> list[str]:
    """The words of ExecStart, as systemd.service(5) splits and unquotes them, without variables."""
    words = re.findall(r'(?:[^\s"\\]|\\.|"(?:[^"\\]|\\.)*")+', line)
    plain = [re.sub(r'\\(.)|"', lambda found: found[1] or "", word) for word in words]
    return [word.replace("%%", "%").replace("$$", "$") for word in plain]


def test_the_guide_has_them_word_for_word() -> None:
    text = DOCS.read_text()
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```$", text)
    for each in setups(EXAMPLE):
        assert each.text in blocks, each.id
        if each.place.startswith("/"):
            assert f"`{each.place}`" in text, each.id
    for code, meaning in STATUS.items():
        assert re.search(rf"(?m)^\| [^|]*\b{code}\b[^|]*\| {re.escape(meaning)} \|$", text), code


def test_no_password_and_what_fits_only() -> None:
    assert [each.id for each in setups(EXAMPLE)] == [
        "connect", "unit", "gogoc", "networkd", "netplan", "radvd", "openwrt",
    ]  # fmt: skip
    assert [each.id for each in setups(Values("b", "alice"))] == ["connect", "unit", "gogoc"]
    assert "prefix" not in "".join(each.text for each in setups(Values("b", "alice")))
    for name in ("", "two\nlines", "\x7f", "\u2028", "a\ud800"):
        assert setups(Values("b", name)) == ()


@given(NAMES)
def test_ddtb6_connect_reads_the_command_as_meant(name: str) -> None:
    values = Values("192.0.2.1:3654", name, None, 56)
    words = shlex.split(made("connect", values).text)
    assert words[:3] == ["sudo", "ddtb6", "connect"]
    line = next(each for each in made("unit", values).text.splitlines() if each.startswith("ExecStart="))
    in_unit = exec_start(line.removeprefix("ExecStart="))
    assert in_unit[:2] == ["/usr/bin/ddtb6", "connect"]
    assert in_unit[2:-2] == words[3:]
    read = options(in_unit[2:])
    assert connect.options_of(read).user == name
    assert (read.prefix_length, str(read.password_file)) == (56, "/etc/ddtb6-connect.password")


@given(NAMES)
def test_gogoc_conf_is_a_key_and_a_value_a_line(name: str) -> None:
    lines = made("gogoc", Values("b", name, None, 56)).text.splitlines()
    read = dict(line.split("=", 1) for line in lines)
    assert len(read) == len(lines)
    assert set(read) <= GOGOC_KEYS
    assert (read["userid"], read["passwd"], read["prefixlen"]) == (name, "PASSWORD", "56")


GOGOC_KEYS = {
    "userid", "passwd", "server", "auth_method", "tunnel_mode", "host_type", "prefixlen", "if_prefix", "keepalive",
    "keepalive_interval",
}  # fmt: skip
"""Of those that the sample configuration of gogoCLIENT 1.2 has."""


def test_a_shell_hands_uci_what_is_meant(tmp_path: Path) -> None:
    for name in ("uci", "reload_config"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\nprintf "%s|" "${0##*/}" "$@"; echo\n')
        program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-eu"], input=made("openwrt").text, capture_output=True, text=True, env={"PATH": path}, check=True
    )
    assert done.stdout.splitlines()[0] == "uci|set|network.lan.ip6addr=2001:db8:1000::1/64|"
    assert "uci|add_list|firewall.@zone[1].device=tsp0|" in done.stdout
    assert done.stderr == ""


# --- the programs themselves --------------------------------------------------------------------------------------


@pytest.mark.interop
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = need_program("interop", "systemd-analyze")
    unit = tmp_path / "ddtb6-connect.service"
    text = made("unit", Values("broker.example.net", AWKWARD, None, 56)).text
    program = tmp_path / "ddtb6"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit.write_text(text.replace("/usr/bin/ddtb6", str(program)))
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if "ddtb6-connect" in line]
    assert (done.returncode, about) == (0, []), done.stderr


@pytest.mark.interop
def test_netplan_makes_of_it_what_is_meant(tmp_path: Path) -> None:
    netplan = need_program("interop", "netplan")
    setup = made("netplan")
    file = tmp_path / setup.place[1:]
    file.parent.mkdir(parents=True)
    file.write_text(setup.text)
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    done = subprocess.run([netplan, "generate", "--root-dir", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (network,) = (tmp_path / "run/systemd/network").glob("*.network")
    assert {"Name=eth1", "Address=2001:db8:1000::1/64", "IPv6AcceptRA=no"} <= set(network.read_text().splitlines())


@pytest.mark.interop
def test_radvd_takes_its_file(tmp_path: Path) -> None:
    radvd = need_program("interop", "radvd")
    file = tmp_path / "radvd.conf"
    file.write_text(made("radvd", Values("b", "alice", IPv6Network("2001:db8:ff::/48"), 48)).text)
    done = subprocess.run([radvd, "--configtest", "-C", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "syntax ok" in done.stderr
