# SPDX-License-Identifier: GPL-2.0-or-later
"""Log-ins through a NAT against the real daemon, with the words of the clients that are out there."""

from __future__ import annotations

import hashlib
import socket
from ipaddress import IPv6Address, IPv6Network

import pytest
from support.netns import NAT_OUTER
from support.scenario import BROKER_ADDRESS, GUESTS, LINKS, PASSWORD, SERVER, World, carries
from support.tsp_client import ACCEPT, GOGOC, JAVA, RUBY, Client, Refused, create_document, digest_proof, framed

pytestmark = pytest.mark.netns


# --- every mechanism over both carriers ---------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["DIGEST-MD5", "PLAIN", "ANONYMOUS"])
def test_udp(world: World, mechanism: str) -> None:
    client = Client(wire := world.udp())
    client.log_in(mechanism, "alice", PASSWORD)
    offer = client.create(prefix_length=None if mechanism == "ANONYMOUS" else 56)
    client.accept()
    assert offer.type == "v6udpv4"
    assert offer.server_outer == SERVER[0]
    assert IPv6Address(offer.client_inner) in (GUESTS if mechanism == "ANONYMOUS" else LINKS)
    assert (offer.prefix is None) == (mechanism == "ANONYMOUS")
    assert carries(wire, offer, offer.server_inner), "the broker's own address does not answer"
    assert carries(wire, offer), "the host behind the broker does not answer"
    wire.close()


@pytest.mark.parametrize("mechanism", ["DIGEST-MD5", "PLAIN", "ANONYMOUS"])
@pytest.mark.parametrize("type", ["v6udpv4", "v6anyv4"])
def test_tcp_logs_in_and_has_no_tunnel_type_through_a_nat(world: World, mechanism: str, type: str) -> None:
    client = Client(wire := world.tcp())
    client.log_in(mechanism, "alice", PASSWORD)
    with pytest.raises(Refused) as caught:
        client.create(type=type)
    assert caught.value.code == 303
    wire.close()


@pytest.mark.parametrize("wire", ["udp", "tcp"])
@pytest.mark.parametrize("mechanism", ["DIGEST-MD5", "PLAIN"])
@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_a_wrong_password_and_an_unknown_user_look_the_same(world: World, wire: str, mechanism: str, user: str) -> None:
    connection = getattr(world, wire)()
    with pytest.raises(Refused) as caught:
        Client(connection).log_in(mechanism, user, "wrong")
    assert str(caught.value) == "300 Authentication failed\r\n"
    connection.close()


@pytest.mark.parametrize("wire", ["udp", "tcp"])
def test_an_unknown_mechanism_is_300(world: World, wire: str) -> None:
    client = Client(getattr(world, wire)())
    client.greet()
    assert client.wire.ask(b"AUTHENTICATE KERBEROS_V5\r\n\0").startswith(b"300 ")
    client.wire.close()


# --- words of deployed clients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["udp", "tcp"])
@pytest.mark.parametrize("version", ["2.0.0", "2.0.1", "2.0.2"])
@pytest.mark.parametrize("ending", [GOGOC, RUBY, JAVA], ids=["gogoc", "ruby", "java"])
def test_line_endings_and_versions(world: World, wire: str, version: str, ending: bytes) -> None:
    client = Client(getattr(world, wire)(), version=version, ending=ending)
    client.log_in("DIGEST-MD5", "bob", PASSWORD)
    client.wire.close()


@pytest.mark.parametrize("wire", ["udp", "tcp"])
def test_a_client_of_2_0_0_that_hashes_up_to_the_first_zero_octet(world: World, wire: str) -> None:
    secrets = ((each, hashlib.md5(f"dave:ddtb6:{each}".encode()).digest()) for each in map(str, range(10000)))
    password = next(each for each, secret in secrets if secret.find(0) >= 8)
    world.broker.tool("user", "passwd", "dave", "--password-stdin", stdin=f"{password}\n")
    for version in ("2.0.0", "2.0.2"):
        client = Client(getattr(world, wire)(), version=version)
        client.log_in("DIGEST-MD5", "dave", password)
        client.wire.close()


@pytest.mark.parametrize("wire", ["udp", "tcp"])
def test_an_old_version_is_302_and_a_newer_socket_may_fall_back(world: World, wire: str) -> None:
    with pytest.raises(Refused) as caught:
        Client(getattr(world, wire)(), version="1.0.1").greet()
    assert caught.value.code == 302
    Client(getattr(world, wire)(), version="2.0.0").greet()


