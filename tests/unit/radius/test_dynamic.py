# SPDX-License-Identifier: GPL-2.0-or-later
"""Disconnect and CoA as datagrams: who may, which session is meant, all or nothing, repeats, replays, strangers."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.accounting import NAS, session
from support.virtual import VirtualClock
from twisted.internet.defer import Deferred

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.ports import Session, StoreError, Terms
from ddtb6.radius.attributes import CODES, Attribute, Received, encode
from ddtb6.radius.dynamic import CHANGEABLE, MOST_UNDER_WAY, REMEMBERED, WINDOW, DynamicAuthorization, DynamicClient
from ddtb6.radius.packets import Code, Request, make_request, read_reply
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import TunnelId

SECRET = b"portal's secret"
PORTAL, HERE = Endpoint("192.0.2.20", 50000), Endpoint("192.0.2.1", 3799)
DISCONNECT, COA = Code.DISCONNECT_REQUEST, Code.COA_REQUEST
CAUSES = {401, 402, 403, 405, 407, 501, 503, 506, 508}


class Broker:
    """Live sessions, which end and change when the test lets them."""

    def __init__(self, *live: Session) -> None:
        self.live = {each.id: each for each in live}
        self.done: list[tuple[Any, ...]] = []
        self.hold: Deferred[None] | None = None
        self.broken = False

    def session_named(self, name: int) -> Session | None:
        return next((each for each in self.live.values() if each.accounted_as == name), None)

    def session_of(self, owner: str) -> Session | None:
        return next((each for each in self.live.values() if each.owner == owner), None)

    def live_sessions(self) -> Iterable[Session]:
        return iter(self.live.values())

    async def disconnect(self, tunnel: TunnelId, reason: EndReason) -> bool:
        await self._wait()
        self.done.append((tunnel, reason))
        return self.live.pop(tunnel, None) is not None

    async def change_terms(self, tunnel: TunnelId, terms: Terms) -> bool:
        await self._wait()
        if tunnel not in self.live:
            return False
        self.done.append((tunnel, terms))
        self.live[tunnel] = replace(self.live[tunnel], terms=terms)
        return True

    async def _wait(self) -> None:
        if self.hold is not None:
            await self.hold
        if self.broken:
            raise StoreError("The disk is full.")


class Socket:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Endpoint, Endpoint]] = []

    def send(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> bool:
        self.sent.append((datagram, local, remote))
        return True


class World:
    def __init__(self, *live: Session, clients: Iterable[DynamicClient] = (), **options: Any) -> None:
        self.clock = VirtualClock()
        self.broker = Broker(*live)
        nas = options.pop("nas", NAS)
        known = tuple(clients) or (DynamicClient("portal", PORTAL.address, SECRET),)
        self.dynamic = DynamicAuthorization(self.clock, self.broker, nas, known, **options)
        self.socket = Socket()
        self.identifier = 0

    def request(self, code: Code, attributes: Iterable[Attribute], secret: bytes = SECRET) -> Request:
        self.identifier = (self.identifier + 1) % 256
        return make_request(code, self.identifier, secret, attributes)

    def give(self, datagram: bytes, source: Endpoint = PORTAL) -> list[bytes]:
        """What is answered at once."""
        before = len(self.socket.sent)
        self.dynamic.receive(self.socket, datagram, HERE, source)
        for _, local, remote in self.socket.sent[before:]:
            assert (local, remote) == (HERE, source)
        return [datagram for datagram, _, _ in self.socket.sent[before:]]

    def ask(self, code: Code, **attributes: Any) -> tuple[Code, int | None]:
        """The code of the answer and its Error-Cause."""
        request = self.request(code, named(attributes))
        (answer,) = self.give(request.octets)
        reply = read_reply(answer, request, SECRET)
        return reply.code, reply.attributes.integer("Error-Cause")


def named(attributes: dict[str, Any]) -> Iterator[Attribute]:
    for key, value in attributes.items():
        for each in value if isinstance(value, list) else [value]:
            yield key.replace("_", "-"), each


ACK = {DISCONNECT: (Code.DISCONNECT_ACK, None), COA: (Code.COA_ACK, None)}


def nak(code: Code, cause: int) -> tuple[Code, int]:
    return (Code.DISCONNECT_NAK if code is DISCONNECT else Code.COA_NAK), cause


ONE, TWO = session(1), session(2, "bob")
ID = "0000000000000001"
NAME = 0x6553_F3E8_0000


# --- which session ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identification",
    [
        {"Acct_Session_Id": ID},
        {"User_Name": "alice"},
        {"User_Name": "alice", "Calling_Station_Id": "198.51.100.7:40001"},
        {"User_Name": "alice", "Calling_Station_Id": "198.51.100.7"},
        {"User_Name": "alice", "Delegated_IPv6_Prefix": ONE.spec.prefix},
        {"User_Name": "alice", "Framed_IPv6_Address": ONE.spec.address},
        {"User_Name": "alice", "Framed_IPv6_Prefix": IPv6Network(ONE.spec.address)},
        {"Framed_IPv6_Prefix": IPv6Network("2001:db8:0:1::/64"), "Framed_Interface_Id": bytes(7) + b"\1"},
        {"Delegated_IPv6_Prefix": ONE.spec.prefix},
        {"NAS_Port": 1},
        {"Acct_Session_Id": ID, "User_Name": "alice", "Called_Station_Id": "192.0.2.1:3653", "NAS_Port_Id": "ddtb6"},
        {"Acct_Session_Id": ID, "NAS_Identifier": "broker.example", "Reply_Message": "bye", "Proxy_State": b"p"},
    ],
)
@pytest.mark.parametrize("code", [DISCONNECT, COA])
def test_a_session_is_found(code: Code, identification: dict[str, Any]) -> None:
    world = World(ONE, TWO)
    change = {"Session_Timeout": 60} if code is COA else {}
    assert world.ask(code, **identification, **change) == ACK[code]
    assert [each[0] for each in world.broker.done] == [1]


@pytest.mark.parametrize(
    ("identification", "cause"),
    [
        ({}, 402),
        ({"Called_Station_Id": "192.0.2.1:3653"}, 402),
        ({"NAS_Port_Id": "ddtb6", "Framed_Interface_Id": bytes(7) + b"\1"}, 402),
        ({"Acct_Session_Id": "0000000000000003"}, 503),
        ({"Acct_Session_Id": "1"}, 503),
        ({"Acct_Session_Id": ID, "User_Name": "bob"}, 503),
        ({"User_Name": "alice", "Calling_Station_Id": "198.51.100.8"}, 503),
        ({"User_Name": "alice", "Called_Station_Id": "192.0.2.9"}, 503),
        ({"User_Name": "alice", "NAS_Port_Id": "eth0"}, 503),
        ({"User_Name": "alice", "NAS_Port": 2}, 503),
        ({"Calling_Station_Id": "198.51.100.7"}, 508),
        ({"Framed_IPv6_Prefix": IPv6Network("2001:db8:0:1::/64")}, 508),
        ({"Framed_IPv6_Prefix": IPv6Network("2001:db8::/32")}, 503),
        ({"Acct_Session_Id": [ID, ID]}, 407),
        ({"Acct_Session_Id": b"\xff\xfe"}, 407),
        ({"Framed_Interface_Id": b"\1", "User_Name": "alice"}, 407),
        ({"Acct_Session_Id": ID, "NAS_Identifier": "other"}, 403),
        ({"Acct_Session_Id": ID, "NAS_IP_Address": IPv4Address("192.0.2.1")}, 403),
        ({"Acct_Session_Id": ID, "NAS_IPv6_Address": IPv6Address("2001:db8::1")}, 403),
        ({"Acct_Session_Id": ID, "NAS_IP_Address": b"\1"}, 407),
        ({"Acct_Session_Id": ID, "Framed_MTU": 1280}, 401),
        ({"Acct_Session_Id": ID, "State": b"s"}, 401),
    ],
)
@pytest.mark.parametrize("code", [DISCONNECT, COA])
def test_no_session_or_too_many(code: Code, identification: dict[str, Any], cause: int) -> None:
    world = World(ONE, TWO)
    change = {"Session_Timeout": 60} if code is COA else {}
    assert world.ask(code, **identification, **change) == nak(code, cause)
    assert world.broker.done == []


def test_the_only_session_is_not_taken_for_granted() -> None:
    world = World(ONE)
    assert world.ask(DISCONNECT, Called_Station_Id="192.0.2.1:3653") == nak(DISCONNECT, 402)


def test_a_session_goes_by_the_name_that_its_log_in_told_the_aaa() -> None:
    named = session(1, terms=Terms(account_session=NAME, by_radius=True))
    for identification in ({"Acct_Session_Id": f"{NAME:016x}"}, {"NAS_Port": NAME & 0xFFFF_FFFF}):
        assert World(named, TWO).ask(DISCONNECT, **identification) == ACK[DISCONNECT]
    for identification in ({"Acct_Session_Id": ID}, {"NAS_Port": 1}):
        assert World(named, TWO).ask(DISCONNECT, **identification) == nak(DISCONNECT, 503)


def test_one_session_of_many_is_found_without_a_look_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for identification in ({"Acct_Session_Id": ID}, {"User_Name": "alice"}):
        world = World(ONE, TWO)
        monkeypatch.setattr(world.broker, "live_sessions", None)
        assert world.ask(DISCONNECT, **identification) == ACK[DISCONNECT]


def test_our_own_addresses_name_us() -> None:
    nas = replace(NAS, address=IPv4Address("192.0.2.1"), address6=IPv6Address("2001:db8::1"))
    world = World(ONE, nas=nas)
    ours = {"NAS_IP_Address": nas.address, "NAS_IPv6_Address": nas.address6, "NAS_Identifier": nas.identifier}
    assert world.ask(DISCONNECT, Acct_Session_Id=ID, **ours) == ACK[DISCONNECT]


# --- disconnect ---------------------------------------------------------------------------------------------------


def test_disconnect_is_answered_after_the_act() -> None:
    world = World(ONE)
    world.broker.hold = Deferred()
    request = world.request(DISCONNECT, [("Acct-Session-Id", ID)])
    assert world.give(request.octets) == []
    assert world.give(request.octets) == [], "a copy is neither done nor answered meanwhile"
    world.broker.hold.callback(None)
    ((answer, _, _),) = world.socket.sent
    reply = read_reply(answer, request, SECRET)
    assert reply.code is Code.DISCONNECT_ACK
    assert reply.attributes.integer("Acct-Terminate-Cause") == 6
    assert reply.attributes.integer("Event-Timestamp") == int(world.clock.epoch())
    assert world.broker.done == [(1, EndReason.DISCONNECTED)]
    assert world.dynamic.counters["disconnected"] == 1


def test_a_class_given_with_a_disconnect_goes_into_the_stop() -> None:
    world = World(ONE)
    assert world.ask(DISCONNECT, Acct_Session_Id=ID, Class=[b"\0one", b"0x41"]) == ACK[DISCONNECT]
    assert world.broker.done[0] == (1, Terms(account_class=(b"\0one", b"0x41")))
    assert world.broker.done[1] == (1, EndReason.DISCONNECTED)


def test_a_session_that_ends_meanwhile_is_not_found() -> None:
    world = World(ONE)
    world.broker.hold = Deferred()
    request = world.request(DISCONNECT, [("Acct-Session-Id", ID)])
    world.give(request.octets)
    world.broker.live.clear()
    world.broker.hold.callback(None)
    reply = read_reply(world.socket.sent[0][0], request, SECRET)
    assert reply.attributes.integer("Error-Cause") == 503


@pytest.mark.parametrize("code", [DISCONNECT, COA])
def test_a_store_that_fails_is_no_ack(code: Code) -> None:
    world = World(ONE)
    world.broker.broken = True
    change = {"Session_Timeout": 60} if code is COA else {}
    assert world.ask(code, Acct_Session_Id=ID, **change) == nak(code, 506)


def test_too_much_at_once_is_refused() -> None:
    world = World(ONE)
    world.broker.hold = Deferred()
    for number in range(MOST_UNDER_WAY):
        request = make_request(DISCONNECT, number, SECRET, [("Acct-Session-Id", ID)])
        assert world.give(request.octets) == []
    assert world.ask(DISCONNECT, Acct_Session_Id=ID, User_Name="alice") == nak(DISCONNECT, 506)
    world.broker.hold.callback(None)
    assert world.dynamic.counters["disconnected"] == 1


# --- CoA ----------------------------------------------------------------------------------------------------------


def test_coa_changes_what_is_given_and_nothing_else() -> None:
    terms = Terms(account_class=(b"old", b"older"), filter_ids=("gold",), idle_limit=5.0, by_radius=True)
    world = World(session(1, terms=terms))
    assert world.ask(COA, Acct_Session_Id=ID, Session_Timeout=3600, Acct_Interim_Interval=60) == ACK[COA]
    assert world.ask(COA, Acct_Session_Id=ID, Class=[b"new"], Filter_Id=["slow", "dull"]) == ACK[COA]
    assert world.ask(COA, Acct_Session_Id=ID, Idle_Timeout=0) == ACK[COA]
    changed = world.broker.live[TunnelId(1)].terms
    assert changed == replace(
        terms,
        session_limit=3600.0,
        interim_interval=60.0,
        account_class=(b"new",),
        filter_ids=("slow", "dull"),
        idle_limit=0.0,
    )
    assert world.dynamic.counters["changed"] == 3


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({}, 402),
        ({"Acct_Interim_Interval": 59}, 407),
        ({"Session_Timeout": [1, 2]}, 407),
        ({"Idle_Timeout": b"\0"}, 407),
        ({"Filter_Id": b"\xff"}, 407),
        ({"Service_Type": 17}, 405),
        ({"Service_Type": 2}, 405),
        ({"Delegated_IPv6_Prefix": IPv6Network("2001:db8:9900::/56")}, 405),
        ({"Framed_IPv6_Address": IPv6Address("2001:db8::9")}, 405),
        ({"Framed_IPv6_Route": "2001:db8:9::/48 :: 1"}, 401),
        ({"Delegated_IPv6_Prefix_Pool": "home56"}, 401),
        ({"Acct_Terminate_Cause": 6}, 401),
    ],
)
def test_one_thing_that_cannot_be_changes_nothing(change: dict[str, Any], cause: int) -> None:
    world = World(ONE, TWO)
    good = {} if not change else {"Class": b"good"}
    assert world.ask(COA, Acct_Session_Id=ID, **good, **change) == nak(COA, cause)
    assert world.broker.done == []


def test_changes_at_the_same_time_do_not_undo_each_other() -> None:
    world = World(ONE, TWO)
    world.broker.hold = Deferred()
    asked = [
        world.request(COA, [("Acct-Session-Id", ID), ("Session-Timeout", 3600)]),
        world.request(COA, [("User-Name", "alice"), ("Class", b"new")]),
        world.request(COA, [("User-Name", "bob"), ("Class", b"other")]),
    ]
    for request in asked:
        assert world.give(request.octets) == []
    world.broker.hold.callback(None)
    assert len(world.socket.sent) == len(asked)
    assert world.dynamic.counters["changed"] == len(asked)
    terms = world.broker.live[TunnelId(1)].terms
    assert (terms.session_limit, terms.account_class) == (3600.0, (b"new",))
    assert world.broker.live[TunnelId(2)].terms.account_class == (b"other",)


def test_a_change_that_waited_for_one_that_failed_is_made_of_what_was_there() -> None:
    world = World(ONE)
    world.broker.hold = Deferred()
    first = world.request(COA, [("Acct-Session-Id", ID), ("Session-Timeout", 3600)])
    second = world.request(COA, [("Acct-Session-Id", ID), ("Class", b"new")])
    for request in (first, second):
        assert world.give(request.octets) == []
    world.broker.broken = True
    world.broker.hold.callback(None)
    assert [datagram[0] for datagram, _, _ in world.socket.sent] == [Code.COA_NAK] * 2
    world.broker.broken = False
    assert world.ask(COA, Acct_Session_Id=ID, Idle_Timeout=5) == ACK[COA]
    assert world.broker.live[TunnelId(1)].terms == replace(ONE.terms, idle_limit=5.0)


def test_attributes_that_no_dictionary_knows_are_unsupported() -> None:
    world = World(ONE)
    body = encode([("Acct-Session-Id", ID), ("Class", b"c")], SECRET, bytes(16)) + bytes((26, 8, 0, 0, 0, 9, 1, 2))
    request = raw(COA, body)
    (answer,) = world.give(request.octets)
    assert read_reply(answer, request, SECRET).attributes.integer("Error-Cause") == 401


def test_a_fixed_interim_interval_stays() -> None:
    world = World(ONE, interim_fixed=True)
    assert world.ask(COA, Acct_Session_Id=ID, Acct_Interim_Interval=600) == nak(COA, 501)
    assert world.ask(COA, Acct_Session_Id=ID, Idle_Timeout=600) == ACK[COA]


# --- who, and when ------------------------------------------------------------------------------------------------


def raw(code: Code, body: bytes, secret: bytes = SECRET, identifier: int = 9) -> Request:
    """A request with any octets for attributes."""
    made = make_request(code, identifier, secret, [])
    head = struct.pack("!BBH", code, identifier, 20 + len(body))
    authenticator = hashlib.md5(head + bytes(16) + body + secret).digest()
    return replace(made, authenticator=authenticator, octets=head + authenticator + body)


def test_strangers_and_wrong_secrets_get_nothing() -> None:
    world = World(ONE)
    good = world.request(DISCONNECT, [("Acct-Session-Id", ID)])
    assert world.give(good.octets, Endpoint("192.0.2.21", 50000)) == []
    assert world.give(world.request(DISCONNECT, [("Acct-Session-Id", ID)], b"another").octets) == []
    assert world.give(world.request(Code.ACCOUNTING_REQUEST, [("Acct-Session-Id", ID)]).octets) == []
    assert world.give(good.octets[:-1]) == []
    assert world.give(b"") == []
    assert world.broker.done == []
    assert dict(world.dynamic.counters) == {
        "wrong-source": 1, "wrong-authenticator": 1, "wrong-code": 1, "malformed": 2,
    }  # fmt: skip


def test_two_clients_at_one_address_are_told_apart_by_their_secrets() -> None:
    clients = [DynamicClient(name, PORTAL.address, name.encode()) for name in ("one", "two")]
    world = World(ONE, TWO, clients=clients)
    for number, secret in ((1, b"two"), (2, b"one")):
        request = world.request(DISCONNECT, [("Acct-Session-Id", f"{number:016x}")], secret)
        (answer,) = world.give(request.octets)
        assert read_reply(answer, request, secret).code is Code.DISCONNECT_ACK


def test_over_ipv6() -> None:
    world = World(ONE, clients=[DynamicClient("portal", "2001:DB8:0::20", SECRET)])
    request = world.request(DISCONNECT, [("Acct-Session-Id", ID)])
    (answer,) = world.give(request.octets, Endpoint("2001:db8::20", 50000))
    assert read_reply(answer, request, SECRET).code is Code.DISCONNECT_ACK


def signed(code: Code, attributes: list[Attribute], spoil: bool = False) -> Request:
    """With a Message-Authenticator (RFC 5176 section 3.4)."""
    body = bytes((80, 18)) + bytes(16) + encode(attributes, SECRET, bytes(16))
    head = struct.pack("!BBH", code, 9, 20 + len(body))
    signature = hmac.digest(SECRET, head + bytes(16) + body, "md5")
    return raw(code, body[:2] + (bytes(16) if spoil else signature) + body[18:])


def test_message_authenticator() -> None:
    client = DynamicClient("portal", PORTAL.address, SECRET, must_sign=True)
    world = World(ONE, clients=[client])
    attributes: list[Attribute] = [("Acct-Session-Id", ID)]
    assert world.give(world.request(DISCONNECT, attributes).octets) == []
    assert world.give(signed(DISCONNECT, attributes, spoil=True).octets) == []
    assert dict(world.dynamic.counters) == {"unsigned": 1, "wrong-message-authenticator": 1}
    request = signed(DISCONNECT, attributes)
    (answer,) = world.give(request.octets)
    reply = read_reply(answer, request, SECRET)
    assert reply.code is Code.DISCONNECT_ACK
    assert reply.signed


def test_a_repeat_is_answered_alike_and_not_done_again() -> None:
    world = World(ONE, session(3))
    request = world.request(COA, [("Acct-Session-Id", ID), ("Class", b"c"), ("Proxy-State", b"\0p")])
    first = world.give(request.octets)
    world.clock.advance(100)
    assert world.give(request.octets) == first
    assert len(world.broker.done) == 1
    assert world.dynamic.counters["repeated"] == 1
    assert read_reply(first[0], request, SECRET).attributes.octets("Proxy-State") == (b"\0p",)
    other = make_request(COA, request.identifier, SECRET, [("Acct-Session-Id", ID), ("Class", b"d")])
    assert world.give(other.octets) not in ([], first), "the same identifier with other content is another request"
    assert len(world.broker.done) == 2


@pytest.mark.parametrize(("off", "served"), [(0, True), (-299, True), (299, True), (-302, False), (302, False)])
def test_old_requests_are_dropped(off: int, served: bool) -> None:
    world = World(ONE)
    request = world.request(DISCONNECT, [("Acct-Session-Id", ID), ("Event-Timestamp", int(world.clock.epoch()) + off)])
    assert bool(world.give(request.octets)) is served
    assert world.dynamic.counters["stale"] == (not served)


def test_a_dated_request_cannot_be_replayed() -> None:
    """Within the window the answer is remembered, after it the date is old."""
    world = World(ONE)
    dated: list[Attribute] = [("User-Name", "alice"), ("Event-Timestamp", int(world.clock.epoch()))]
    request = world.request(DISCONNECT, dated)
    world.give(request.octets)
    for _ in range(20):
        world.broker.live[TunnelId(1)] = ONE
        world.clock.advance(WINDOW / 10)
        world.give(request.octets)
        assert len(world.broker.done) == 1


def test_a_date_can_be_demanded() -> None:
    world = World(ONE, must_date=True)
    assert world.give(world.request(DISCONNECT, [("Acct-Session-Id", ID)]).octets) == []
    assert world.dynamic.counters["undated"] == 1
    dated: list[Attribute] = [("Acct-Session-Id", ID), ("Event-Timestamp", int(world.clock.epoch()))]
    assert len(world.give(world.request(DISCONNECT, dated).octets)) == 1


def test_what_is_remembered_is_bounded() -> None:
    world = World(ONE)
    for number in range(REMEMBERED + 300):
        source = Endpoint(PORTAL.address, 10000 + number)
        request = make_request(DISCONNECT, 1, SECRET, [("Acct-Session-Id", "none")])
        assert len(world.give(request.octets, source)) == 1
    assert len(world.dynamic._answers) <= REMEMBERED
    world.clock.advance(WINDOW + 1)
    world.ask(DISCONNECT, Acct_Session_Id="none")
    assert len(world.dynamic._answers) == 1


@given(st.binary(max_size=120), st.sampled_from([40, 43, 4, 1]), st.booleans())
def test_any_octets_change_nothing_or_are_answered(body: bytes, code: int, genuine: bool) -> None:
    world = World(ONE, TWO)
    if genuine:
        request = raw(Code(code), body)
        for answer in world.give(request.octets):
            reply = read_reply(answer, request, SECRET)
            assert reply.code.name.endswith(("ACK", "NAK"))
            if reply.code.name.endswith("NAK"):
                assert reply.attributes.integer("Error-Cause") in CAUSES
                assert world.broker.done == []
    else:
        assert world.give(body) == []
        assert world.broker.done == []


def test_names_are_those_of_the_dictionary() -> None:
    assert set(CODES) >= CHANGEABLE
    assert Received([(26, b"x")]).names() == ["Attr-26"]
