# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 decode`: what gogoCLIENT 1.2 says, in every form of input; secrets; garbage."""

from __future__ import annotations

import base64
import json
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.captures import BROKER, CLIENT, pcap, tcp, udp

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.cli.capture import NotACapture, is_capture
from ddtb6.cli.decode import decode, text_of
from ddtb6.cli.main import main

VERSION = bytes.fromhex("f00000f00000022a") + b"VERSION=2.0.2\r\n"
PLAIN_OVER_TCP = b"AUTHENTICATE PLAIN\r\n\0\0alice\0s3cret\r\n"
RESPONSE = (
    b'charset=utf8,username="alice",realm="labrealm",nonce="179521187277",nc=00000001,cnonce="1795211872",'
    b'digest-uri="tsp/192.0.2.1",response=30f1bb353fb3d6f8e18df74579756f60,qop=auth'
)
CREATE = (
    b'Content-length: 214\r\n<tunnel action="create" type="v6udpv4" proxy="no">\r\n <client>\r\n'
    b'  <address type="ipv4">192.0.2.2</address>\r\n  <keepalive interval="30">\r\n'
    b'    <address type="ipv6">::</address>\r\n  </keepalive>\r\n </client>\r\n</tunnel>\r\n'
)


def shown(octets: bytes, *, show_secrets: bool = False) -> list[str]:
    lines = []
    for message in decode(octets, show_secrets=show_secrets):
        lines += text_of(message).split("\n")
    return lines


def datagram(text: bytes, sequence: int = 240) -> bytes:
    return (0xF0000000 | sequence).to_bytes(4, "big") + (554).to_bytes(4, "big") + text


def test_raw_datagram() -> None:
    assert shown(VERSION) == ["C: [f00000f0 0000022a sequence 240, time 554] VERSION=2.0.2"]


def test_little_endian_header_of_2004() -> None:
    (line,) = shown(bytes.fromhex("000000f02a020000") + b"VERSION=2.0.0")
    assert line == "C: [000000f0 2a020000 sequence 0, time 554, little-endian] VERSION=2.0.0"


@pytest.mark.parametrize(
    "text",
    [
        VERSION.hex(),
        VERSION.hex(" ").upper(),
        VERSION.hex(":"),
        VERSION.hex(" ", 2) + "\n",
        "0x0000:  f000 00f0 0000 022a 5645 5253 494f 4e3d  .......*VERSION=\n"
        "0x0010:  322e 302e 320d 0a                        2.0.2..\n",
        "00000000: f000 00f0 0000 022a 5645 5253 494f 4e3d  .......*VERSION=\n00000010: 322e 302e 320d 0a  2.0.2..\n",
        "00000000  f0 00 00 f0 00 00 02 2a  56 45 52 53 49 4f 4e 3d  |.......*VERSION=|\n"
        "00000010  32 2e 30 2e 32 0d 0a                              |2.0.2..|\n00000017\n",
    ],
)
def test_hex_in_every_form(text: str) -> None:
    assert shown(text.encode()) == shown(VERSION)


def test_hex_of_whole_packets_and_of_several_datagrams() -> None:
    text = f"{udp(VERSION).hex()}\n\n{datagram(b'', 241).hex()}\n"
    first, second = decode(text.encode())
    assert (first.conversation, first.sender) == ("udp 198.51.100.7:4001 - 192.0.2.1:3653", "C")
    assert (second.conversation, second.lines) == ("", ("(nothing)",))