def test_the_header_of_2004(world: World) -> None:
    client = Client(wire := world.udp(legacy=True), version="2.0.0")
    client.log_in("DIGEST-MD5", "bob", PASSWORD)
    offer = client.create()
    client.accept()
    assert carries(wire, offer)
    wire.close()


@pytest.mark.parametrize("wire", ["udp", "tcp"])
def test_version_without_a_line_end(world: World, wire: str) -> None:
    client = Client(getattr(world, wire)(), version="2.0.0")
    assert client.wire.ask(b"VERSION=2.0.0").startswith(b"CAPABILITY ")
    client.authenticate("DIGEST-MD5", "bob", PASSWORD)
    client.wire.close()


def test_polls_of_cr_lf(world: World) -> None:
    client = Client(wire := world.udp(), ending=RUBY)
    client.greet()
    proof, _ = digest_proof("bob", PASSWORD, wire.ask(b"AUTHENTICATE DIGEST-MD5\r\n"))
    wire.ask(proof + b"\r\n")
    assert wire.ask(b"\r\n") == b"200 Success\r\n"
    wire.close()


def test_plain_in_one_segment_as_captured(world: World) -> None:
    client = Client(wire := world.tcp())
    client.greet()
    assert wire.ask(b"AUTHENTICATE PLAIN\r\n\0\0alice\0s3cret\r\n") == b"200 Success\r\n"
    wire.close()


def test_tcp_octet_by_octet(world: World) -> None:
    wire = world.tcp()
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def dribble(text: bytes) -> bytes:
        for octet in text[:-1]:
            wire.socket.send(bytes([octet]))
        return wire.ask(text[-1:])

    assert dribble(b"VERSION=2.0.2\r\n").startswith(b"CAPABILITY ")
    for octet in b"AUTHENTICATE PLAIN\r\n\0":
        wire.socket.send(bytes([octet]))
    assert dribble(b"\0alice\0s3cret\r\n") == b"200 Success\r\n"
    assert b"\r\n303 " in dribble(framed(create_document()))
    wire.close()


def test_everything_of_a_client_in_one_segment(world: World) -> None:
    wire = world.tcp()
    wire.tell(
        b"VERSION=2.0.2\r\nAUTHENTICATE PLAIN\r\n\0\0alice\0s3cret\r\n" + framed(create_document()) + framed(ACCEPT)
    )
    got = b""
    while b"\r\n303 " not in got:
        got += wire.poll()
    assert got.startswith(b"CAPABILITY ")
    assert b"\r\n200 Success\r\n" in got
    wire.close()


def test_echo_request_is_answered_without_a_negotiation(world: World) -> None:
    wire = world.udp()
    assert wire.echo_request().startswith(b"200")
    assert world.broker.ask("session", "list") is not None
    wire.close()


def test_the_answer_comes_from_the_address_that_was_asked(world: World) -> None:
    world.net.broker.address(world.net.broker_outer, "192.0.2.77/24")
    client = Client(wire := world.udp(server=("192.0.2.77", SERVER[1])))
    client.log_in("DIGEST-MD5", "carol", PASSWORD)
    offer = client.create()
    client.accept()
    assert offer.server_outer == "192.0.2.77"
    assert carries(wire, offer)
    wire.close()


# --- repetition ---------------------------------------------------------------------------------------------------


def test_a_retransmission_gets_the_same_reply_and_is_not_executed_twice(world: World) -> None:
    client = Client(wire := world.udp())
    replies = []
    for text in (b"VERSION=2.0.2\r\n", b"AUTHENTICATE PLAIN\r\n\0", b"\0bob\0s3cret\r\n", framed(create_document())):
        replies = [wire.repeat(text) for _ in range(3)]
        wire.sequence += 1
        assert replies[0] == replies[1] == replies[2]
    assert b'action="info"' in replies[0]
    client.accept()
    assert len(world.broker.sessions("bob")) == 1
    assert wire.ask(framed(ACCEPT)).startswith(b"Content-length: ")
    wire.close()


