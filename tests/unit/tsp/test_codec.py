# SPDX-License-Identifier: GPL-2.0-or-later
"""Texts and streams of deployed clients, and what is made of those that nobody sends."""

from __future__ import annotations

import pytest

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.tsp.codec import (
    Framed,
    Phase,
    StreamReader,
    framed,
    read_authenticate,
    read_capability,
    read_command,
    read_framed,
    read_sasl,
    read_status,
    read_version,
    write_authenticate,
    write_capability,
    write_status,
    write_version,
)
from ddtb6.tsp.messages import (
    Accept,
    Authenticate,
    Capability,
    Create,
    Delete,
    Info,
    Malformed,
    Request,
    SaslResponse,
    Version,
)
from ddtb6.tsp.status import (
    SUCCESS,
    AuthenticationFailed,
    InvalidIPv4Address,
    InvalidRequest,
    NoMoreTunnels,
    TspError,
    UnsupportedVersion,
)

ACCEPT = b'<tunnel action="accept"></tunnel>\r\n'
CREATE = (
    b'<tunnel action="create" type="v6udpv4" proxy="no">\r\n <client>\r\n  <address type="ipv4">192.0.2.2</address>\r\n'
    b'  <keepalive interval="30">\r\n    <address type="ipv6">::</address>\r\n  </keepalive>\r\n </client>\r\n'
    b"</tunnel>\r\n"
)
GOGOC_PLAIN = bytes.fromhex(
    "41 55 54 48 45 4e 54 49 43 41 54 45 20 50 4c 41 49 4e 0d 0a 00 00 61 6c 69 63 65 00 73 33 63 72 65 74 0d 0a"
)


def code(message: Request | None) -> int:
    assert isinstance(message, Malformed)
    return message.error.code


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b"VERSION=2.0.2\r\n", "2.0.2"),
        (b"VERSION=2.0.0", "2.0.0"),
        (b"VERSION=2.0.1\n", "2.0.1"),
        (b"VERSION=1.0\r\n", "1.0"),
        (b"\0\r\nversion=2.0.2 \r\n\0", "2.0.2"),
    ],
)
def test_read_version(text: bytes, version: str) -> None:
    assert read_version(text) == Version(version)


@pytest.mark.parametrize(
    "text",
    [b"VERSION=", b"VERSION=two", b"VERSION=2", b"VERSION=2.0.0.0", b"VERSION=2.0.2 x", b"VERSION=2." + b"0" * 5000],
)
def test_an_unreadable_version_lets_the_client_fall_back(text: bytes) -> None:
    assert code(read_version(text)) == UnsupportedVersion.code


