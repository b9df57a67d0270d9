# SPDX-License-Identifier: GPL-2.0-or-later
"""The texts and entries that the back ends make of rules, what they read back, and how they fail without a kernel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.firewall import iptables, nft
from ddtb6.firewall.rules import FirewallError, Found, Limit, Plan, rules_of

PLAN = Plan(device="ddtb6", mtu=1280, udp_ports=(3653, 3654), tcp_ports=(3653,), rate=50)
PORTS = st.lists(st.integers(1, 65535), max_size=10).map(tuple)
PLANS = st.builds(
    Plan,
    device=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True),
    mtu=st.integers(1280, 65535),
    udp_ports=PORTS,
    tcp_ports=PORTS,
    rate=st.integers(0, 100_000),
)


def test_the_script_replaces_the_table_and_never_counts_tunnelled_packets() -> None:
    lines = [line.strip() for line in nft.script(PLAN).splitlines()]
    assert lines[:3] == ["add table inet ddtb6", "delete table inet ddtb6", "table inet ddtb6 {"]
    assert (
        "meta nfproto ipv6 udp dport { 3653, 3654 } @th,64,4 != 6 fib daddr type local "
        "update @sources6 { ip6 saddr & ffff:ffff:ffff:ffff:: limit rate over 50/second burst 500 packets } "
        'counter drop comment "ddtb6: UDP signalling over 50/s from one source dropped"'
    ) in lines
    assert (
        'meta nfproto ipv6 iifname "ddtb6" tcp flags & (syn | rst) == syn tcp option maxseg size set 1220 '
        'comment "ddtb6: TCP MSS out of ddtb6 clamped to 1220"'
    ) in lines


@given(PLANS)
def test_what_the_script_carries_is_found_in_a_listing(plan: Plan) -> None:
    text = nft.script(plan)
    labels = {rule.label for rule in rules_of(plan)}
    assert {each.label for each in nft.found_in(text)} == labels
    assert text.count("{") == text.count("}")
    assert text.count('"') == 2 * text.count("comment") + 4  # the device is named twice


def test_a_listing_is_read_with_its_counters() -> None:
    listing = """
table inet ddtb60 {
\tchain prerouting {
\t\tudp dport 1 notrack comment "ddtb6: of another table"
\t}
}
table inet ddtb6 {
\tset sources4 {
\t\ttype ipv4_addr
\t\tsize 65536
\t}
\tchain prerouting {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tudp dport 1 update @sources4 { ip saddr } counter packets 17 bytes 900 drop comment "ddtb6: a"
\t\tudp dport 1 fib daddr type local notrack comment "ddtb6: b"
\t\tudp dport 1 accept comment "somebody's"
\t}
}
table inet somebody {
\tchain prerouting {
\t\tudp dport 1 notrack comment "ddtb6: of another table"
\t}
}
"""
    assert nft.found_in(listing) == [Found("ddtb6: a", 17), Found("ddtb6: b")]


def nft_that(directory: Path, does: str) -> nft.NftFirewall:
    program = directory / "nft"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    return nft.NftFirewall(str(program))


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("echo 'Error: Could not process rule: Operation not permitted' >&2; exit 1", "CAP_NET_ADMIN"),
        ("echo '/dev/stdin:4:1-2: Error: Could not process rule: Not supported' >&2; exit 1", "backend to iptables"),
        ("exit 1", "no reason given"),
        ("cat >/dev/null; exit 0", "on reading back it lacks"),
    ],
)
def test_every_way_in_which_nft_fails_is_a_sentence_with_a_remedy(tmp_path: Path, does: str, said: str) -> None:
    with pytest.raises(FirewallError, match=said):
        nft_that(tmp_path, does).apply(PLAN)


def test_an_nft_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "_PATIENCE", 0.1)
    with pytest.raises(FirewallError, match="did not end"):
        nft_that(tmp_path, "exec sleep 60").remove()


def test_an_nft_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FirewallError, match="install nftables"):
        nft.NftFirewall(str(tmp_path / "nft")).status()


def test_every_hashlimit_has_an_expiry_and_a_name_that_changes_with_the_rate() -> None:
    names = set()
    for rate in (1, 50, 100_000):
        for protocol in ("udp", "tcp"):
            for entry in iptables.entries_of(Limit(protocol, (3653,), rate)):
                hashlimit = dict(entry.matches)["hashlimit"]
                assert hashlimit["hashlimit-htable-expire"] == "10000"
                names.add(hashlimit["hashlimit-name"])
    assert names == {"ddtb6-1", "ddtb6-50", "ddtb6-100000"}


def u32(expression: str, packet: bytes) -> bool:
    """xt_u32, for the operators in use."""
    for test in expression.split("&&"):
        location, ranges = test.split("=")
        words = re.split(r"(>>|&|@)", location)
        base, at = 0, int(words[0])
        if len(packet) < at + 4:
            return False
        value = int.from_bytes(packet[at : at + 4], "big")
        for operator, number in zip(words[1::2], words[2::2], strict=True):
            argument = int(number, 0)
            if operator == ">>":
                value >>= argument
            elif operator == "&":
                value &= argument
            else:
                base += value
                if len(packet) < base + argument + 4:
                    return False
                value = int.from_bytes(packet[base + argument : base + argument + 4], "big")
        bounds = [[int(bound, 0) for bound in each.split(":")] for each in ranges.split(",")]
        if not any(bound[0] <= value <= bound[-1] for bound in bounds):
            return False
    return True


@given(st.binary(min_size=1, max_size=12), st.integers(5, 15), st.binary(min_size=8, max_size=8))
def test_the_u32_match_is_true_of_all_but_tunnelled_packets(payload: bytes, words: int, udp: bytes) -> None:
    ipv4 = bytes([0x40 | words]) + bytes(words * 4 - 1) + udp + payload
    ipv6 = b"\x60" + bytes(5) + b"\x11" + b"\x40" + bytes(32) + udp + payload
    signalling = payload[0] >> 4 != 6
    for family, packet in ((4, ipv4), (6, ipv6)):
        limit = iptables.entries_of(Limit("udp", (3653,), 50))[family == 6]
        assert limit.family == family
        assert u32(str(dict(limit.matches)["u32"]["u32"]), packet) is signalling


@given(PLANS)
def test_each_rule_stands_in_the_tables_of_the_families_it_concerns(plan: Plan) -> None:
    for rule in rules_of(plan):
        entries = iptables.entries_of(rule)
        assert {entry.label for entry in entries} == {rule.label}
        assert {(entry.table, entry.family) for entry in entries} in ({("mangle", 6)}, {("raw", 4), ("raw", 6)})


class BrokenLibrary:
    """A library that raises `error` when it is imported."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, _name: str) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("No module named 'iptc'"), "python3-iptables"),
        (OSError("libip4tc.so: cannot open shared object file"), "install iptables"),
        (RuntimeError("can't find directory with extensions"), "install iptables"),
    ],
)
def test_a_library_that_cannot_be_imported_is_a_sentence_with_a_remedy(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iptables.importlib, "import_module", BrokenLibrary(error))
    with pytest.raises(FirewallError, match=said):
        iptables.load()