def test_an_account_gets_the_same_addresses_every_time(world: World) -> None:
    held = set()
    for _ in range(3):
        wire, offer = world.broker.log_in(world.net.client, "carol", PASSWORD)
        held.add(offer.held)
        wire.close()
    assert len(held) == 1
    ((address, prefix),) = held
    assert prefix is not None
    assert IPv6Network(prefix).prefixlen == 56
    assert IPv6Address(address) not in IPv6Network(prefix)


def test_version_again_on_the_port_of_a_tunnel_begins_anew_and_leaves_the_tunnel_until_the_log_in(world: World) -> None:
    wire, offer = world.broker.log_in(world.net.client, "bob", PASSWORD)
    assert carries(wire, offer)
    wire.sequence = 0xF0
    client = Client(wire)
    client.greet()
    assert carries(wire, offer), "whoever writes this one datagram with a false source takes the tunnel down"
    client.authenticate("PLAIN", "bob", PASSWORD)
    again = client.create(prefix_length=56)
    client.accept()
    assert again.held == offer.held
    assert carries(wire, again)
    wire.close()


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "request_", "codes"),
    [
        ("ANONYMOUS", {"prefix_length": 56}, {522}),
        ("PLAIN", {"prefix_length": 49}, {507, 518}),
        ("PLAIN", {"prefix_length": 52}, {507}),
        ("PLAIN", {"type": "v6v4"}, {303}),
        ("PLAIN", {"type": "v4v6", "address": "2001:db8:f::2"}, {303}),
        ("PLAIN", {"type": "v6v6"}, {303, 500}),
        ("PLAIN", {"address": "10.66.1.256"}, {501}),
        ("PLAIN", {"address": "carrot"}, {501}),
    ],
)
def test_what_cannot_be_had(world: World, mechanism: str, request_: dict[str, object], codes: set[int]) -> None:
    client = Client(wire := world.udp())
    client.log_in(mechanism, "alice", PASSWORD)
    with pytest.raises(Refused) as caught:
        client.create(**request_)  # type: ignore[arg-type]
    assert caught.value.code in codes
    wire.close()


def test_info_and_delete(world: World) -> None:
    wire, offer = world.broker.log_in(world.net.client, "bob", PASSWORD)
    client = Client(wire)
    assert offer.client_inner.encode() in client.command(b'<tunnel action="info" type="v6udpv4"></tunnel>\r\n')
    client.command(b'<tunnel action="delete"></tunnel>\r\n')
    assert world.broker.sessions("bob") == []
    assert not carries(wire, offer, tries=1)
    wire.close()


def test_two_logins_of_one_account_the_last_wins(world: World) -> None:
    first, offer = world.broker.log_in(world.net.client, "alice", PASSWORD)
    assert carries(first, offer)
    second, again = world.broker.log_in(world.net.client, "alice", PASSWORD)
    assert again.held == offer.held
    assert carries(second, again)
    assert not carries(first, offer, tries=1)
    assert carries(second, again)
    assert len(world.broker.sessions("alice")) == 1
    first.close()
    second.close()


# --- what the operator sees ----------------------------------------------------------------------------------------


def test_spoofed_sources_are_refused_and_counted(world: World) -> None:
    wire, offer = world.broker.log_in(world.net.client, "alice", PASSWORD)
    assert carries(wire, offer)
    (before,) = world.broker.sessions("alice")
    other = world.broker.log_in(world.net.client, "bob", PASSWORD)
    for spoofed in (other[1].client_inner, "2001:db8:f::2", BROKER_ADDRESS, "2001:db8:1fff::1"):
        assert not carries(wire, offer, source=spoofed, tries=1)
    shown = world.broker.ask("session", "show", str(before["id"]))
    refused = shown["counters"]["refused"]
    assert refused["spoofed-source"] >= 4
    assert carries(wire, offer)
    inside = str(IPv6Network(offer.prefix)[1]) if offer.prefix else ""
    assert carries(wire, offer, source=inside), "the delegated prefix is a source that may be used"
    wire.close()
    other[0].close()


def test_the_broker_sees_the_nat(world: World) -> None:
    wire, _ = world.broker.log_in(world.net.client, "alice", PASSWORD)
    (session,) = world.broker.sessions("alice")
    assert session["nat"] is True
    assert session["remote"].startswith(f"{NAT_OUTER}:")
    assert session["remote"] != f"{NAT_OUTER}:{wire.socket.getsockname()[1]}"
    wire.close()