@pytest.mark.parametrize("text", [b"AUTHENTICATE PLAIN\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70000])
def test_no_version(text: bytes) -> None:
    assert code(read_version(text)) == InvalidRequest.code


@pytest.mark.parametrize("end", [b"\r\n\0", b"\r\n", b"\n", b"\r\b", b"", b" \r\n"])
def test_read_authenticate(end: bytes) -> None:
    assert read_authenticate(b"AUTHENTICATE DIGEST-MD5" + end) == Authenticate("DIGEST-MD5")
    assert read_authenticate(b"authenticate  plain" + end) == Authenticate("PLAIN")


@pytest.mark.parametrize("mechanism", [b"PLAIN now", b"A" * 21, b"\xff", b"-" * 5000])
def test_what_is_no_mechanism_fails_authentication(mechanism: bytes) -> None:
    assert code(read_authenticate(b"AUTHENTICATE " + mechanism)) == AuthenticationFailed.code


@pytest.mark.parametrize("text", [b"AUTHENTICATE", b"AUTHENTICATE\r\n", b"AUTHENTICATEPLAIN", b"VERSION=2.0.2\r\n"])
def test_no_authenticate(text: bytes) -> None:
    assert code(read_authenticate(text)) == InvalidRequest.code


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r\n\0", b"\n\0", b"\r\b", b""])
@pytest.mark.parametrize(
    "data", [b"\0alice\0s3cret", b"\0alice\0ends in blanks \t ", b"\0alice\0", b"Y2hhcnNldD11dGY4", b""]
)
def test_only_the_line_end_of_a_sasl_response_goes(data: bytes, end: bytes) -> None:
    assert read_sasl(data + end) == SaslResponse(data)


def test_a_sasl_response_that_nobody_needs() -> None:
    assert isinstance(read_sasl(b"x" * 2048), SaslResponse)
    assert code(read_sasl(b"x" * 2049)) == AuthenticationFailed.code


@pytest.mark.parametrize(
    "text",
    [
        b"Content-length: 35\r\n" + ACCEPT,
        b"content-LENGTH:35\n" + ACCEPT,
        b"Content-length : 33 \r\n" + ACCEPT.strip(),
        b"Content-length: 37\r\n" + ACCEPT + b"\r\n",
        b"Content-length: 234\r\n" + ACCEPT,
        b"Content-length: 1\r\n" + ACCEPT + b"\0",
        b"\0\r\nContent-length: 35\r\n\r\n" + ACCEPT,
    ],
)
def test_read_command(text: bytes) -> None:
    assert read_command(text) == Accept()


def test_read_a_captured_create() -> None:
    assert read_command(b"Content-length: 214\r\n" + CREATE) == Create(Encapsulation.V6UDPV4, "192.0.2.2", keepalive=30)


@pytest.mark.parametrize(
    "text",
    [
        ACCEPT,
        b"Content-length: 35",
        b"Content-length: x\r\n" + ACCEPT,
        b"Content-length: -1\r\n" + ACCEPT,
        b"Content-length: 8193\r\n" + ACCEPT,
        b"Content-length: 99999999999999999999\r\n" + ACCEPT,
        b"Content-length: 35\r\n" + ACCEPT[:20],
        b"Content-length: 35\r\n" + ACCEPT + b" " * 60000 + b"x",
        b"AUTHENTICATE PLAIN\r\n",
        b"",
    ],
)
def test_what_is_no_command(text: bytes) -> None:
    assert code(read_command(text)) == InvalidRequest.code


def test_a_refused_command_keeps_nothing_of_the_document() -> None:
    message = read_command(b"Content-length: 54\r\n<tunnel action='create' type='v6v4'></tunnel>\r\n")
    assert code(message) == InvalidIPv4Address.code
    assert isinstance(message, Malformed)
    assert message.error.__traceback__ is None
    assert message.error.__context__ is None


def received(*script: tuple[bytes, Phase]) -> list[Request | None]:
    reader = StreamReader()
    messages = []
    for data, phase in script:
        reader.feed(data)
        messages.append(reader.next(phase))
    return messages


class TestStream:
    @pytest.mark.parametrize("stray", [b"\0", b""])
    @pytest.mark.parametrize(
        "line", [b"\0alice\0s3cret", b"\0alice\0ends in blanks ", b"bob\0alice\0s3cret", b"\0alice\0"]
    )
    def test_plain_in_one_segment_with_and_without_stray_nul(self, line: bytes, stray: bytes) -> None:
        script = (b"AUTHENTICATE PLAIN\r\n" + stray + line + b"\r\n", Phase.AUTHENTICATE), (b"", Phase.SASL_LINE)
        assert received(*script) == [Authenticate("PLAIN"), SaslResponse(line)]

    def test_plain_as_captured(self) -> None:
        assert len(GOGOC_PLAIN) == 36
        script = (GOGOC_PLAIN, Phase.AUTHENTICATE), (b"", Phase.SASL_LINE), (b"", Phase.COMMAND)
        assert received(*script) == [Authenticate("PLAIN"), SaslResponse(b"\0alice\0s3cret"), None]

    def test_a_whole_session(self) -> None:
        script = (
            (b"VERSION=2.0.2\r\n", Phase.VERSION),
            (b"AUTHENTICATE DIGEST-MD5\r\n\0", Phase.AUTHENTICATE),
            (b"Y2hhcnNldD11\r\n", Phase.SASL_LINE),
            (b"Content-length: 214\r\n" + CREATE, Phase.COMMAND),
            (b"Content-length: 35\r\n" + ACCEPT, Phase.COMMAND),
        )
        assert received(*script) == [
            Version("2.0.2"),
            Authenticate("DIGEST-MD5"),
            SaslResponse(b"Y2hhcnNldD11"),
            Create(Encapsulation.V6UDPV4, "192.0.2.2", keepalive=30),
            Accept(),
        ]

    def test_several_messages_in_one_segment(self) -> None:
        reader = StreamReader()
        reader.feed(b"VERSION=2.0.2\r\nAUTHENTICATE ANONYMOUS\r\n\0Content-length: 35\r\n" + ACCEPT)
        phases = [Phase.VERSION, Phase.AUTHENTICATE, Phase.COMMAND, Phase.COMMAND]
        assert [reader.next(each) for each in phases] == [Version("2.0.2"), Authenticate("ANONYMOUS"), Accept(), None]

    def test_a_version_without_line_end_is_taken_after_a_pause(self) -> None:
        reader = StreamReader()
        reader.feed(b"VERSION=2.0.0")
        assert reader.next(Phase.VERSION) is None
        assert reader.next(Phase.VERSION, idle=True) == Version("2.0.0")
        reader.feed(b"AUTHENTICATE ANONYMOUS\r\n")
        assert reader.next(Phase.AUTHENTICATE) == Authenticate("ANONYMOUS")

    @pytest.mark.parametrize("data", [b"", b"VERSION=", b"VERSION=2.", b"hello"])
    def test_a_pause_does_not_make_a_version(self, data: bytes) -> None:
        reader = StreamReader()
        reader.feed(data)
        assert reader.next(Phase.VERSION, idle=True) is None

    def test_a_document_in_two_segments(self) -> None:
        script = (b"Content-length: 35\r\n" + ACCEPT[:20], Phase.COMMAND), (ACCEPT[20:], Phase.COMMAND)
        assert received(*script) == [None, Accept()]

    def test_a_pause_completes_nothing_else(self) -> None:
        reader = StreamReader()
        reader.feed(b"AUTHENTICATE PLAIN")
        assert reader.next(Phase.AUTHENTICATE, idle=True) is None

    @pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\0", b"\r", b"\r\n\0"])
    def test_version_ends(self, end: bytes) -> None:
        script = (b"VERSION=2.0.2" + end, Phase.VERSION), (b"AUTHENTICATE PLAIN\r\b", Phase.AUTHENTICATE)
        assert received(*script) == [Version("2.0.2"), Authenticate("PLAIN")]

    def test_blank_lines_before_a_sasl_response(self) -> None:
        script = (b"AUTHENTICATE DIGEST-MD5\r\n\0\r\n\r\nY2hh\r\n", Phase.AUTHENTICATE), (b"", Phase.SASL_LINE)
        assert received(*script)[1] == SaslResponse(b"Y2hh")

    @pytest.mark.parametrize("number", [33, 34, 35, 36, 37])
    def test_a_length_off_by_line_ends(self, number: int) -> None:
        reader = StreamReader()
        reader.feed(b"\r\n\0Content-length: %d\r\n%bContent-length: 37\r\n%b\r\n\r\n" % (number, ACCEPT, ACCEPT))
        assert [reader.next(Phase.COMMAND) for _ in range(3)] == [Accept(), Accept(), None]

    def test_a_length_that_counts_a_line_end_that_never_comes(self) -> None:
        assert received((b"Content-length: 35\r\n" + ACCEPT.strip(), Phase.COMMAND)) == [Accept()]

    def test_a_bad_document_costs_one_message(self) -> None:
        reader = StreamReader()
        reader.feed(b"Content-length: 9\r\n<tunnel/>Content-length: 29\r\n<tunnel action='delete'/>    ")
        assert code(reader.next(Phase.COMMAND)) == InvalidRequest.code
        assert reader.next(Phase.COMMAND) == Delete()

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_document_of_nothing(self, number: int) -> None:
        reader = StreamReader()
        reader.feed(b"Content-length: %d\r\n" % number + b"  " + b"Content-length: 24\r\n<tunnel action='info'/>\n")
        assert code(reader.next(Phase.COMMAND)) == InvalidRequest.code
        assert reader.next(Phase.COMMAND) == Info()

    @pytest.mark.parametrize(
        ("phase", "data"),
        [
            (Phase.VERSION, b"x" * 1024),
            (Phase.AUTHENTICATE, b"x" * 1024),
            (Phase.SASL_LINE, b"x" * 2048),
            (Phase.COMMAND, b"x" * 1024),
            (Phase.COMMAND, b"x\r\n"),
            (Phase.COMMAND, b"Content-length: 8193\r\n"),
            (Phase.COMMAND, b"Content-length: 8192\r\n" + b" " * 65536),
            (Phase.COMMAND, b" " * 65536 + b"Content-length: 35\r\n"),
            (Phase.VERSION, b"\0" * 65536),
        ],
    )
    def test_too_much_or_lost_framing_ends_the_stream(self, phase: Phase, data: bytes) -> None:
        reader = StreamReader()
        reader.feed(data)
        assert code(reader.next(phase)) == InvalidRequest.code
        reader.next(phase)
        assert reader.next(phase) is None
        reader.feed(b"Content-length: 35\r\n" + ACCEPT)
        assert reader.next(Phase.COMMAND) is None

    def test_what_is_held_is_bounded(self) -> None:
        reader = StreamReader()
        for _ in range(1000):
            reader.feed(b"x" * 1000)
        assert len(reader._buffer) == StreamReader.CAPACITY
        reader.next(Phase.VERSION)
        assert not reader._buffer

    def test_whole_messages_before_an_overflow_are_still_read(self) -> None:
        reader = StreamReader()
        reader.feed(b"VERSION=2.0.2\r\n" + b"x" * 70000)
        assert reader.next(Phase.VERSION) == Version("2.0.2")
        assert code(reader.next(Phase.AUTHENTICATE)) == InvalidRequest.code

    def test_an_endless_stream_of_blank_sasl_lines(self) -> None:
        reader = StreamReader()
        reader.feed(b"\r\n" * 40000)
        assert code(reader.next(Phase.SASL_LINE)) == InvalidRequest.code


def test_write_capability() -> None:
    capability = Capability((Encapsulation.V6V4, Encapsulation.V6UDPV4), ("ANONYMOUS", "PLAIN", "DIGEST-MD5"))
    line = b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"
    assert write_capability(capability) == line
    assert read_capability(line) == capability


def test_the_one_line_that_tsp_ruby_reads() -> None:
    capability = Capability((Encapsulation.V6V4, Encapsulation.V6UDPV4), ("DIGEST-MD5",))
    assert write_capability(capability) == b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=DIGEST-MD5\r\n"


@pytest.mark.parametrize(
    ("text", "capability"),
    [
        (b"CAPABILITY", Capability((), ())),
        (b"capability  AUTH=plain X TUNNEL=v6v4 TUNNEL=V9\n", Capability((Encapsulation.V6V4,), ("PLAIN",))),
        (b"CAPABILITY AUTH= AUTH=GSSAPI \xff\r\nAUTH=PLAIN", Capability((), ("GSSAPI",))),
    ],
)
def test_read_capability(text: bytes, capability: Capability) -> None:
    assert read_capability(text) == capability


@pytest.mark.parametrize("text", [b"", b"\r\n", b"200 Success\r\n", b"CAPABILITYTUNNEL=V6V4\r\n"])
def test_no_capability(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_capability(text)


def test_write_what_a_broker_says() -> None:
    assert write_status(SUCCESS) == b"200 Success\r\n"
    assert write_status(NoMoreTunnels().line) == b"301 No more tunnels available\r\n"
    assert write_status("500 \u00e9") == b"500 ?\r\n"
    assert framed(b"200 Success\r\n") == b"Content-length: 13\r\n200 Success\r\n"
    assert framed(b"200 Success\r\n" + b"x" * 660)[:21] == b"Content-length: 673\r\n"


def test_write_what_a_client_says() -> None:
    assert write_version("2.0.2") == b"VERSION=2.0.2\r\n"
    assert write_authenticate("PLAIN") == b"AUTHENTICATE PLAIN\r\n"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"200 Success\r\n", (200, "Success", b"")),
        (b"200 OK\n<tunnel/>\r\n", (200, "OK", b"<tunnel/>\r\n")),
        (b"1200 Redirection\r\n<tunnel/>\r\n\0", (1200, "Redirection", b"<tunnel/>\r\n\0")),
        (b"300", (300, "", b"")),
        (b"530 \x1b[2J busy\r\n", (530, "?[2J busy", b"")),
    ],
)
def test_read_status(text: bytes, status: tuple[int, str, bytes]) -> None:
    assert read_status(text) == status


@pytest.mark.parametrize("text", [b"", b"OK Authentication successful\r\n", b"20", b"20000 x\r\n", b"200Y2hh\r\n"])
def test_no_status(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_status(text)


def test_read_framed_says_what_is_missing() -> None:
    whole = framed(b"200 Success\r\n")
    assert read_framed(whole) == Framed(b"200 Success\r\n", 0)
    assert read_framed(whole + b"more") == Framed(b"200 Success\r\n", 0)
    assert read_framed(whole[:-5]) == Framed(b"200 Succ", 5)
    assert read_framed(b"Content-length: 65536\r\n") == Framed(b"", 65536)


@pytest.mark.parametrize("text", [b"", b"200 Success\r\n", b"Content-length: 65537\r\n", b"Content-length: 13"])
def test_no_frame(text: bytes) -> None:
    with pytest.raises(TspError):
        read_framed(text)
