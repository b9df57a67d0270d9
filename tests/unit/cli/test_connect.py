# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of the client: what becomes of it, and where the password comes from."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from ddtb6.addressing.endpoint import Carrier, Encapsulation
from ddtb6.cli import connect
from ddtb6.cli.main import main
from ddtb6.client.options import Action, ClientOptions, Event, Exit


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    connect.configure(parser)
    return parser.parse_args(words)


def options(*words: str) -> ClientOptions:
    return connect.options_of(parsed(*words))


def test_the_shortest_line() -> None:
    assert options("--server", "broker.example", "--user", "alice") == ClientOptions(
        server="broker.example", host="broker.example", port=3653, user="alice"
    )


def test_the_longest_line() -> None:
    words = (
        "--server 192.0.2.1:3654 --user alice --auth plain --prefix-length 56 --lan eth1 --device tun6"
        " --no-default-route --metric 100 --type v6anyv4 --keepalive 0 --tcp --once --allow-plain --info"
    )
    assert options(*words.split()) == ClientOptions(
        server="192.0.2.1:3654",
        host="192.0.2.1",
        port=3654,
        user="alice",
        action=Action.INFO,
        encapsulation=Encapsulation.V6ANYV4,
        prefix_length=56,
        device="tun6",
        lan="eth1",
        mechanism="PLAIN",
        allow_plain=True,
        carriers=(Carrier.TCP,),
        keepalive=0,
        default_route=False,
        metric=100,
        once=True,
    )


def test_without_a_user_it_is_anonymous() -> None:
    assert options("--server", "b").user is None


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--server",
        "--server [2001:db8::1]:3653",
        "--server 2001:db8::1",
        "--server 192.0.2.256",
        "--server 1.2.3",
        "--server b:0",
        "--server b:65536",
        "--server b: --user a",
        "--server a/b",
        "--server b --prefix-length 129",
        "--server b --prefix-length x",
        "--server b --device a/b",
        "--server b --device sixteen_letters_",
        "--server b --auth CRAM-MD5",
        "--server b --info --delete",
        "--server b --user a --password-stdin --password-file x",
        "--server b --user a --password x",
        "--server b --keepalive -1",
        "--server b --user a --auth ANONYMOUS",
        "--server b --auth PLAIN",
        "--server b --lan eth1",
    ],
)
def test_lines_that_make_no_sense(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", *words.split()]) == Exit.USAGE
    assert capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 254, "\udcff"])
def test_user_names_that_cannot_be(name: str) -> None:
    assert main(["connect", "--server", "b", "--user", name]) == Exit.USAGE


def password(monkeypatch: pytest.MonkeyPatch, *words: str, stdin: str = "", variable: str | None = None) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    if variable is None:
        monkeypatch.delenv(connect.PASSWORD_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(connect.PASSWORD_VARIABLE, variable)
    return connect._password(parsed("--server", "b", "--user", "alice", *words))


def test_the_password_comes_from_where_it_was_put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" s3 cret \r\nsecond line\n")
    assert password(monkeypatch, "--password-file", str(file), variable="other") == " s3 cret "
    assert password(monkeypatch, "--password-stdin", stdin="pässword\n", variable="other") == "pässword"
    assert password(monkeypatch, variable="from the environment") == "from the environment"


def test_a_password_that_is_nowhere_or_none_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.delenv(connect.PASSWORD_VARIABLE, raising=False)
    long, binary = tmp_path / "long", tmp_path / "binary"
    long.write_text("x" * 129)
    binary.write_bytes(b"\xff\xfe")
    for words in (
        [],
        ["--password-stdin"],
        ["--password-file", str(tmp_path / "missing")],
        ["--password-file", str(long)],
        ["--password-file", str(binary)],
    ):
        assert main(["connect", "--server", "b", "--user", "alice", *words]) == Exit.USAGE
        assert "password" in capsys.readouterr().err


def test_events_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    event = Event("up", "tunnel is up\n  next: \x1b[2Jping", {"address": "2001:db8::2", "prefix": None})
    connect._as_text(event)
    connect._as_json(event)
    text, following, line = capsys.readouterr().out.splitlines()
    assert (text, following) == ("tunnel is up", "  next: \\x1b[2Jping")
    assert json.loads(line) == {"event": "up", "address": "2001:db8::2", "prefix": None}
