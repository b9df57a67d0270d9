# SPDX-License-Identifier: GPL-2.0-or-later
"""The log: a line for each thing that happened, bounded for what strangers provoke, and without any secret."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from support.virtual import VirtualClock, world
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from ddtb6.addressing.endpoint import Carrier, Encapsulation, Endpoint, Link
from ddtb6.broker import events, ports
from ddtb6.logbook import STRANGERS_BURST, Logbook
from ddtb6.tsp import framing
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

LINK = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("203.0.113.5", 40001))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the logbook logs, as it is written."""
    kept: list[str] = []

    def keep(event: LogEvent) -> None:
        if event.get("log_namespace") == "ddtb6.logbook.Logbook":
            kept.append(formatEvent(event))

    globalLogPublisher.addObserver(keep)
    yield kept
    globalLogPublisher.removeObserver(keep)


def session(user: str | None = "alice", remote: Endpoint = LINK.remote) -> ports.Session:
    prefix = IPv6Network("2001:db8:100::/56")
    spec = TunnelSpec(TunnelId(7), Encapsulation.V6UDPV4, LINK.local, remote, prefix.network_address + 2, prefix, 1280)
    owner = f"user:{user}" if user else f"anonymous:{remote}"
    return ports.Session(TunnelId(7), owner, user, spec, "PLAIN", "2.0.2", 180.0, 0.0, Counters())


def ended(of: ports.Session, by: str, reason: EndReason = EndReason.REPLACED) -> events.SessionEnded:
    return events.SessionEnded(of, ports.Ending(of.id, reason, Counters(octets_in=3, octets_out=4)), by)


def test_sessions_of_accounts_are_all_logged(lines: list[str]) -> None:
    book = Logbook(VirtualClock())
    for _ in range(1000):
        book.write(events.SessionOpened(session(), nat=True))
    assert len(lines) == 1000
    assert set(lines) == {
        "session 7: user:alice at 203.0.113.5:40001 behind NAT by PLAIN, address 2001:db8:100::2, "
        "prefix 2001:db8:100::/56"
    }


def test_two_machines_with_one_account_are_noticed(lines: list[str]) -> None:
    book = Logbook(VirtualClock())
    book.write(ended(session(), "203.0.113.5:40002"))
    book.write(ended(session(), "198.51.100.1:40001"))
    book.write(ended(session(), "", EndReason.IDLE))
    assert lines == [
        "session 7: user:alice at 203.0.113.5:40001 ended: replaced by 203.0.113.5:40002; 3 octets in, 4 out",
        "session 7: user:alice at 203.0.113.5:40001 ended: replaced by 198.51.100.1:40001, another address: "
        "do two machines use one account?; 3 octets in, 4 out",
        "session 7: user:alice at 203.0.113.5:40001 ended: idle; 3 octets in, 4 out",
    ]


@pytest.mark.parametrize(
    "event",
    [
        events.NewcomerRefused(LINK),
        events.LoginRefused(LINK, "PLAIN", "wrong password"),
        events.RequestRefused(LINK, "user:alice", "301 No more tunnels available", "homes"),
        events.SessionOpened(session(None), nat=False),
        ended(session(None), ""),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_strangers_provoke_is_bounded_and_what_is_left_out_is_counted(
    lines: list[str], event: events.Event
) -> None:
    clock = VirtualClock()
    book = Logbook(clock)
    for _ in range(10_000):
        book.write(event)
    assert len(lines) == STRANGERS_BURST
    clock.advance(1)
    book.write(event)
    assert lines[STRANGERS_BURST:] == [
        f"{10_000 - STRANGERS_BURST} lines about strangers were left out: more came than are logged",
        lines[0],
    ]


def test_braces_in_what_others_said_are_not_fields(lines: list[str]) -> None:
    book = Logbook(VirtualClock())
    for why in ("{log_time}", "{", "}", "{}", "{0}", "%s", "{why!r}"):
        book.write(events.LoginRefused(LINK, "PLAIN", why))
        book.write(events.PlaneTrouble(why))
        assert lines[-2].endswith(f": {why}")
        assert lines[-1] == f"data plane: {why}"


def test_no_secret_in_any_line(lines: list[str], tmp_path: Path) -> None:
    """Right and wrong passwords over the wire, and all that comes of them."""
    with world(tmp_path, accounts={"alice": "right-secret"}) as lab:
        book = Logbook(lab.clock)
        for port, password in ((1, b"right-secret"), (2, b"wrong-secret")):
            for number, text in enumerate(
                (
                    b"VERSION=2.0.2\r\n",
                    b"AUTHENTICATE PLAIN\r\n",
                    b"\0alice\0" + password + b"\r\n",
                    b'Content-length: 1\r\n<tunnel action="create" type="v6udpv4"><client>'
                    b'<address type="ipv4">192.0.2.2</address></client></tunnel>\r\n',
                ),
                240,
            ):
                lab.datagram(framing.pack(number, 0, text), Endpoint("203.0.113.5", port))
        for event in lab.events:
            book.write(event)
        assert "secret" not in repr(lab.events)
    assert any("log-in refused" in each for each in lines)
    assert any("session 1: user:alice" in each for each in lines)
    assert not [each for each in lines if "secret" in each]
