# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables against a naive model; what single packets meet is in the conformance suite."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.planes import HOST, LOCAL, OWN, POOLS, PREFIXES, ipv6, packed, spec

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.broker.planes import DataPlaneError
from ddtb6.dataplane.peers import Peers
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

SPACE = IPv6Network("2001:db8:8000::/44")
lengths = st.sampled_from((44, 48, 52, 56, 60, 63, 64))


def peers(answers: list[bytes] | None = None, pools=POOLS) -> Peers:
    return Peers(pools, [OWN], [Encapsulation.V6UDPV4], (answers if answers is not None else []).append)


@st.composite
def addresses(draw: st.DrawFn) -> IPv6Address:
    """Few different ones, often close together."""
    high = draw(st.integers(0, 3)) << 76 | draw(st.integers(0, 3)) << 68 | draw(st.integers(0, 3)) << 64
    return IPv6Address(int(SPACE.network_address) + high + draw(st.integers(0, 2)))


networks = st.builds(lambda a, length: IPv6Network((a, length), strict=False), addresses(), lengths)
specs = st.builds(
    lambda number, port, address, prefix, routes: replace(
        spec(number), remote=Endpoint("198.51.100.7", port), address=address, prefix=prefix, routes=tuple(routes)
    ),
    st.integers(1, 6),
    st.integers(1, 5),
    addresses(),
    st.none() | networks,
    st.lists(networks, max_size=3),
)


def held(tunnel: TunnelSpec) -> list[IPv6Network]:
    return [*tunnel.routes, *([] if tunnel.prefix is None else [tunnel.prefix])]


def holds(tunnel: TunnelSpec, address: IPv6Address) -> bool:
    return address == tunnel.address or any(address in each for each in held(tunnel))


def clash(one: TunnelSpec, other: TunnelSpec) -> bool:
    if one.remote == other.remote or holds(one, other.address) or holds(other, one.address):
        return True
    return any(mine.overlaps(its) for mine in held(one) for its in held(other))


class TablesAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.peers = peers()
        self.model: dict[TunnelId, TunnelSpec] = {}

    @rule(wanted=specs)
    def put(self, wanted: TunnelSpec) -> None:
        others = [each for each in self.model.values() if each.id != wanted.id]
        if any(clash(wanted, each) for each in others):
            with pytest.raises(DataPlaneError):
                self.peers.put(wanted)
        else:
            self.peers.put(wanted)
            self.model[wanted.id] = wanted

    @rule(number=st.integers(1, 6))
    def take(self, number: int) -> None:
        gone = self.model.pop(TunnelId(number), None)
        assert self.peers.take(TunnelId(number)) == (None if gone is None else Counters())

    @rule(address=addresses())
    def find(self, address: IPv6Address) -> None:
        holder = next((each for each in self.model.values() if holds(each, address)), None)
        found = self.peers.outward(ipv6(HOST, address), 0.0)
        assert (None if found is None else found.spec) == holder

    @rule(address=addresses(), port=st.integers(1, 5))
    def send(self, address: IPv6Address, port: int) -> None:
        remote = Endpoint("198.51.100.7", port)
        sender = next((each for each in self.model.values() if each.remote == remote), None)
        before = self.peers.dump(None)
        carried = self.peers.inward(ipv6(address, HOST), LOCAL, remote, 0.0)
        assert (carried is not None) == (sender is not None and holds(sender, address))
        if carried is None and sender is not None:
            assert sum(len(each.counters.refused) for each in before) <= sum(
                len(each.counters.refused) for each in self.peers.dump(None)
            )
            self.peers.take(sender.id)
            self.peers.put(sender)

    @invariant()
    def has_what_the_model_has(self) -> None:
        assert {each.spec.id: each.spec for each in self.peers.dump(None)} == self.model


TestTablesAgainstModel = TablesAgainstModel.TestCase


@given(st.binary(max_size=120))
def test_any_bytes_are_judged_and_never_raise(packet: bytes) -> None:
    tables = peers()
    tunnel = spec(1)
    tables.put(tunnel)
    tables.outward(packet, 0.0)
    assert tables.inward(packet, LOCAL, Endpoint("203.0.113.1", 1), 0.0) is None
    carried = tables.inward(packet, tunnel.local, tunnel.remote, 0.0)
    (observed,) = tables.dump(None)
    assert (carried is None) == (sum(observed.counters.refused.values()) == 1)


def test_strangers_leave_no_state_behind() -> None:
    tables = peers()
    for port in range(1000):
        tables.inward(ipv6(HOST, HOST), LOCAL, Endpoint("203.0.113.1", port), 0.0)
    assert len(tables.strays) == 1
    assert tables.dump(None) == []


def test_the_same_remote_end_with_two_of_our_own_ends_is_two_paths() -> None:
    # A NAT may give two clients behind it the same port towards two different addresses of ours.
    tables = peers()
    one, other = spec(1), replace(spec(2), remote=spec(1).remote, local=Endpoint("192.0.2.8", 3653))
    tables.put(one)
    tables.put(other)
    for tunnel in (one, other):
        carried = tables.inward(ipv6(tunnel.address, HOST), tunnel.local, tunnel.remote, 0.0)
        assert carried is not None
        assert carried.spec == tunnel


def test_our_end_of_a_tunnel_is_guarded_against_loops_without_being_configured() -> None:
    tables = peers()
    tunnel = replace(spec(1), local=Endpoint("203.0.113.77", 3653))
    tables.put(tunnel)
    packet = ipv6(tunnel.address, "2002:cb00:714d::1")
    assert tables.inward(packet, tunnel.local, tunnel.remote, 0.0) is None
    assert {each.value for each in tables.dump(None)[0].counters.refused} == {"loop"}


def test_a_client_on_this_machine_is_no_loop() -> None:
    tables = peers()
    tables.put(replace(spec(1), local=Endpoint("127.0.0.1", 3653), remote=Endpoint("127.0.0.1", 50000)))


def test_without_an_address_of_our_own_nothing_is_answered() -> None:
    answers: list[bytes] = []
    peers(answers, [PREFIXES]).outward(ipv6(HOST, "2001:db8:8000::1"), 0.0)
    assert answers == []
    peers(answers).outward(ipv6(HOST, "2001:db8:8000::1"), 0.0)
    assert [each[8:24] for each in answers] == [packed("2001:db8:1::1")]


def test_a_snapshot_stays_as_it_is() -> None:
    tables = peers()
    tunnel = spec(1)
    tables.put(tunnel)
    before = tables.dump(None)[0]
    tables.inward(b"\x60", tunnel.local, tunnel.remote, 0.0)
    assert before.counters == Counters()
    assert tables.dump(None)[0].counters != before.counters
