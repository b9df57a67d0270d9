# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets: the examples of the RFCs, every malformed form, and any octets at all."""

from __future__ import annotations

import hashlib
import hmac
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.radius.attributes import Attribute, Unencodable
from ddtb6.radius.packets import (
    Code,
    Fault,
    Incoming,
    Refused,
    Request,
    make_reply,
    make_request,
    read_reply,
    read_request,
)

SECRET = b"xyzzy5461"
RANDOM = bytes(range(100, 116))
ASKED = make_request(Code.ACCESS_REQUEST, 7, SECRET, [("User-Name", "nemo")], RANDOM)


def octets(text: str) -> bytes:
    return bytes.fromhex(text)


def answer(body: bytes = b"", code: int = 2, identifier: int = 7, *, asked: Request = ASKED, length: int = 0) -> bytes:
    """A reply made by hand; signed with the secret whatever `body` is."""
    head = struct.pack("!BBH", code, identifier, length or 20 + len(body))
    return head + hashlib.md5(head + asked.authenticator + body + SECRET).digest() + body


def signature(body: bytes, code: int = 2, *, asked: Request = ASKED) -> bytes:
    """The Message-Authenticator of a reply whose attributes are one of zeros and then `body`."""
    head = struct.pack("!BBH", code, 7, 38 + len(body))
    empty = b"\x50\x12" + bytes(16) + body
    return b"\x50\x12" + hmac.digest(SECRET, head + asked.authenticator + empty, "md5") + body


def fault(datagram: bytes, asked: Request = ASKED, secret: bytes = SECRET) -> Fault:
    with pytest.raises(Refused) as caught:
        read_reply(datagram, asked, secret)
    return caught.value.fault


# --- the examples of the RFCs -------------------------------------------------------------------------------------


def test_log_in_of_rfc_2865() -> None:
    """Section 7.1; the example has no Message-Authenticator, which stands first in what we send."""
    random = octets("0f403f9473978057bd83d5cb98f4227a")
    attributes: list[Attribute] = [
        ("User-Name", "nemo"),
        ("User-Password", b"arctangent"),
        ("NAS-IP-Address", IPv4Address("192.168.1.16")),
        ("NAS-Port", 3),
    ]
    request = make_request(Code.ACCESS_REQUEST, 0, SECRET, attributes, random)
    assert request.octets[:4] == octets("0100004a")
    assert request.octets[4:20] == request.authenticator == random
    assert request.octets[20:22] == b"\x50\x12"
    assert request.octets[38:] == octets("01066e656d6f02120dbe708d93d413ce3196e43f782a0aee0406c0a80110050600000003")
    reply = read_reply(
        octets("0200002686fe220e7624ba2a1005f6bf9b55e0b20606000000010f06000000000e06c0a80103"), request, SECRET, "one"
    )
    assert (reply.code, reply.signed, reply.server) == (Code.ACCESS_ACCEPT, False, "one")
    assert reply.attributes.names() == ["Service-Type", "Attr-15", "Attr-14"]
    assert reply.attributes.integer("Service-Type") == 1


def test_status_server_of_rfc_5997() -> None:
    """Sections 6.1 and 6.2."""
    at_auth = make_request(Code.STATUS_SERVER, 218, SECRET, [], octets("8a54f4686fb394c52866e302185d0623"))
    assert at_auth.octets == octets("0cda00268a54f4686fb394c52866e302185d062350125a665e2e1e8411f3e243822097c84fa3")
    reply = read_reply(octets("02da0014ef0d552a4bf2d693ec2b6fe8b5411d66"), at_auth, SECRET)
    assert reply.code is Code.ACCESS_ACCEPT
    at_acct = make_request(Code.STATUS_SERVER, 179, SECRET, [], octets("925f6b66dd5fed571fcb1db7ad388260"))
    assert at_acct.octets == octets("0cb30026925f6b66dd5fed571fcb1db7ad3882605012e8d6eabda910875cd91fdade26367858")
    # The RFC prints 02 for the code of this answer, and 5 below it; the authenticator is that of 5.
    reply = read_reply(octets("05b300140f6f92145f107e2f504e860a4860669c"), at_acct, SECRET)
    assert reply.code is Code.ACCOUNTING_RESPONSE


