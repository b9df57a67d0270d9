# SPDX-License-Identifier: GPL-2.0-or-later
"""What a plan may hold, which rules it means, and how what was read back is judged and told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.firewall.rules import Clamp, FirewallError, Found, Limit, Plan, Untrack, compare, describe, rules_of

PLAN = Plan(device="ddtb6", mtu=1280, udp_ports=(3653,), tcp_ports=(3653,), rate=50)


def test_a_full_plan_means_both_clamps_both_limits_and_no_tracking_either_way() -> None:
    assert rules_of(PLAN) == (
        Clamp("ddtb6", into_tunnel=True, mss=None),
        Clamp("ddtb6", into_tunnel=False, mss=1220),
        Limit("udp", (3653,), 50),
        Limit("tcp", (3653,), 50),
        Untrack((3653,), inbound=True),
        Untrack((3653,), inbound=False),
    )


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"rate": 0}, [Clamp, Clamp, Untrack, Untrack]),
        ({"tcp_ports": ()}, [Clamp, Clamp, Limit, Untrack, Untrack]),
        ({"udp_ports": ()}, [Clamp, Clamp, Limit]),
        ({"udp_ports": (), "tcp_ports": ()}, [Clamp, Clamp]),
    ],
)
def test_what_is_not_asked_for_is_left_out(change: dict[str, object], kinds: list[type]) -> None:
    assert [type(rule) for rule in rules_of(replace(PLAN, **change))] == kinds


@pytest.mark.parametrize(
    "change",
    [
        {"device": ""},
        {"device": "a" * 16},
        {"device": 'x" drop'},
        {"device": "tun+"},
        {"device": "tun*"},
        {"device": ".."},
        {"device": "tun0\n"},
        {"device": "-o"},
        {"udp_ports": (0,)},
        {"tcp_ports": (65536,)},
        {"udp_ports": tuple(range(1, 12))},
        {"mtu": 1279},
        {"mtu": 65536},
        {"rate": -1},
        {"rate": 100_001},
    ],
)
def test_what_no_kernel_would_take_is_refused_in_a_sentence(change: dict[str, object]) -> None:
    with pytest.raises(FirewallError, match=r"(use|listen on) .*\.$"):
        replace(PLAN, **change)


def test_a_port_that_is_listened_on_twice_is_one() -> None:
    assert replace(PLAN, udp_ports=(3653, 3653, 99)).udp_ports == (99, 3653)


@given(st.text(max_size=20))
def test_a_device_name_that_is_accepted_holds_nothing_that_a_script_could_read_otherwise(name: str) -> None:
    try:
        Plan(device=name, mtu=1280, udp_ports=(), tcp_ports=(), rate=0)
    except FirewallError:
        return
    assert name.isascii()
    assert 1 <= len(name) <= 15
    assert not set(name) & set(" \t\r\n\"'\\{}()*+;#$@!,/")


def test_labels_tell_the_rules_of_a_plan_apart_and_fit_in_a_comment() -> None:
    ports = tuple(range(65526, 65536))
    labels = [rule.label for rule in rules_of(Plan("a" * 15, 65535, ports, ports, 100_000))]
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= 127  # nft's limit; that of iptables is 255


def test_reading_back_the_same_rules_in_any_order_is_content() -> None:
    compare(["ddtb6: a", "ddtb6: b", "ddtb6: b"], iter(["ddtb6: b", "ddtb6: a", "ddtb6: b"]))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["ddtb6: a"], "lacks 'b'"),
        (["ddtb6: a", "ddtb6: b", "ddtb6: c"], "still has 'c'"),
        (["ddtb6: a", "ddtb6: b", "ddtb6: b"], "still has 'b'"),
    ],
)
def test_reading_back_other_rules_names_the_difference(found: list[str], said: str) -> None:
    with pytest.raises(FirewallError, match=said):
        compare(["ddtb6: a", "ddtb6: b"], found)


def test_the_status_sums_up_per_place_and_says_when_there_is_nothing() -> None:
    found = [Found("ddtb6: x dropped", 2), Found("ddtb6: x dropped", 3), Found("ddtb6: y untracked")]
    assert describe("nft", {"": found}) == "nft: x dropped (5 so far), y untracked."
    assert describe("iptables", {"IPv4": found[2:], "IPv6": found[:1]}) == (
        "iptables: IPv4: y untracked; IPv6: x dropped (2 so far)."
    )
    assert describe("nft", {"": []}) == "nft: no rules of ddtb6 are in the kernel."
