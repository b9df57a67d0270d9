# SPDX-License-Identifier: GPL-2.0-or-later
"""The same octets give the same messages however TCP cuts them, and no octets make a reader raise or grow."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.tsp.codec import (
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
    write_version,
)
from ddtb6.tsp.document import ACCEPT, write_create, write_delete
from ddtb6.tsp.messages import Authenticate, Capability, Create, Malformed, Request, SaslResponse, Version
from ddtb6.tsp.status import TspError

CREATE = write_create(Create(Encapsulation.V6UDPV4, "192.0.2.2", keepalive=30, prefix_length=56))
COMMANDS = [framed(CREATE), framed(ACCEPT), b"Content-length: 37\r\n" + ACCEPT, b"content-length:33\n" + ACCEPT]
SCRIPTS = [
    [b"VERSION=2.0.2\r\n", b"AUTHENTICATE PLAIN\r\n\0", b"\0alice\0s3cret\r\n"],
    [b"VERSION=2.0.2\r\n", b"AUTHENTICATE PLAIN\r\n", b"\0alice\0s3cret \r\n"],
    [b"VERSION=2.0.0\n", b"AUTHENTICATE DIGEST-MD5\r\n\0", b"Y2hhcnNldD11dGY4\r\n"],
    [b"VERSION=2.0.1\r", b"AUTHENTICATE DIGEST-MD5\r\b", b"\r\nY2hhcnNldD11dGY4\n"],
]
PHASES = (Phase.VERSION, Phase.AUTHENTICATE, Phase.SASL_LINE)


def seen(message: Request) -> object:
    """What tells two messages apart: exceptions compare by identity."""
    return (type(message.error), str(message.error)) if isinstance(message, Malformed) else message


def read_all(pieces: Sequence[bytes]) -> list[object]:
    """All messages of a stream, the phase going on with each as a negotiation would have it."""
    reader = StreamReader()
    messages: list[object] = []
    for piece in pieces:
        reader.feed(piece)
        assert len(reader._buffer) <= StreamReader.CAPACITY
        while True:
            phase = PHASES[len(messages)] if len(messages) < len(PHASES) else Phase.COMMAND
            message = reader.next(phase)
            if message is None:
                break
            messages.append(seen(message))
    return messages


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


sessions = st.builds(
    lambda opening, commands: b"".join(opening + commands),
    st.sampled_from(SCRIPTS),
    st.lists(st.sampled_from(COMMANDS), max_size=4),
)


@given(st.data(), sessions)
def test_every_cut_gives_the_same_messages(data: st.DataObject, stream: bytes) -> None:
    whole = read_all([stream])
    assert len(whole) >= 3
    assert not any(isinstance(each, tuple) for each in whole)
    assert read_all(data.draw(cut(stream))) == whole


def test_every_octet_by_itself() -> None:
    for script in SCRIPTS:
        stream = b"".join([*script, *COMMANDS])
        one_by_one = read_all([stream[at : at + 1] for at in range(len(stream))])
        assert one_by_one == read_all([stream])
        assert len(one_by_one) == 3 + len(COMMANDS)


@given(st.data(), sessions)
def test_mutated_streams_give_the_same_messages_too(data: st.DataObject, stream: bytes) -> None:
    octets = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(octets)))
        octets[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"\r", b"\n", b"\0", b"\r\n", b"\b", b"9"])
        )
    mutated = bytes(octets)
    assert read_all(data.draw(cut(mutated))) == read_all([mutated])


@given(st.lists(st.binary(max_size=3000) | st.sampled_from([b"\r\n", b"\0", *COMMANDS]), max_size=30))
def test_any_stream_is_read(pieces: list[bytes]) -> None:
    read_all(pieces)


texts = st.binary(max_size=300) | st.builds(
    lambda head, tail: head + tail,
    st.sampled_from([b"VERSION=", b"AUTHENTICATE ", b"Content-length: 35\r\n", b"CAPABILITY ", b"200", framed(ACCEPT)]),
    st.binary(max_size=40),
)


@given(texts)
def test_any_text_is_read(text: bytes) -> None:
    assert isinstance(read_version(text), Version | Malformed)
    assert isinstance(read_authenticate(text), Authenticate | Malformed)
    assert isinstance(read_sasl(text), SaslResponse | Malformed)
    assert read_command(text)
    for read in (read_capability, read_status, read_framed):
        with contextlib.suppress(TspError):
            assert read(text)


@given(st.lists(st.integers(0, 9999), min_size=2, max_size=3))
def test_version_round_trip(numbers: list[int]) -> None:
    version = ".".join(map(str, numbers))
    assert read_version(write_version(version)) == Version(version)
    assert Version(version).number == tuple(numbers)


@given(st.from_regex(r"\A[A-Z0-9_-]{1,20}\Z"))
def test_authenticate_round_trip(mechanism: str) -> None:
    assert read_authenticate(write_authenticate(mechanism)) == Authenticate(mechanism)


@given(
    st.lists(st.sampled_from(Encapsulation), unique=True).map(tuple),
    st.lists(st.from_regex(r"\A[A-Z0-9-]{1,20}\Z"), unique=True, max_size=9).map(tuple),
)
def test_capability_round_trip(encapsulations: tuple[Encapsulation, ...], mechanisms: tuple[str, ...]) -> None:
    capability = Capability(encapsulations, mechanisms)
    assert read_capability(write_capability(capability)) == capability


@given(st.binary(max_size=9000), st.integers(0, 9100))
def test_frames_say_what_is_missing(payload: bytes, arrived: int) -> None:
    whole = framed(payload)
    head = len(whole) - len(payload)
    part = read_framed(whole[: max(head, arrived)])
    assert whole == whole[:head] + part.payload + whole[len(whole) - part.missing :]
    assert read_framed(whole + b"x") == (payload, 0)


@given(
    st.binary(min_size=1).filter(lambda data: data[-1:] not in b"\r\n\0\b"),
    st.sampled_from([b"\r\n", b"\n", b"", b"\r\n\0"]),
)
def test_sasl_responses_lose_their_line_end_only(data: bytes, end: bytes) -> None:
    assert read_sasl(data + end) == SaslResponse(data)


@given(st.sampled_from([ACCEPT, write_delete()]), st.integers(0, 8192), st.sampled_from([b"", b"\0", b"\r\n"]))
def test_a_datagram_says_where_the_document_ends(xml: bytes, number: int, end: bytes) -> None:
    assert seen(read_command(b"Content-length: %d\r\n%b%b" % (number, xml, end))) == seen(read_command(framed(xml)))