def test_accounting_request_is_signed_by_its_authenticator() -> None:
    """RFC 2866 section 3: MD5 over the packet with an authenticator of zeros, and the secret."""
    request = make_request(Code.ACCOUNTING_REQUEST, 9, SECRET, [("Acct-Status-Type", "Start"), ("Acct-Delay-Time", 0)])
    assert request.octets[:4] == octets("04090020")
    assert request.octets[20:] == octets("280600000001290600000000")
    expected = hashlib.md5(request.octets[:4] + bytes(16) + request.octets[20:] + SECRET).digest()
    assert request.octets[4:20] == request.authenticator == expected
    assert read_reply(answer(code=5, identifier=9, asked=request), request, SECRET).code is Code.ACCOUNTING_RESPONSE
    assert read_request(request.octets, SECRET).attributes.integer("Acct-Status-Type") == 1


def test_access_request_has_its_signature_first() -> None:
    """RFC 2869 section 5.14: HMAC-MD5 over the packet with 16 zeros in its place."""
    unsigned = ASKED.octets[:22] + bytes(16) + ASKED.octets[38:]
    assert ASKED.octets[20:22] == b"\x50\x12"
    assert ASKED.octets[22:38] == hmac.digest(SECRET, unsigned, "md5")


# --- answers ------------------------------------------------------------------------------------------------------


def test_signed_answers() -> None:
    for body in (b"", b"\x12\x06hey!", b"\x1a\x08\x00\x00\x00\x09\x01\x00"):
        reply = read_reply(answer(signature(body)), ASKED, SECRET)
        assert reply.signed
    behind = b"\x12\x06hey!"
    empty = behind + b"\x50\x12" + bytes(16)
    made = hmac.digest(SECRET, struct.pack("!BBH", 2, 7, 44) + RANDOM + empty, "md5")
    assert read_reply(answer(behind + b"\x50\x12" + made), ASKED, SECRET).signed


def test_padding_is_ignored() -> None:
    """RFC 2865 section 3."""
    assert read_reply(answer(b"\x12\x06hey!") + b"padding", ASKED, SECRET).attributes.text("Reply-Message") == "hey!"


def test_vendor_attributes_are_left_alone() -> None:
    """Also one whose inner length is 0, on which pyrad 2.1 would split for ever."""
    for body in (b"\x1a\x02", b"\x1a\x06\x00\x00\x00\x09", b"\x1a\x0a\x00\x00\x00\x09\x01\x00ab"):
        assert read_reply(answer(body), ASKED, SECRET).attributes.names() == ["Attr-26"]


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"", Fault.MALFORMED),
        (answer()[:19], Fault.MALFORMED),
        (answer(length=19), Fault.MALFORMED),
        (answer(length=21), Fault.MALFORMED),
        (answer(length=0xFFFF), Fault.MALFORMED),
        (answer(bytes((18, 200)) + bytes(198)) + bytes(5000), None),
        (answer((bytes((18, 255)) + bytes(253)) * 17), Fault.MALFORMED),
        (answer(b"\x12"), Fault.MALFORMED),
        (answer(b"\x12\x00"), Fault.MALFORMED),
        (answer(b"\x12\x01"), Fault.MALFORMED),
        (answer(b"\x12\x04a"), Fault.MALFORMED),
        (answer(b"\x12\x06hey!\x19"), Fault.MALFORMED),
        (answer(b"\x50\x11" + bytes(15)), Fault.MALFORMED),
        (answer(b"\x50\x02"), Fault.MALFORMED),
        (answer(signature(b"") + signature(b"")), Fault.MALFORMED),
        (answer(identifier=8), Fault.NOT_EXPECTED),
        (answer(code=5), Fault.WRONG_CODE),
        (answer(code=1), Fault.WRONG_CODE),
        (answer(code=77), Fault.WRONG_CODE),
        (answer()[:4] + bytes(16), Fault.WRONG_AUTHENTICATOR),
        (b"\x03" + answer()[1:], Fault.WRONG_AUTHENTICATOR),
        (answer(b"\x12\x06hey!")[:-1] + b"?", Fault.WRONG_AUTHENTICATOR),
        (answer(b"\x50\x12" + bytes(16)), Fault.WRONG_MESSAGE_AUTHENTICATOR),
        (answer(signature(b"\x12\x06hey!")[:-1] + b"?"), Fault.WRONG_MESSAGE_AUTHENTICATOR),
    ],
)
def test_what_is_dropped(datagram: bytes, expected: Fault | None) -> None:
    if expected is None:
        assert read_reply(datagram, ASKED, SECRET).code is Code.ACCESS_ACCEPT
    else:
        assert fault(datagram) is expected


def test_wrong_secret() -> None:
    assert fault(answer(), secret=b"another") is Fault.WRONG_AUTHENTICATOR


