# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tunnel a request gets, over what it came and through what, and between which ends."""

from __future__ import annotations

from itertools import product

import pytest

from ddtb6.addressing.endpoint import Carrier, Encapsulation, Endpoint, Link, ends, resolve

V6V4, UDP, ANY, V4V6 = (Encapsulation(each) for each in ("v6v4", "v6udpv4", "v6anyv4", "v4v6"))
LOCAL, REMOTE = Endpoint("192.0.2.1", 3653), Endpoint("198.51.100.7", 40000)
SIX = Link(Carrier.UDP, Endpoint("2001:db8::1", 3653), Endpoint("2001:db8::2", 40000))
KERNEL, USER_SPACE = frozenset({V6V4, UDP}), frozenset({UDP})


@pytest.mark.parametrize(
    ("wanted", "carrier", "nat", "in_kernel", "in_user_space"),
    [
        (UDP, Carrier.UDP, False, UDP, UDP),
        (UDP, Carrier.UDP, True, UDP, UDP),
        (UDP, Carrier.TCP, False, None, None),
        (ANY, Carrier.UDP, False, UDP, UDP),
        (ANY, Carrier.UDP, True, UDP, UDP),
        (ANY, Carrier.TCP, False, V6V4, None),
        (ANY, Carrier.TCP, True, None, None),
        (V6V4, Carrier.UDP, False, V6V4, None),
        (V6V4, Carrier.TCP, False, V6V4, None),
        (V6V4, Carrier.UDP, True, None, None),
        (V6V4, Carrier.TCP, True, None, None),
        (V4V6, Carrier.UDP, False, None, None),
    ],
)
def test_what_a_request_gets(
    wanted: Encapsulation,
    carrier: Carrier,
    nat: bool,
    in_kernel: Encapsulation | None,
    in_user_space: Encapsulation | None,
) -> None:
    link = Link(carrier, LOCAL, REMOTE)
    assert resolve(wanted, link, KERNEL, nat=nat) is in_kernel
    assert resolve(wanted, link, USER_SPACE, nat=nat) is in_user_space


def test_over_ipv6_there_is_no_tunnel_of_ipv6() -> None:
    for wanted, nat in product(Encapsulation, (False, True)):
        assert resolve(wanted, SIX, KERNEL, nat=nat) is None


def test_protocol_41_has_no_ports() -> None:
    link = Link(Carrier.TCP, LOCAL, REMOTE)
    assert ends(V6V4, link) == (Endpoint("192.0.2.1", 0), Endpoint("198.51.100.7", 0))
    assert ends(UDP, link) == (LOCAL, REMOTE)
