# SPDX-License-Identifier: GPL-2.0-or-later
"""The client role against what brokers say: sessions as captured, and everything that may go wrong in them."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.texts import CHARACTERS

from ddtb6.addressing.endpoint import Carrier, Encapsulation
from ddtb6.sasl.credentials import DigestProof
from ddtb6.sasl.digest import check, parse_directives, user_secret
from ddtb6.tsp.client import POLL_LIMIT, REPLY_LIMIT, TEXT_LIMIT, ClientNegotiation
from ddtb6.tsp.document import write_reply
from ddtb6.tsp.messages import Create, Delete, Info, Keepalive, Offer
from ddtb6.tsp.outcomes import (
    BrokerNotAuthentic,
    Done,
    Effect,
    Failed,
    OlderVersion,
    Poll,
    Redirect,
    Retry,
    UnreadableReply,
    Wish,
    Write,
)
from ddtb6.tsp.status import (
    AuthenticationFailed,
    NoMoreTunnels,
    PrefixForAnonymous,
    PrefixLengthUnavailable,
    ServerBusy,
    ServerError,
    UnsupportedTunnelType,
    UnsupportedVersion,
)

CAPABILITY = b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5 AUTH=PASSDSS-3DES-1\r\n"
SUCCESS = b"200 Success\r\n"
CHALLENGE = (
    base64.b64encode(b'realm="labrealm",nonce="179521187277",qop="auth",algorithm=md5-sess,charset=utf8') + b"\r\n"
)
CNONCE = b"1795211872"
RSPAUTH = base64.b64encode(b"rspauth=7aaa1080122ff410e0a0614d6b083d44") + b"\r\n"

CREATE = Create(Encapsulation.V6UDPV4, "192.0.2.2", keepalive=30)
CREATE_TEXT = (
    b"Content-length: 214\r\n"
    b'<tunnel action="create" type="v6udpv4" proxy="no">\r\n'
    b" <client>\r\n"
    b'  <address type="ipv4">192.0.2.2</address>\r\n'
    b'  <keepalive interval="30">\r\n'
    b'    <address type="ipv6">::</address>\r\n'
    b"  </keepalive>\r\n"
    b" </client>\r\n"
    b"</tunnel>\r\n"
)
ACCEPT = b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'
OFFER = Offer(
    encapsulation=Encapsulation.V6UDPV4,
    lifetime=604800,
    server_outer="192.0.2.1",
    server_inner=IPv6Address("2001:db8:0:1::1"),
    client_outer="192.0.2.2",
    client_inner=IPv6Address("2001:db8:0:1::2"),
    prefix=IPv6Network("2001:db8:ab:cd00::/56"),
    name="alice.broker.example.net",
    resolver=IPv6Address("2001:db8::53"),
    keepalive=Keepalive(30, IPv6Address("2001:db8:0:1::1")),
)


def framed(text: bytes) -> bytes:
    return b"Content-length: %d\r\n%b" % (len(text), text)


CREATED = framed(SUCCESS + write_reply(OFFER))
ACCEPTED = framed(SUCCESS)

ALICE = Wish(CREATE, "192.0.2.1", user="alice", password="s3cret")
NOBODY = Wish(CREATE, "192.0.2.1")
UDP, TCP = Carrier.UDP, Carrier.TCP


def negotiation(wish: Wish = ALICE, carrier: Carrier = UDP, version: str = "2.0.2") -> ClientNegotiation:
    return ClientNegotiation(wish, carrier, CNONCE, version)


def converse(role: ClientNegotiation, *replies: bytes) -> list[Effect]:
    """All effects of these replies, in order."""
    assert role.start().startswith(b"VERSION=")
    effects: list[Effect] = []
    for reply in replies:
        effects += role.receive(reply)
    return effects


def last(role: ClientNegotiation, *replies: bytes) -> Effect:
    return converse(role, *replies)[-1]


def failure(role: ClientNegotiation, *replies: bytes) -> Failed:
    effect = last(role, *replies)
    assert isinstance(effect, Failed)
    assert role.receive(SUCCESS) == []
    return effect


# --- captured sessions --------------------------------------------------------------------------------------------


def test_anonymous() -> None:
    assert converse(negotiation(NOBODY), CAPABILITY, SUCCESS, CREATED, ACCEPTED) == [
        Write(b"AUTHENTICATE ANONYMOUS\r\n"),
        Write(CREATE_TEXT),
        Write(ACCEPT),
        Done(OFFER),
    ]


def test_version_line() -> None:
    assert negotiation().start() == b"VERSION=2.0.2\r\n"


PLAIN = replace(ALICE, mechanism="PLAIN")
PLAIN_WRITES = [Write(b"AUTHENTICATE PLAIN\r\n"), Write(b"\0alice\0s3cret\r\n")]


def test_plain_over_udp_waits_for_the_acknowledgement() -> None:
    role = negotiation(PLAIN)
    role.start()
    assert role.receive(CAPABILITY) == PLAIN_WRITES[:1]
    assert role.receive(b"") == PLAIN_WRITES[1:]
    assert role.receive(SUCCESS) == [Write(CREATE_TEXT)]


def test_plain_over_tcp_sends_both_messages_at_once() -> None:
    role = negotiation(PLAIN, TCP)
    assert converse(role, CAPABILITY) == PLAIN_WRITES
    assert role.receive(SUCCESS) == [Write(CREATE_TEXT)]
    assert role.receive(CREATED) == [Write(ACCEPT), Done(OFFER)]


def test_digest_over_udp_polls_for_the_status_after_rspauth() -> None:
    role = negotiation()
    role.start()
    assert role.receive(CAPABILITY) == [Write(b"AUTHENTICATE DIGEST-MD5\r\n")]
    [response] = role.receive(CHALLENGE)
    assert isinstance(response, Write)
    directives = parse_directives(base64.b64decode(response.text))
    # The values of a live capture of gogoCLIENT 1.2.
    assert directives[b"response"] == b"30f1bb353fb3d6f8e18df74579756f60"
    assert directives[b"digest-uri"] == b"tsp/192.0.2.1"
    assert role.receive(RSPAUTH) == [Poll()]
    assert role.receive(SUCCESS) == [Write(CREATE_TEXT)]
    assert role.receive(CREATED) == [Write(ACCEPT)]
    assert role.receive(b"") == [Done(OFFER)]
    assert role.mechanism == "DIGEST-MD5"


def test_digest_over_tcp_waits_for_the_status() -> None:
    role = negotiation(carrier=TCP)
    converse(role, CAPABILITY, CHALLENGE)
    assert role.receive(RSPAUTH) == []
    assert role.receive(SUCCESS) == [Write(CREATE_TEXT)]


@pytest.mark.parametrize("carrier", [UDP, TCP])
def test_digest_with_rspauth_and_status_together(carrier: Carrier) -> None:
    assert last(negotiation(carrier=carrier), CAPABILITY, CHALLENGE, RSPAUTH + SUCCESS) == Write(CREATE_TEXT)


def test_a_whole_tcp_session_in_any_pieces() -> None:
    role = negotiation(carrier=TCP)
    role.start()
    effects: list[Effect] = []
    for reply in (CAPABILITY, CHALLENGE, RSPAUTH, SUCCESS, CREATED):
        for octet in reply:
            effects += role.receive(bytes([octet]))
    assert effects[-2:] == [Write(ACCEPT), Done(OFFER)]


def test_prefix_is_asked_for() -> None:
    role = negotiation(replace(NOBODY, request=replace(CREATE, prefix_length=56)))
    effect = last(role, CAPABILITY, SUCCESS)
    assert isinstance(effect, Write)
    assert b'<prefix length="56"/>' in effect.text


def test_info_and_delete() -> None:
    assert converse(negotiation(replace(NOBODY, request=Info())), CAPABILITY, SUCCESS, CREATED)[-2:] == [
        Write(framed(b'<tunnel action="info"></tunnel>\r\n')),
        Done(OFFER),
    ]
    assert converse(negotiation(replace(NOBODY, request=Delete())), CAPABILITY, SUCCESS, ACCEPTED)[-2:] == [
        Write(framed(b'<tunnel action="delete"></tunnel>\r\n')),
        Done(None),
    ]


# --- replies in pieces --------------------------------------------------------------------------------------------


def test_an_offer_in_pieces_is_polled_for() -> None:
    role = negotiation(NOBODY)
    converse(role, CAPABILITY, SUCCESS)
    assert role.receive(CREATED[:5]) == [Poll()]
    assert role.receive(CREATED[5:200]) == [Poll()]
    assert role.receive(b"") == [Poll()]
    assert role.receive(CREATED[200:]) == [Write(ACCEPT)]


def test_a_line_that_was_cut_is_polled_for() -> None:
    role = negotiation()
    role.start()
    assert role.receive(CAPABILITY[:40]) == [Poll()]
    assert role.receive(CAPABILITY[40:]) == [Write(b"AUTHENTICATE DIGEST-MD5\r\n")]


def test_a_line_without_an_end_ends_where_a_poll_fetches_nothing() -> None:
    role = negotiation(NOBODY)
    role.start()
    assert role.receive(CAPABILITY.rstrip()) == [Poll()]
    assert role.receive(b"") == [Write(b"AUTHENTICATE ANONYMOUS\r\n")]


def test_a_broker_that_says_nothing_is_not_polled_for_ever() -> None:
    role = negotiation()
    role.start()
    for _ in range(POLL_LIMIT):
        assert role.receive(b"") == [Poll()]
    assert isinstance(role.receive(b"")[0], Failed)


@pytest.mark.parametrize("carrier", [UDP, TCP])
def test_a_reply_without_end_is_not_kept_for_ever(carrier: Carrier) -> None:
    role = negotiation(carrier=carrier)
    role.start()
    effects: list[Effect] = []
    for _ in range(REPLY_LIMIT // 1000 + 1):
        effects += role.receive(b"x" * 1000)
    assert isinstance(effects[-1], Failed)
    assert isinstance(effects[-1].error, UnreadableReply)


def test_the_end_of_the_stream_ends_a_line_and_else_the_negotiation() -> None:
    role = negotiation(carrier=TCP)
    assert converse(role, b"300 Authentication failed") == []
    [effect] = role.closed()
    assert isinstance(effect, Failed)
    assert isinstance(effect.error, AuthenticationFailed)
    role = negotiation(carrier=TCP)
    converse(role, CAPABILITY)
    [effect] = role.closed()
    assert isinstance(effect, Failed)
    assert isinstance(effect.error, UnreadableReply)
    assert role.closed() == []


# --- choosing -----------------------------------------------------------------------------------------------------


def offering(*tokens: str) -> bytes:
    return ("CAPABILITY " + " ".join(tokens) + "\r\n").encode()


def test_plain_is_not_used_only_because_the_broker_offers_nothing_else() -> None:
    effect = failure(negotiation(), offering("TUNNEL=V6UDPV4", "AUTH=PLAIN"))
    assert isinstance(effect.error, AuthenticationFailed)
    assert "PLAIN" in str(effect.error)
    assert effect.retry is Retry.LATER


def test_plain_is_used_where_it_is_allowed_and_there_is_nothing_better() -> None:
    allowed = replace(ALICE, allow_plain=True)
    assert last(negotiation(allowed), offering("TUNNEL=V6UDPV4", "AUTH=PLAIN")) == PLAIN_WRITES[0]
    assert last(negotiation(allowed), CAPABILITY) == Write(b"AUTHENTICATE DIGEST-MD5\r\n")


def test_a_user_is_never_anonymous_and_nobody_is_never_a_user() -> None:
    assert isinstance(failure(negotiation(), offering("TUNNEL=V6UDPV4", "AUTH=ANONYMOUS")).error, AuthenticationFailed)
    assert isinstance(
        failure(negotiation(NOBODY), offering("TUNNEL=V6UDPV4", "AUTH=PLAIN")).error, AuthenticationFailed
    )


def test_a_mechanism_that_was_asked_for_must_be_offered() -> None:
    effect = failure(negotiation(PLAIN), offering("TUNNEL=V6UDPV4", "AUTH=DIGEST-MD5"))
    assert "DIGEST-MD5" in str(effect.error)


def test_plain_cannot_carry_every_password() -> None:
    assert isinstance(
        failure(negotiation(replace(PLAIN, password="a\nb")), CAPABILITY, b"").error, AuthenticationFailed
    )


def test_the_tunnel_type_must_be_offered() -> None:
    effect = failure(negotiation(), offering("TUNNEL=V6V4", "AUTH=DIGEST-MD5"))
    assert isinstance(effect.error, UnsupportedTunnelType)
    assert "v6v4" in str(effect.error)
    anything = replace(ALICE, request=replace(CREATE, encapsulation=Encapsulation.V6ANYV4))
    assert isinstance(last(negotiation(anything), offering("TUNNEL=V6UDPV4", "AUTH=DIGEST-MD5")), Write)
    assert isinstance(failure(negotiation(anything), offering("AUTH=DIGEST-MD5")).error, UnsupportedTunnelType)


def test_a_type_that_is_not_carried_is_given_back() -> None:
    reply = framed(SUCCESS + write_reply(replace(OFFER, encapsulation=Encapsulation.V6V4)))
    reject, failed = converse(negotiation(NOBODY), CAPABILITY, SUCCESS, reply)[-2:]
    assert reject == Write(b'Content-length: 35\r\n<tunnel action="reject"></tunnel>\r\n')
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, UnsupportedTunnelType)


@pytest.mark.parametrize(
    "change",
    [
        {"client_inner": IPv6Address("ff02::1")},
        {"client_inner": IPv6Address("::1")},
        {"server_inner": IPv6Address("fe80::1")},
        {"keepalive": Keepalive(30, IPv6Address("::"))},
        {"prefix": IPv6Network("2000::/3")},
        {"prefix": IPv6Network("ff00::/56")},
    ],
)
def test_addresses_that_nobody_can_have_are_given_back(change: dict[str, object]) -> None:
    reply = framed(SUCCESS + write_reply(replace(OFFER, **change)))  # type: ignore[arg-type]
    effect = failure(negotiation(NOBODY), CAPABILITY, SUCCESS, reply)
    assert isinstance(effect.error, UnreadableReply)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_older_versions_are_fallen_back_to_until_there_is_none() -> None:
    refusal = b"302 Unsupported client version\r\n"
    assert converse(negotiation(), refusal) == [OlderVersion("2.0.1")]
    assert converse(negotiation(version="2.0.1"), refusal) == [OlderVersion("2.0.0")]
    assert negotiation(version="2.0.0").start() == b"VERSION=2.0.0\r\n"
    assert isinstance(failure(negotiation(version="2.0.0"), refusal).error, UnsupportedVersion)


@pytest.mark.parametrize("carrier", [UDP, TCP])
def test_busy_broker(carrier: Carrier) -> None:
    effect = failure(negotiation(carrier=carrier), b"530 Server too busy\r\n")
    assert isinstance(effect.error, ServerBusy)
    assert effect.retry is Retry.SOON


@pytest.mark.parametrize("replies", [(), (CHALLENGE,), (CHALLENGE, RSPAUTH)])
def test_refused_log_in_at_every_step(replies: tuple[bytes, ...]) -> None:
    effect = failure(negotiation(), CAPABILITY, *replies, b"300 Authentication failed\r\n")
    assert isinstance(effect.error, AuthenticationFailed)
    assert effect.retry is Retry.LATER


def test_refused_plain() -> None:
    assert isinstance(failure(negotiation(PLAIN), CAPABILITY, b"", b"300 No\r\n").error, AuthenticationFailed)
    assert isinstance(failure(negotiation(PLAIN), CAPABILITY, b"300 No\r\n").error, AuthenticationFailed)


@pytest.mark.parametrize(
    ("line", "error", "retry"),
    [
        (b"301 No more tunnels\r\n", NoMoreTunnels, Retry.SOON),
        (b"303 Unsupported tunnel type\r\n", UnsupportedTunnelType, Retry.LATER),
        (b"507 Not that long\r\n", PrefixLengthUnavailable, Retry.LATER),
        (b"522 Log in for one\r\n", PrefixForAnonymous, Retry.LATER),
        (b"444 What is this\r\n", ServerError, Retry.SOON),
    ],
)
@pytest.mark.parametrize("frame", [framed, bytes])
def test_refused_create(line: bytes, error: type[Exception], retry: Retry, frame: type[bytes]) -> None:
    effect = failure(negotiation(NOBODY), CAPABILITY, SUCCESS, frame(line))
    assert type(effect.error) is error
    assert effect.retry is retry
    assert line[4:].strip().decode() in str(effect.error)


def test_refused_accept() -> None:
    effect = failure(negotiation(NOBODY), CAPABILITY, SUCCESS, CREATED, framed(b"310 Server side error\r\n"))
    assert isinstance(effect.error, ServerError)


def test_wrong_rspauth_is_the_end() -> None:
    forged = base64.b64encode(b"rspauth=" + b"0" * 32) + b"\r\n"
    effect = failure(negotiation(), CAPABILITY, CHALLENGE, forged + SUCCESS)
    assert isinstance(effect.error, BrokerNotAuthentic)
    assert effect.retry is Retry.LATER


def test_success_without_rspauth_is_the_end() -> None:
    assert isinstance(failure(negotiation(), CAPABILITY, CHALLENGE, SUCCESS).error, UnreadableReply)


@pytest.mark.parametrize("challenge", [b"????\r\n", b"AAAA\r\n", base64.b64encode(b'nonce="x"') + b"\r\n"])
def test_challenges_that_are_none(challenge: bytes) -> None:
    assert isinstance(failure(negotiation(), CAPABILITY, challenge).error, UnreadableReply)


def test_text_of_the_broker_is_passed_on_short_and_printable() -> None:
    effect = failure(negotiation(), b"300 \x1b[2J" + b"x" * 1000 + b"\r\n")
    assert "\x1b" not in str(effect.error)
    assert len(str(effect.error)) <= TEXT_LIMIT


# --- redirection --------------------------------------------------------------------------------------------------

LIST = (
    b"1200 Redirection\r\n"
    b'<tunnel action="list" type="broker"><broker><address type="ipv4">192.0.2.11</address></broker>'
    b'<broker><address type="dn">b2.example.net</address></broker></tunnel>\r\n'
)
ELSEWHERE = Redirect(("192.0.2.11", "b2.example.net"))


@pytest.mark.parametrize("carrier", [UDP, TCP])
def test_redirection_at_version_and_at_create(carrier: Carrier) -> None:
    assert last(negotiation(NOBODY, carrier), LIST) == ELSEWHERE
    assert last(negotiation(NOBODY, carrier), CAPABILITY, LIST + b"\0") == ELSEWHERE
    assert last(negotiation(NOBODY, carrier), CAPABILITY, SUCCESS, framed(LIST)) == ELSEWHERE


def test_a_list_in_pieces() -> None:
    role = negotiation()
    role.start()
    assert role.receive(LIST[:100]) == [Poll()]
    assert role.receive(LIST[100:]) == [ELSEWHERE]


def test_an_empty_list_is_the_refusal_that_its_code_says() -> None:
    effect = failure(negotiation(), b'1301 Full\r\n<tunnel action="list" type="broker"></tunnel>\r\n')
    assert isinstance(effect.error, NoMoreTunnels)


# --- hostile brokers ----------------------------------------------------------------------------------------------

BOMB = (
    b'<!DOCTYPE t [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b'<tunnel action="info">&b;</tunnel>\r\n'
)


@pytest.mark.parametrize(
    "reply",
    [
        framed(SUCCESS + BOMB),
        framed(SUCCESS),
        framed(SUCCESS + b"<tunnel" + b"<a>" * 1000),
        b"Content-length: 999999999\r\n200",
        b"Content-length: -1\r\n200",
        b"Content-length: 3\r\n" + SUCCESS,
        b"\xff" * 1000 + b"\r\n",
        b"<tunnel/>\r\n",
    ],
)
def test_results_that_are_none(reply: bytes) -> None:
    assert isinstance(failure(negotiation(NOBODY), CAPABILITY, SUCCESS, reply).error, UnreadableReply)


GOOD = (CAPABILITY, CHALLENGE, RSPAUTH, SUCCESS, CREATED, ACCEPTED, LIST, b"", b"302 x\r\n", b"300 x\r\n")


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(GOOD)), max_size=12), st.sampled_from([UDP, TCP]))
def test_no_sequence_of_replies_raises_and_an_end_is_an_end(replies: list[bytes], carrier: Carrier) -> None:
    role = negotiation(carrier=carrier)
    role.start()
    over = False
    for reply in replies:
        effects = role.receive(reply)
        assert not (over and effects)
        over = over or any(isinstance(each, Done | Failed | Redirect | OlderVersion) for each in effects)
        if carrier is TCP:
            assert Poll() not in effects
        else:
            assert effects or over, "over UDP something is always outstanding"
    assert over or carrier is UDP or role.closed()


@given(st.data())
def test_mutated_sessions_end_in_documented_effects(data: st.DataObject) -> None:
    role = negotiation()
    role.start()
    for reply in (CAPABILITY, CHALLENGE, RSPAUTH, SUCCESS, CREATED, ACCEPTED):
        at = data.draw(st.integers(0, len(reply) - 1))
        mutated = reply[:at] + data.draw(st.binary(max_size=3)) + reply[at + 1 :]
        for effect in role.receive(mutated):
            assert isinstance(effect, Effect)


@given(
    st.text(CHARACTERS, min_size=1),
    st.text(CHARACTERS),
)
def test_every_name_and_password_proves_itself(user: str, password: str) -> None:
    role = negotiation(replace(ALICE, user=user, password=password))
    response = last(role, CAPABILITY, CHALLENGE)
    assert isinstance(response, Write)
    said = parse_directives(base64.b64decode(response.text))
    proof = DigestProof(
        user=user,
        realm="labrealm",
        nonce=said[b"nonce"],
        cnonce=said[b"cnonce"],
        nonce_count=said[b"nc"],
        digest_uri=said[b"digest-uri"],
        response=said[b"response"],
    )
    rspauth = check(proof, user_secret(user, "labrealm", password))
    assert rspauth is not None
    assert role.receive(base64.b64encode(b"rspauth=" + rspauth.encode()) + b"\r\n") == [Poll()]