@given(st.binary(max_size=200), st.booleans())
def test_any_octets_are_an_answer_or_refused(body: bytes, genuine: bool) -> None:
    """Also what a server that knows the secret can send."""
    try:
        reply = read_reply(answer(body) if genuine else body, ASKED, SECRET)
    except Refused:
        return
    assert genuine
    assert reply.attributes.names() is not None


# --- requests of others -------------------------------------------------------------------------------------------


def disconnect(*attributes: Attribute, code: Code = Code.DISCONNECT_REQUEST) -> bytes:
    return make_request(code, 3, SECRET, attributes).octets


def test_dynamic_authorization() -> None:
    """RFC 5176 section 3.5: request and answer are signed as accounting is."""
    asked = read_request(disconnect(("Acct-Session-Id", "1"), ("Proxy-State", b"b"), ("Proxy-State", b"a")), SECRET)
    assert (asked.code, asked.identifier, asked.signed) == (Code.DISCONNECT_REQUEST, 3, False)
    assert asked.attributes.text("Acct-Session-Id") == "1"
    sent = make_request(
        Code.DISCONNECT_REQUEST,
        3,
        SECRET,
        [("Acct-Session-Id", "1"), ("Proxy-State", b"b"), ("Proxy-State", b"a")],
    )
    datagram = make_reply(Code.DISCONNECT_NAK, asked, SECRET, [("Error-Cause", "Session-Context-Not-Found")])
    reply = read_reply(datagram, sent, SECRET)
    assert (reply.code, reply.signed) == (Code.DISCONNECT_NAK, False)
    assert reply.attributes.integer("Error-Cause") == 503
    assert reply.attributes.octets("Proxy-State") == (b"b", b"a")


def test_signed_dynamic_authorization() -> None:
    """RFC 5176 section 3.5: the Message-Authenticator of a request is made with an authenticator of zeros."""
    body = b"\x50\x12" + bytes(16) + b"\x2c\x03x"
    head = struct.pack("!BBH", 43, 3, 20 + len(body))
    body = b"\x50\x12" + hmac.digest(SECRET, head + bytes(16) + body, "md5") + body[18:]
    authenticator = hashlib.md5(head + bytes(16) + body + SECRET).digest()
    asked = read_request(head + authenticator + body, SECRET)
    assert asked.signed
    sent = Request(Code.COA_REQUEST, 3, authenticator, b"")
    assert read_reply(make_reply(Code.COA_ACK, asked, SECRET), sent, SECRET).signed
    body = body[:3] + bytes((body[3] ^ 1,)) + body[4:]
    authenticator = hashlib.md5(head + bytes(16) + body + SECRET).digest()
    with pytest.raises(Refused) as caught:
        read_request(head + authenticator + body, SECRET)
    assert caught.value.fault is Fault.WRONG_MESSAGE_AUTHENTICATOR


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"", Fault.MALFORMED),
        (disconnect()[:-1], Fault.MALFORMED),
        (disconnect(("Class", b"abc"))[:-1], Fault.MALFORMED),
        (disconnect()[:4] + bytes(16), Fault.WRONG_AUTHENTICATOR),
        (ASKED.octets, Fault.WRONG_CODE),
        (disconnect(code=Code.COA_REQUEST)[1:].join((b"\x29", b"")), Fault.WRONG_CODE),
    ],
)
def test_requests_that_are_dropped(datagram: bytes, expected: Fault) -> None:
    with pytest.raises(Refused) as caught:
        read_request(datagram, SECRET)
    assert caught.value.fault is expected


@given(st.binary(max_size=200), st.booleans())
def test_any_octets_are_a_request_or_refused(body: bytes, genuine: bool) -> None:
    head = struct.pack("!BBH", 40, 1, 20 + len(body))
    datagram = head + hashlib.md5(head + bytes(16) + body + SECRET).digest() + body if genuine else body
    try:
        asked = read_request(datagram, SECRET)
    except Refused:
        return
    assert isinstance(asked, Incoming)
    assert genuine


def test_too_much_for_a_packet() -> None:
    with pytest.raises(Unencodable, match="a packet of 4100 octets; 4096 are possible"):
        make_request(Code.ACCOUNTING_REQUEST, 0, SECRET, [("Class", bytes(253))] * 16)


def test_nothing_secret_is_shown() -> None:
    request = make_request(Code.ACCESS_REQUEST, 0, SECRET, [("User-Password", b"arctangent")], RANDOM)
    assert "octets" not in repr(request)
    assert str(Refused(Fault.UNSIGNED)) == "unsigned"
