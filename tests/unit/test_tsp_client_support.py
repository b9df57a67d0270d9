# SPDX-License-Identifier: GPL-2.0-or-later
"""The scripted client says what gogoCLIENT 1.2 was seen to say."""

from __future__ import annotations

import base64
import hashlib

import pytest
from support.traffic import echo_request
from support.tsp_client import create_document, digest_proof, framed, read_offer

OFFER = (
    b'<tunnel action="info" type="v6udpv4" lifetime="604800"><server><address type="ipv4">192.0.2.1</address>'
    b'<address type="ipv6">2001:0db8:0000:0001:0000:0000:0000:0001</address></server><client><address type="ipv4">'
    b'192.0.2.2</address><address type="ipv6">2001:0db8:0000:0001:0000:0000:0000:0002</address><address type="dn">'
    b'alice.broker.example.net</address><router><prefix length="56">2001:0db8:00ab:cd00:0000:0000:0000:0000</prefix>'
    b'</router><dns_server><address type="ipv6">2001:0db8:0000:0000:0000:0000:0000:0053</address></dns_server>'
    b'<keepalive interval="30"><address type="ipv6">2001:0db8:0000:0001:0000:0000:0000:0001</address></keepalive>'
    b"</client></tunnel>\r\n"
)


def challenge(nonce: str) -> bytes:
    return base64.b64encode(f'realm="labrealm",nonce="{nonce}",qop="auth",algorithm=md5-sess,charset=utf8'.encode())


def test_create_has_the_length_that_was_captured() -> None:
    document = create_document(address="192.0.2.2")
    assert len(document) == 214
    assert framed(document).startswith(b'Content-length: 214\r\n<tunnel action="create" type="v6udpv4" proxy="no">\r\n')


def test_the_captured_proof() -> None:
    proof, rspauth = digest_proof("alice", "s3cret", challenge("179521187277"), cnonce="1795211872")
    assert b"response=30f1bb353fb3d6f8e18df74579756f60" in base64.b64decode(proof)
    assert rspauth == "7aaa1080122ff410e0a0614d6b083d44"


def test_the_captured_proof_of_a_client_that_truncates() -> None:
    secret = hashlib.md5(b"alice:labrealm:p23").digest()
    assert b"\0" in secret
    for version, response in (
        ("2.0.0", b"70aded2fb97af4971631ae74ee8c99ac"),
        ("2.0.1", b"329938f2fc51d227c33bd3b7f23ed08d"),
    ):
        proof, _ = digest_proof("alice", "p23", challenge("179521318077"), cnonce="1795213180", version=version)
        assert b"response=" + response in base64.b64decode(proof)


def test_the_reply_that_every_known_client_takes() -> None:
    assert len(OFFER) == 660
    offer = read_offer(OFFER)
    assert offer.prefix == "2001:0db8:00ab:cd00:0000:0000:0000:0000/56"
    assert (offer.keepalive, offer.name) == (30, "alice.broker.example.net")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"2001:0db8:0000:0001:0000:0000:0000:0002", b"2001:db8:0:1::2"),
        (b"<dns_server>", b"<other>"),
        (b"</server>", b"</server>\n"),
        (b'type="v6udpv4"', b'type="v6anyv4"'),
    ],
)
def test_a_reply_that_some_client_chokes_on_is_not_taken(old: bytes, new: bytes) -> None:
    broken = OFFER.replace(old, new).replace(b"</dns_server>", b"</other>" if new == b"<other>" else b"</dns_server>")
    with pytest.raises(AssertionError):
        read_offer(broken)


def test_the_keepalive_packet_is_like_the_captured_one() -> None:
    packet = echo_request("2001:db8:0:1::2", "2001:db8:0:1::1")
    assert len(packet) == 64
    assert packet[4:8] == bytes.fromhex("00183a40")
    words = packet[8:40] + bytes.fromhex("000000180000003a") + packet[40:]
    assert sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2)) % 0xFFFF == 0