def test_a_whole_conversation_over_udp() -> None:
    challenge = base64.b64encode(b'realm="labrealm",nonce="1",qop="auth",algorithm=md5-sess,charset=utf8')
    proof = base64.b64encode(b"rspauth=7aaa1080122ff410e0a0614d6b083d44")
    said = [
        (b"VERSION=2.0.2\r\n", b"CAPABILITY TUNNEL=V6UDPV4 AUTH=DIGEST-MD5\r\n"),
        (b"AUTHENTICATE DIGEST-MD5\r\n\0", challenge + b"\r\n"),
        (base64.b64encode(RESPONSE) + b"\r\n", proof + b"\r\n"),
        (b"", b"200 Success\r\n"),
        (CREATE, b"Content-length: 40\r\n301 No more tunnels available\r\n<tunnel/>\r\n"),
        (b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n', b""),
    ]
    frames = []
    for place, (client, server) in enumerate(said):
        frames += [udp(datagram(client, 240 + place)), udp(datagram(server, 240 + place), BROKER, CLIENT)]
    lines = [line[13:].partition("] ")[2] or line for line in shown(pcap(frames))]
    assert lines == [
        "VERSION=2.0.2",
        "CAPABILITY TUNNEL=V6UDPV4 AUTH=DIGEST-MD5",
        "AUTHENTICATE DIGEST-MD5",
        '(base64) realm="labrealm",nonce="1",qop="auth",algorithm=md5-sess,charset=utf8',
        '(base64) charset=utf8,username="alice",realm="labrealm",nonce="179521187277",nc=00000001,cnonce="1795211872",'
        'digest-uri="tsp/192.0.2.1",response=********,qop=auth',
        "(base64) rspauth=********",
        "(poll: nothing but the header)",
        "200 Success",
        "Content-length: 214",
        '                <tunnel action="create" type="v6udpv4" proxy="no">',
        "                  <client>",
        '                    <address type="ipv4">192.0.2.2</address>',
        '                    <keepalive interval="30">',
        '                      <address type="ipv6">::</address>',
        "                    </keepalive>",
        "                  </client>",
        "                </tunnel>",
        "Content-length: 40",
        "                301 No more tunnels available",
        "                <tunnel/>",
        "Content-length: 35",
        '                <tunnel action="accept"></tunnel>',
        "(nothing but the header)",
    ]


def test_plain_over_tcp_cut_anywhere() -> None:
    for cut in range(1, len(PLAIN_OVER_TCP)):
        frames = [
            tcp(PLAIN_OVER_TCP[:cut], 1),
            tcp(PLAIN_OVER_TCP[cut:], 1 + cut),
            tcp(b"200 Success\r\n", 1, 0x18, BROKER, CLIENT),
        ]
        assert [line[13:] for line in shown(pcap(frames))] == [
            "C: AUTHENTICATE PLAIN",
            "   (PLAIN) user alice, password ********",
            "S: 200 Success",
        ]


def test_secrets_show_only_when_asked_for() -> None:
    for octets in (
        PLAIN_OVER_TCP,
        datagram(b"\0alice\0s3cret\r\n"),
        b"\0alice\0s3cret\r\n",
        b"AUTHENTICATE PLAIN\r\n\0alice s3cret\r\n",
        b"AUTHENTICATE PLAIN\r\n\0\0VERSION=\0s3cret\r\n",
        b"alice\0s3cret\r\n",
        b"\0\0\0s3cret",
        base64.b64encode(b"\0alice\0s3cret") + b"\r\n",
    ):
        assert "s3cret" not in "".join(shown(octets)), octets
    assert any("password s3cret" in line for line in shown(PLAIN_OVER_TCP, show_secrets=True))
    digest = base64.b64encode(RESPONSE)
    assert "30f1bb353fb3d6f8" not in "".join(shown(digest))
    assert "30f1bb353fb3d6f8" in "".join(shown(digest, show_secrets=True))


def test_plain_password_is_hidden_between_polls() -> None:
    frames = [
        udp(datagram(b"AUTHENTICATE PLAIN\r\n\0", 241)),
        udp(datagram(b"", 241), BROKER, CLIENT),
        udp(datagram(b"no-nul-s3cret\r\n", 242)),
    ]
    assert "s3cret" not in "".join(shown(pcap(frames)))


def test_data_packets_are_summarised() -> None:
    packet = bytes.fromhex("6000000000083a40") + bytes(15) + b"\2" + bytes(15) + b"\1" + b"\x80" + bytes(7)
    frames = [udp(VERSION), *[udp(packet), udp(packet, BROKER, CLIENT)] * 20, udp(VERSION), udp(packet)]
    assert [line[13:] for line in shown(pcap(frames))] == [
        "C: [f00000f0 0000022a sequence 240, time 554] VERSION=2.0.2",
        "C: (data) 48 octets, ::2 to ::1, ICMPv6 echo request",
        "   and 39 packets more, 19 of them from the client",
        "C: [f00000f0 0000022a sequence 240, time 554] VERSION=2.0.2",
        "C: (data) 48 octets, ::2 to ::1, ICMPv6 echo request",
    ]


def test_terminals_are_not_steered() -> None:
    assert "\x1b" not in "".join(shown(datagram(b"VERSION=\x1b[2J\r\n")))
    assert "\x1b" not in "".join(shown(base64.b64encode(b"realm=\x9b\x1b]0;x\x07, aaaaaaaaaaaaaaaaaaaa")))


@given(st.binary(max_size=400))
def test_any_octets(octets: bytes) -> None:
    try:
        messages = list(decode(octets))
    except NotACapture:
        assert is_capture(octets)
        return
    for message in messages:
        assert message.lines
        assert text_of(message).replace("\n", "").isprintable()


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([b"", VERSION, PLAIN_OVER_TCP, CREATE]), st.binary(max_size=60)))
)
def test_any_conversation(said: list[tuple[bool, bytes, bytes]]) -> None:
    frames = []
    for place, (from_client, start, rest) in enumerate(said):
        ends = (CLIENT, BROKER) if from_client else (BROKER, CLIENT)
        frames += [udp(start + rest, *ends), tcp(start + rest, place * 1000, 0x18, *ends)]
    for message in decode(pcap(frames)):
        assert text_of(message).replace("\n", "").isprintable()


