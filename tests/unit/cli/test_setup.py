# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 setup` without a machine: what it finds in /proc, what it asks, what it writes and what it leaves alone."""

from __future__ import annotations

import builtins
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from ddtb6.cli import setup
from ddtb6.cli.main import Failure, main
from ddtb6.cli.plan import Answers, File, Machine
from ddtb6.cli.questions import QUESTIONS, find_out
from ddtb6.config.sample import sample

ZERO = "0" * 32
BLOCK = "20010db8007700000000000000000000"
LINK = "20010db8000f00000000000000000001"
ROUTES = f"""\
{BLOCK} 30 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
{ZERO} 00 {ZERO} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
"""
NOTHING: dict[str, str | None] = {question.key: None for question in QUESTIONS}
MACHINE = Machine(outer=("203.0.113.5", "10.0.0.1"), routed=(IPv6Network("2001:db8:77::/48"),))


def test_what_is_found(tmp_path: Path) -> None:
    net = tmp_path / "proc" / "net"
    net.mkdir(parents=True)
    (net / "ipv6_route").write_text(ROUTES)
    (net / "if_inet6").write_text(f"{LINK} 02 40 00 80 eth0\n{LINK} 03 80 00 80 ddtb6\n")
    found = setup.look(tmp_path / "none.toml", tmp_path)
    assert found.routed == (IPv6Network("2001:db8:77::/48"),)
    assert (found.uplink, found.advertised) == ("eth0", True)
    assert found.on_link == ((IPv6Network("2001:db8:f::/64"), "eth0"),)
    (tmp_path / "own.toml").write_text(
        '[dataplane]\ndevice = "eth0"\n[pool.a]\nblock = "2001:db8::/64"\nuse = "accounts"\n'
    )
    assert setup.look(tmp_path / "own.toml", tmp_path).on_link == ((IPv6Network("2001:db8:f::1/128"), "ddtb6"),)


def test_what_is_proposed_is_taken() -> None:
    answers, pools = find_out(NOTHING, MACHINE, asks=False)
    assert answers == Answers("203.0.113.5", IPv6Network("2001:db8:77::/48"), 56)
    assert [each.name for each in pools] == ["links", "homes"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"block": "2001:db8/48"}, "--block: .* is not an IPv6 block"),
        ({"block": "2001:db8::1/48"}, "--block: .* is an address; the block that it is in would be 2001:db8::/48"),
        ({"block": "fe80::/48"}, "--block: .* is nothing that could be routed"),
        ({"block": "ff02::/48"}, "--block: .* is nothing that could be routed"),
        ({"outer": "0.0.0.0"}, "--address: .* is no address that clients could send to"),
        ({"outer": "224.0.0.1"}, "--address: .* is no address that clients could send to"),
        ({"block": "2001:db8::"}, "--block: .* needs a length"),
        ({"block": "2000::/3"}, "16 to"),
        ({"outer": "broker.example"}, "--address: .* is not an IPv4 address"),
        ({"length": "57"}, "--prefix-length: 57 is not one of"),
        ({"length": "long"}, "--prefix-length: .* is not a length"),
        ({"anonymous": "perhaps"}, "--anonymous: answer yes or no"),
        ({"users": "nobody"}, "--users: answer local, radius or both"),
        ({"users": "radius"}, "--radius-server is needed: address of the RADIUS server"),
        ({"users": "radius", "radius_server": "aaa.example"}, "names are not looked up"),
        ({"users": "both", "radius_server": "::1", "radius_secret_file": "secret"}, "begins with /"),
    ],
)
def test_a_wrong_option_is_told_in_a_sentence(given: dict[str, str], why: str) -> None:
    with pytest.raises(Failure, match=why):
        find_out({**NOTHING, **given}, MACHINE, asks=False)


def test_without_a_block_there_is_no_plan() -> None:
    with pytest.raises(Failure, match="--block is needed: IPv6 block that is routed"):
        find_out(NOTHING, Machine(outer=("203.0.113.5",)), asks=False)


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong answers are asked for again, empty ones are the proposal, options are not asked for."""
    replies = iter(["", "nonsense", "2001:db8:88::/56", "", "what", "Yes", "both", "192.0.2.10", "/srv/secret"])
    prompts: list[str] = []

    def reply(prompt: str) -> str:
        prompts.append(prompt)
        return next(replies)

    monkeypatch.setattr(builtins, "input", reply)
    answers, _ = find_out(NOTHING, MACHINE, asks=True)
    block = IPv6Network("2001:db8:88::/56")
    assert answers == Answers("203.0.113.5", block, 64, True, "both", "192.0.2.10", Path("/srv/secret"))
    assert prompts[:3] == ["  address [203.0.113.5]: ", "  block [2001:db8:77::/48]: ", "  block [2001:db8:77::/48]: "]
    said = capsys.readouterr().out
    for question in QUESTIONS:
        assert f"{question.text[1:]}." in said
    assert '"nonsense" is not an IPv6 block' in said
    assert next(replies, None) is None


def test_only_what_somebody_edited_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "ddtb6.toml"
    file = File(path, "chain = 1\n", 0o640, True)
    assert setup._write(file) is None
    assert (path.read_text(), path.stat().st_mode & 0o777) == (file.text, 0o640)
    for harmless in (file.text, sample(), "# nothing\n\n"):
        path.write_text(harmless)
        assert setup._write(file) is None
    path.write_text("edited = true\n")
    copy = setup._write(file)
    assert copy is not None
    assert (copy.read_text(), path.read_text()) == ("edited = true\n", file.text)
    path.write_text("edited again = true\n")
    second = setup._write(file)
    assert second is not None, "within the same second"
    assert second.read_text() == "edited again = true\n"
    assert sorted(each.name for each in path.parent.iterdir()) == sorted([path.name, copy.name, second.name])


def test_without_a_terminal_nothing_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(tmp_path / "x.toml"), "setup"]) == 1
    assert "use --yes" in capsys.readouterr().err
