# SPDX-License-Identifier: GPL-2.0-or-later
"""Addressing plans: whatever the block, pools that the configuration takes, and nobody's network in them."""

from __future__ import annotations

import itertools
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.addressing.pool import DELEGATED_LENGTHS, Use
from ddtb6.cli import plan
from ddtb6.cli.plan import SYSCTL_FILE, Answers, Machine, PlanError, carve, files, proposed_length, settings
from ddtb6.config import parse

CONFIG = Path("/etc/ddtb6/ddtb6.toml")


def block(text: str) -> IPv6Network:
    return IPv6Network(text)


def carved(text: str, length: int | None = None, *, anonymous: bool = False, taken: tuple[str, ...] = ()) -> list[str]:
    whole = block(text)
    length = proposed_length(whole) if length is None else length
    pools = carve(whole, length, anonymous=anonymous, taken=map(IPv6Network, taken))
    return [f"{each.name} {each.block} /{each.length}" for each in pools]


def test_usual_blocks() -> None:
    assert carved("2001:db8::/32") == ["links 2001:db8::/64 /128", "homes 2001:db8:8000::/33 /56"]
    assert carved("2001:db8::/48", anonymous=True) == [
        "links 2001:db8::/64 /128",
        "guests 2001:db8:0:1::/64 /128",
        "homes 2001:db8:0:8000::/49 /56",
    ]
    assert carved("2001:db8::/56") == ["links 2001:db8::/64 /128", "homes 2001:db8:0:80::/57 /64"]
    assert carved("2001:db8::/63") == ["links 2001:db8::/64 /128", "homes 2001:db8:0:1::/64 /64"]
    assert carved("2001:db8::/64") == ["links 2001:db8::/64 /128"]
    assert carved("2001:db8::/64", anonymous=True) == [
        "links 2001:db8::/65 /128",
        "guests 2001:db8:0:0:8000::/65 /128",
    ]


def test_networks_of_the_machine_are_left_alone() -> None:
    assert carved("2001:db8::/48", taken=("2001:db8::/64", "2001:db8:0:ffff::/64")) == [
        "links 2001:db8:0:1::/64 /128",
        "homes 2001:db8:0:8000::/50 /56",
    ]


@pytest.mark.parametrize(
    ("text", "length", "anonymous", "taken", "why"),
    [
        ("2001:db8:1::/64", 0, False, ("2001:db8:1::/64",), "ask your provider"),
        ("2001:db8::/48", 57, False, (), "57 is not one of 48, 52, 56, 60, 64"),
        ("2001:db8::/48", 48, False, (), "choose longer ones"),
        ("2001:db8::/63", 64, True, (), "no room for prefixes of /64"),
        ("2001:db8::/124", 0, True, (), "too small"),
        ("2001:db8::/63", 0, False, ("2001:db8::/64", "2001:db8:0:1::/64"), "no /64 left for links"),
    ],
)
def test_what_cannot_be_is_said(text: str, length: int, anonymous: bool, taken: tuple[str, ...], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        carved(text, length, anonymous=anonymous, taken=taken)


@st.composite
def subnets(draw: st.DrawFn, within: IPv6Network) -> IPv6Network:
    length = draw(st.integers(within.prefixlen + 1, 128))
    index = draw(st.integers(0, (1 << (length - within.prefixlen)) - 1))
    return IPv6Network((int(within.network_address) + (index << (128 - length)), length))


@given(st.data(), st.integers(16, plan.SMALLEST), st.booleans())
def test_whatever_the_block_and_the_machine(data: st.DataObject, size: int, anonymous: bool) -> None:
    whole = IPv6Network((int(IPv6Address("2001:db8::")) >> (128 - size) << (128 - size), size))
    taken = data.draw(st.lists(subnets(whole), max_size=4))
    length = data.draw(st.sampled_from([proposed_length(whole), 0, *DELEGATED_LENGTHS]))
    answers = Answers("192.0.2.1", whole, length, anonymous)
    try:
        pools = carve(whole, length, anonymous=anonymous, taken=taken)
    except PlanError:
        return
    for left, right in itertools.combinations([*(each.block for each in pools)], 2):
        assert not left.overlaps(right)
    assert all(each.block.subnet_of(whole) for each in pools)
    assert not any(each.block.overlaps(other) for each in pools for other in taken)
    assert {each.use for each in pools} == {
        Use.ACCOUNTS, *([Use.ANONYMOUS] if anonymous else []), *([Use.PREFIXES] if length else [])
    }  # fmt: skip
    config = parse(files(answers, Machine(), pools, CONFIG)[0].text)
    assert {name: (pool.block, pool.use, pool.length) for name, pool in config.pools.items()} == {
        each.name: (each.block, each.use, each.length) for each in pools
    }


@pytest.mark.parametrize(
    ("users", "anonymous", "chain"),
    [
        ("local", False, ("local",)),
        ("local", True, ("local", "anonymous")),
        ("radius", False, ("radius",)),
        ("both", True, ("local", "radius", "anonymous")),
    ],
)
def test_accounts(users: str, anonymous: bool, chain: tuple[str, ...]) -> None:
    secret = Path("/etc/ddtb6/radius.secret")
    server = ("", None) if users == "local" else ("192.0.2.10", secret)
    answers = Answers("192.0.2.1", block("2001:db8::/48"), 56, anonymous, users, *server)
    pools = carve(answers.block, 56, anonymous=anonymous)
    config, _ = files(answers, Machine(), pools, CONFIG)
    assert (config.path, oct(config.mode), config.shared) == (CONFIG, "0o640", True)
    read = parse(config.text)
    assert read.auth.chain == chain
    assert [each.secret_file for each in read.radius_servers.values()] == ([] if users == "local" else [secret])


def test_a_machine_that_lives_on_advertisements_goes_on_to_listen_to_them() -> None:
    machine = Machine(uplink="eth0.7", advertised=True)
    assert settings(machine) == [("net/ipv6/conf/eth0.7/accept_ra", "2"), ("net/ipv6/conf/all/forwarding", "1")]
    _, sysctl = files(Answers("192.0.2.1", block("2001:db8::/64"), 0), machine, [], CONFIG)
    assert sysctl.path == SYSCTL_FILE
    assert [line for line in sysctl.text.splitlines() if not line.startswith("#")] == [
        "net/ipv6/conf/eth0.7/accept_ra = 2",
        "net/ipv6/conf/all/forwarding = 1",
    ]
    assert settings(Machine(uplink="eth0")) == [("net/ipv6/conf/all/forwarding", "1")]
