# SPDX-License-Identifier: GPL-2.0-or-later
"""What an accounting record says, attribute by attribute, and as a packet."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.accounting import NAS, session

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.journal import Record, RecordKind
from ddtb6.broker.ports import Session, Terms
from ddtb6.radius.attributes import Received
from ddtb6.radius.nas import Nas
from ddtb6.radius.packets import LARGEST, Code, make_request, read_request
from ddtb6.radius.records import CAUSES, record_attributes
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters

SECRET = b"shared with the tests"
COUNTERS = Counters(packets_in=7, octets_in=5 << 32 | 11, packets_out=1 << 33 | 9, octets_out=13)


def sent(record: Record, nas: Nas = NAS, now: float = 2000.0) -> Received:
    """`record` as a server reads it."""
    request = make_request(Code.ACCOUNTING_REQUEST, 1, SECRET, record_attributes(record, nas, now))
    return read_request(request.octets, SECRET).attributes


def record(
    kind: RecordKind, of: Session | None = None, *, at: float = 1900.5, reason: EndReason | None = None
) -> Record:
    return Record(42, kind, at, of, COUNTERS, reason)


@pytest.mark.parametrize("kind", [RecordKind.START, RecordKind.INTERIM, RecordKind.STOP])
def test_what_every_record_of_a_session_has(kind: RecordKind) -> None:
    terms = Terms(
        billed_as="alice@isp.example",
        by_radius=True,
        account_class=(b"\x00\xff", b"0x41", b"65"),
        address_pool="links",
        prefix_pool="home56",
    )
    route = IPv6Network("2001:db8:9::/48")
    nas = replace(NAS, address=IPv4Address("192.0.2.1"), address6=IPv6Address("2001:db8::1"), framed_protocol=1)
    got = sent(record(kind, session(0xABCDEF01, terms=terms, routes=(route,)), reason=EndReason.DELETED), nas)
    assert got.integer("Acct-Status-Type") == kind.value
    assert got.text("Acct-Session-Id") == "00000000abcdef01"
    assert got.text("User-Name") == "alice@isp.example"
    assert got.text("NAS-Identifier") == "broker.example"
    assert got.address4("NAS-IP-Address") == IPv4Address("192.0.2.1")
    assert got.address("NAS-IPv6-Address") == IPv6Address("2001:db8::1")
    assert got.integer("NAS-Port") == 0xABCDEF01
    assert got.text("NAS-Port-Id") == "ddtb6"
    assert got.integer("NAS-Port-Type") == 5
    assert got.integer("Service-Type") == 2
    assert got.integer("Framed-Protocol") == 1
    assert got.text("Calling-Station-Id") == str(session(0xABCDEF01).spec.remote)
    assert got.text("Called-Station-Id") == "192.0.2.1:3653"
    assert got.integer("Tunnel-Type") == 12
    assert got.integer("Tunnel-Medium-Type") == 1
    assert got.text("Tunnel-Client-Endpoint") == "198.51.100.7"
    assert got.text("Tunnel-Server-Endpoint") == "192.0.2.1"
    assert got.text("Connect-Info") == "v6udpv4 TSP/2.0.1 DIGEST-MD5"
    assert got.octets("Class") == (b"\x00\xff", b"0x41", b"65")
    address = session(0xABCDEF01).spec.address
    assert got.prefixes("Framed-IPv6-Prefix") == (IPv6Network(address),)
    assert got.address("Framed-IPv6-Address") == address
    assert got.interface_id("Framed-Interface-Id") == int(address) & (1 << 64) - 1
    assert got.prefixes("Delegated-IPv6-Prefix") == (session(0xABCDEF01).spec.prefix,)
    assert got.texts("Framed-IPv6-Route") == ("2001:db8:9::/48 :: 1",)
    assert got.text("Framed-IPv6-Pool") == "links"
    assert got.text("Delegated-IPv6-Prefix-Pool") == "home56"
    assert got.integer("Acct-Authentic") == 1
    assert got.integer("Event-Timestamp") == 1900
    assert got.integer("Acct-Delay-Time") == 99
    assert "Message-Authenticator" not in got


def test_a_start_counts_nothing() -> None:
    got = sent(record(RecordKind.START, session()))
    for name in ("Acct-Session-Time", "Acct-Input-Octets", "Acct-Input-Gigawords", "Acct-Terminate-Cause"):
        assert name not in got


@pytest.mark.parametrize("kind", [RecordKind.INTERIM, RecordKind.STOP])
def test_counters_have_64_bits(kind: RecordKind) -> None:
    got = sent(record(kind, session(), reason=EndReason.IDLE))
    assert got.integer("Acct-Input-Octets") == 11
    assert got.integer("Acct-Input-Gigawords") == 5
    assert got.integer("Acct-Output-Octets") == 13
    assert got.integer("Acct-Output-Gigawords") == 0
    assert got.integer("Acct-Input-Packets") == 7
    assert got.integer("Acct-Output-Packets") == 9
    assert got.integer("Acct-Session-Time") == 900
    assert ("Acct-Terminate-Cause" in got) is (kind is RecordKind.STOP)


@pytest.mark.parametrize(
    ("reason", "terms", "cause"),
    [
        (EndReason.REPLACED, Terms(), 10),
        (EndReason.ENDPOINT_TAKEN, Terms(), 10),
        (EndReason.NOT_ACCEPTED, Terms(), 2),
        (EndReason.REJECTED, Terms(), 17),
        (EndReason.DELETED, Terms(), 1),
        (EndReason.IDLE, Terms(), 2),
        (EndReason.IDLE, Terms(idle_limit=300.0), 4),
        (EndReason.DISCONNECTED, Terms(), 6),
        (EndReason.DISABLED, Terms(), 6),
        (EndReason.SESSION_TIMEOUT, Terms(), 5),
        (EndReason.FAILED, Terms(), 9),
        (None, Terms(), 9),
    ],
)
def test_terminate_cause(reason: EndReason | None, terms: Terms, cause: int) -> None:
    got = sent(record(RecordKind.STOP, session(terms=terms), reason=reason))
    assert got.integer("Acct-Terminate-Cause") == cause


def test_every_reason_has_a_cause() -> None:
    assert set(CAUSES) == set(EndReason)


def test_who_logged_in_without_radius() -> None:
    got = sent(record(RecordKind.START, session(user="bob")))
    assert got.text("User-Name") == "bob"
    assert got.integer("Acct-Authentic") == 2
    assert "Delegated-IPv6-Prefix" not in sent(record(RecordKind.START, session(user="bob", prefix=None)))


def test_a_session_is_called_what_its_log_in_said() -> None:
    got = sent(record(RecordKind.STOP, session(terms=Terms(account_session=0x6553_F3E8_0001))))
    assert (got.text("Acct-Session-Id"), got.integer("NAS-Port")) == ("00006553f3e80001", 0xF3E8_0001)


def test_over_ipv6_and_without_the_port() -> None:
    ends = {"local": Endpoint("2001:db8::1", 3653), "remote": Endpoint("2001:db8:f::7", 4000)}
    got = sent(record(RecordKind.START, session(**ends)), replace(NAS, calling_port=False))
    assert got.integer("Tunnel-Medium-Type") == 2
    assert got.text("Calling-Station-Id") == "2001:db8:f::7"
    assert got.text("Called-Station-Id") == "[2001:db8::1]:3653"


@pytest.mark.parametrize(("kind", "status"), [(RecordKind.ON, 7), (RecordKind.OFF, 8)])
def test_on_and_off(kind: RecordKind, status: int) -> None:
    got = sent(record(kind))
    assert set(got.names()) == {
        "Acct-Status-Type", "Acct-Session-Id", "NAS-Identifier", "Event-Timestamp", "Acct-Delay-Time",
    }  # fmt: skip
    assert got.integer("Acct-Status-Type") == status
    assert got.text("Acct-Session-Id") == f"{kind.name}-42"


def test_a_clock_that_was_set_back_makes_no_negative_times() -> None:
    got = sent(record(RecordKind.STOP, session(), at=990.0, reason=EndReason.IDLE), now=980.0)
    assert got.integer("Acct-Session-Time") == 0
    assert got.integer("Acct-Delay-Time") == 0


@given(
    st.lists(st.binary(min_size=1, max_size=253), max_size=30),
    st.integers(0, 60),
    st.text(max_size=300),
)
def test_everything_fits_whatever_the_accept_had(classes: list[bytes], routes: int, name: str) -> None:
    terms = Terms(account_class=tuple(classes), billed_as=name or None, address_pool="p" * 300)
    networks = tuple(IPv6Network((0x20010DB8 << 96 | number << 64, 64)) for number in range(routes))
    stop = record(RecordKind.STOP, session(terms=terms, routes=networks), reason=EndReason.IDLE)
    nas = replace(NAS, identifier="n" * 253, address6=IPv6Address("2001:db8::1"))
    request = make_request(Code.ACCOUNTING_REQUEST, 1, SECRET, record_attributes(stop, nas, 2000.0))
    assert len(request.octets) <= LARGEST
    got = read_request(request.octets, SECRET).attributes.octets("Class")
    assert got == tuple(classes[: len(got)])
    assert len(got) == len(classes) or sum(map(len, classes)) > 1500
