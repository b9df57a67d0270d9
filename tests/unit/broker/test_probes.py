# SPDX-License-Identifier: GPL-2.0-or-later
"""Echoes to clients: when, to whom, what is believed of what comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.planes import icmp
from support.stored import now
from support.virtual import World, world
from support.website import opening_of, stand

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.history import TunnelPoint
from ddtb6.broker.ports import Session
from ddtb6.broker.probes import BOUNDS, KEY, PATIENCE, Probes
from ddtb6.dataplane import icmp6
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, idle_limit=0.0, probing=True) as made:
        yield made


def tunnel(broker: World, name: str = "alice", host: int = 7) -> Session:
    session = stand(broker, opening_of(name, Endpoint(f"198.51.100.{host}", 4000), None))
    assert broker.ping(session)
    now(broker.broker.sessions())
    broker.broker._tunnels.establish(session.id)
    return session


def requests(broker: World) -> list[tuple[bytes, Endpoint]]:
    """Echo requests that went to clients since the last time, and where."""
    return [
        (packet, remote)
        for packet, _, remote in broker.socket.taken()
        if packet[6] == icmp6.ICMP6 and packet[40] == icmp6.ECHO_REQUEST
    ]


def until_asked(broker: World) -> bytes:
    for _ in range(130):
        broker.pass_time(1)
        if asked := requests(broker):
            return asked[0][0]
    raise AssertionError("nobody was asked")


def reply(broker: World, session: Session, packet: bytes) -> None:
    broker.udp.receive(broker.socket, packet, session.spec.local, session.spec.remote)  # type: ignore[arg-type]


def answer(broker: World, session: Session, request: bytes) -> None:
    """The client answers as any host does."""
    echoed = icmp6.echo_reply(request)
    assert echoed is not None
    reply(broker, session, echoed)


def point(broker: World, owner: str = "user:alice") -> TunnelPoint:
    return now(broker.recording.of_tunnel(owner)).day.points[-1]


def test_an_answer_is_how_long_it_took(broker: World) -> None:
    session = tunnel(broker)
    request = until_asked(broker)
    assert request[24:40] == session.spec.address.packed
    assert IPv6Address(request[8:24]) == IPv6Address("2001:db8:0:1::1")
    assert icmp6.checksum(request[8:24], request[24:40], request[40:42] + bytes(2) + request[44:]) == int.from_bytes(
        request[42:44], "big"
    )
    broker.clock.advance(0.025)
    answer(broker, session, request)
    found = point(broker)
    assert (found.sent, found.answered) == (1, 1)
    assert found.mean == pytest.approx(0.025, rel=1e-2)
    view = broker.probes.view()
    assert (view.asked, sum(count for _, count in view.classes)) == (1, 1)
    assert dict(view.classes)[0.035] == 1
    assert view.seconds == pytest.approx(0.025, rel=1e-3)


def test_it_is_no_traffic_and_is_life(broker: World) -> None:
    session = tunnel(broker)
    [before] = now(broker.broker.sessions())
    request = until_asked(broker)
    answer(broker, session, request)
    [after] = now(broker.broker.sessions())
    assert after.counters == before.counters
    assert after.counters != Counters()
    assert after.silent_for == 0.0


def test_each_is_asked_once_a_minute_spread_over_it(broker: World) -> None:
    sessions = [tunnel(broker, f"u{number}", number + 1) for number in range(20)]
    broker.pass_time(50)
    requests(broker)
    seconds = []
    asked = []
    for _ in range(120):
        broker.pass_time(1)
        some = requests(broker)
        seconds.append(len(some))
        asked += [packet[24:40] for packet, _ in some]
    assert max(seconds) <= 2
    assert sorted(asked) == sorted(2 * [each.spec.address.packed for each in sessions])


def test_who_is_not_asked(broker: World) -> None:
    guest = replace(opening_of("x", Endpoint("198.51.100.9", 4000), None), owner="anonymous:x", user=None)
    guest = replace(guest, address_pool="guests", mechanism="ANONYMOUS")
    broker.ping(stand(broker, guest))
    offered = stand(broker, opening_of("bob", Endpoint("198.51.100.10", 4000), None))
    gone = tunnel(broker)
    broker.probes.tick()
    now(broker.broker.disconnect(gone.id, EndReason.DISCONNECTED))
    broker.socket.taken()
    for _ in range(59):
        broker.clock.advance(1)
        broker.probes.tick()
    assert offered.user == "bob"
    assert requests(broker) == []


def test_an_answer_counts_once_and_not_when_it_is_late(broker: World) -> None:
    session = tunnel(broker)
    request = until_asked(broker)
    for _ in range(5):
        answer(broker, session, request)
    assert (point(broker).sent, point(broker).answered) == (1, 1)
    broker.clock.advance(PATIENCE + 1)
    before = broker.probes.view()
    answer(broker, session, request)
    assert broker.probes.view() == before


def test_another_client_cannot_answer(broker: World) -> None:
    tunnel(broker)
    request = until_asked(broker)
    mallory = tunnel(broker, "mallory", 66)
    echoed = bytearray(icmp6.echo_reply(request) or b"")
    echoed[8:24] = mallory.spec.address.packed
    reply(broker, mallory, bytes(echoed))
    assert sum(count for _, count in broker.probes.view().classes) == 0
    assert now(broker.recording.of_tunnel("user:mallory")).day.points == ()


def test_a_program_of_the_operator_gets_its_own_echoes(broker: World) -> None:
    """One with our identifier, by chance; the plane that hands it to the kernel does here what the kernel does."""
    session = tunnel(broker)
    own = icmp(session.spec.address, "2001:db8:0:1::1", icmp6.ECHO_REPLY, 0, b"dd\0\1" + bytes(40))
    [before] = now(broker.broker.sessions())
    reply(broker, session, own)
    [after] = now(broker.broker.sessions())
    assert after.counters.packets_in == before.counters.packets_in + 1
    assert sum(count for _, count in broker.probes.view().classes) == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 31), st.integers(1, 255), st.binary(max_size=60))
def test_nothing_of_it_can_be_changed(broker: World, place: int, change: int, tail: bytes) -> None:
    session = broker.broker.session_of("user:alice") or tunnel(broker)
    head = bytearray()
    sent: list[bytes] = []
    broker.probes._send, send = lambda *given: sent.append(given[2]) is None, broker.probes._send
    broker.probes._ask(session)
    broker.probes._send = send
    head += sent[0]
    head[place] ^= change
    assert not broker.probes._heard(session.spec.address.packed, bytes(head)) or place in range(4)
    assert not broker.probes._heard(session.spec.address.packed, tail)
    assert not broker.probes._heard(os.urandom(16), sent[0])


def test_another_process_made_it(broker: World) -> None:
    session = tunnel(broker)
    request = until_asked(broker)
    other = Probes(broker.clock, b"x" * KEY, broker.broker, broker.policy.pools, broker.plane, broker.recording)
    assert not other._heard(session.spec.address.packed, request[44:])


def test_classes_end_where_patience_does() -> None:
    assert BOUNDS[-1] == PATIENCE
    assert list(BOUNDS) == sorted(BOUNDS)
