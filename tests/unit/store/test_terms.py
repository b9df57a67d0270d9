# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import json
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.broker.ports import NO_TERMS, Terms
from ddtb6.store import terms

addresses = st.ip_addresses(v=6).map(lambda each: IPv6Address(int(each)))
networks = st.builds(
    lambda address, length: IPv6Network((int(address), length), strict=False), addresses, st.integers(0, 128)
)
seconds = st.floats(0, 1e9)
names = st.text(max_size=8)
any_terms = st.builds(
    Terms,
    address=st.none() | addresses,
    interface_id=st.none() | st.integers(0, 2**64 - 1),
    prefix=st.none() | networks,
    address_pool=st.none() | names,
    prefix_pool=st.none() | names,
    routes=st.lists(networks, max_size=3).map(tuple),
    resolver=st.none() | addresses,
    session_limit=seconds,
    idle_limit=st.none() | seconds,
    interim_interval=st.none() | seconds,
    tunnels=st.none() | st.integers(0, 2**32 - 1),
    account_class=st.lists(st.binary(max_size=253), max_size=3).map(tuple),
    filter_ids=st.lists(names, max_size=3).map(tuple),
    billed_as=st.none() | names,
    by_radius=st.booleans(),
)


@given(any_terms)
def test_what_is_read_is_what_was_written(given_terms: Terms) -> None:
    assert terms.read(terms.write(given_terms)) == given_terms


@pytest.mark.parametrize("nothing", [NO_TERMS, Terms()])
def test_terms_that_leave_all_open_are_no_text(nothing: Terms) -> None:
    assert terms.write(nothing) is None
    assert terms.read(None) is NO_TERMS


def test_zero_is_not_nothing() -> None:
    said = Terms(interface_id=0, idle_limit=0.0, interim_interval=0.0, tunnels=0, billed_as="")
    assert terms.read(terms.write(said)) == said


def test_octets_are_hexadecimal() -> None:
    text = terms.write(Terms(account_class=(b"\x00\xff", b"")))
    assert text is not None
    assert json.loads(text) == {"account_class": ["00ff", ""]}


def test_words_of_a_newer_release_are_passed_over() -> None:
    assert terms.read('{"colour": "blue", "session_limit": 60}') == Terms(session_limit=60.0)