@given(st.binary(min_size=4, max_size=20).filter(lambda password: not set(password) & set(b"\0\r\n*")))
def test_no_password_in_whatever_shape_it_comes(password: bytes) -> None:
    hidden = b"zq" + password.hex().encode() + b"qz"
    for frame in (b"\0u\0" + hidden + b"\r\n", b"\0u\0" + hidden, b"u\0u\0" + hidden + b"\r\n\0"):
        frames = [udp(datagram(b"AUTHENTICATE PLAIN\r\n\0", 1)), udp(datagram(frame, 2)), tcp(frame, 1)]
        assert hidden.decode() not in "".join(shown(pcap(frames)))


# --- the command --------------------------------------------------------------------------------------------------


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "capture.pcap"
    path.write_bytes(pcap([udp(VERSION), udp(VERSION, Endpoint("198.51.100.8", 9))]))
    assert main(["decode", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "--- udp 198.51.100.7:4001 - 192.0.2.1:3653",
        "00:16:40.000 C: [f00000f0 0000022a sequence 240, time 554] VERSION=2.0.2",
        "--- udp 198.51.100.8:9 - 192.0.2.1:3653",
        "00:16:41.000 C: [f00000f0 0000022a sequence 240, time 554] VERSION=2.0.2",
    ]
    assert main(["decode", "--json", VERSION.hex()]) == 0
    assert json.loads(capsys.readouterr().out)[0]["lines"] == ["VERSION=2.0.2"]
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(VERSION)))
    assert main(["decode", "-"]) == 0
    assert "VERSION=2.0.2" in capsys.readouterr().out


def test_command_refuses_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = tmp_path / "x.pcapng"
    newer.write_bytes(b"\x0a\x0d\x0d\x0a" + bytes(60))
    for source in ("nothing-of-that-name", str(tmp_path), str(newer), "x" * 5000):
        assert main(["decode", source]) == 1
        error = capsys.readouterr().err
        assert error.startswith("ddtb6: ")
        assert error.count("\n") == 1
