# SPDX-License-Identifier: GPL-2.0-or-later
r"""Conversations of clients with the broker, octet for octet, under virtual time. Each ``*.tsp`` here is one.

    # a comment, alone on its line
    ! account alice s3cret      how the broker is set up; before anything else (see `Script.options`)
    --- udp 203.0.113.5:40001   who speaks from here on; over TCP, a new connection from a new port
    C: text                     the client says this: over UDP under its next sequence number, over TCP in one segment
    C[f00000f0 0000022a]: text  the same under this header
    C again:                    the datagram before once more, its timestamp later
    S: text                     what the broker answers, under the header of what it answers; ``S:`` alone: no text
    S in pieces: text           an answer that comes in several pieces, fetched by polls
    S nothing                   the broker says nothing
    S closes                    the broker closes the connection
    @ +2s                       time passes
    ping                        a keepalive goes through the speaker's tunnel and is answered; ``ping lost`` it is not
    = alice 203.0.113.5:40001 2001:db8:0:1::2 2001:db8:100::/56
                                the tunnels that stand, one a line, oldest first; ``= none``
    ended replaced              sessions that have ended since this was last asked, in order, by their reasons

Text has the escapes of Python; lines that begin with `` |`` go on with it; ``#`` after ``Content-length: `` is the
right number; ``{text}`` is text in base64. Everything that the broker says must be there, and nothing else may come.
"""

from __future__ import annotations

import abc
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.stored import now
from support.virtual import SERVER, FakeConnection, World, world

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker.admission import Gate
from ddtb6.broker.events import LoggedIn, SessionEnded

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("*.tsp"))
OUTER = 28
"""Octets of IPv4 and UDP headers."""


@dataclass
class Line:
    number: int
    verb: str
    text: str


def lines_of(path: Path) -> list[Line]:
    found: list[Line] = []
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        if raw.startswith(" |"):
            found[-1].text += raw[2:]
        elif raw and not raw.startswith("#"):
            match = re.fullmatch(r"(C(?:\[.*?\])?|C again|S|S in pieces):(?: (.*))?|(\S+)(?: (.*))?", raw)
            assert match is not None, f"{path.name}:{number}: {raw}"
            found.append(Line(number, match[1] or match[3], match[2] or match[4] or ""))
    return found


def octets(text: str) -> bytes:
    """The text of a C or S line."""
    said = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
    said = re.sub(rb"\{([^}]*)\}", lambda inner: b64encode(inner[1]), said)
    head, mark, rest = said.partition(b"Content-length: #\r\n")
    return head + b"Content-length: %d\r\n" % len(rest) + rest if mark else said


class Speaker(abc.ABC):
    """A client as the script has it."""

    def __init__(self, lab: World, remote: Endpoint) -> None:
        self.lab, self.remote = lab, remote
        self.unread: list[bytes] = []

    @abc.abstractmethod
    def say(self, text: bytes, header: bytes | None = None) -> None: ...

    @abc.abstractmethod
    def hear(self) -> bytes:
        """The next thing that the broker said."""

    def quiet(self) -> bool:
        return not self.unread


class UdpSpeaker(Speaker):
    """Counts its messages on as gogoCLIENT does; may say each one several times, and be answered each time."""

    def __init__(self, lab: World, remote: Endpoint, copies: int) -> None:
        super().__init__(lab, remote)
        self.copies = copies
        self.sequence, self.time = 0xF0, 0x22A
        self.received = self.sent = 0
        self.last = self.answer = b""
        self.answered = False

    def say(self, text: bytes, header: bytes | None = None) -> None:
        self.time += 7
        if header is None:
            header = (0xF0000000 | self.sequence).to_bytes(4, "big") + self.time.to_bytes(4, "big")
            self.sequence += 1
        self.last, self.answered = header + text, False
        self.transmit(self.last)

    def again(self) -> None:
        order = "big" if self.last[0] >> 4 == 0xF else "little"
        stamp = (int.from_bytes(self.last[4:8], order) + 2000) & 0xFFFFFFFF
        self.last = self.last[:4] + stamp.to_bytes(4, order) + self.last[8:]
        self.transmit(self.last)

    def transmit(self, datagram: bytes) -> None:
        self.received += OUTER + len(datagram)
        for answer in self.lab.datagram(datagram, self.remote):
            self.sent += OUTER + len(answer)
            assert answer[:8] == datagram[:8], "answered under another header"
            assert len(answer) <= 1200
            self.unread.append(answer[8:])
        if not self.proven:
            assert self.sent <= 3 * self.received, f"{self.sent} octets for {self.received}"

    @property
    def proven(self) -> bool:
        """Whether somebody at this endpoint has logged in by what takes having received the challenge, or a secret."""
        link = Link(Carrier.UDP, SERVER, self.remote)
        logins = [each for each in self.lab.events if isinstance(each, LoggedIn) and each.link == link]
        return any(each.mechanism != "ANONYMOUS" for each in logins)

    def hear(self) -> bytes:
        assert self.unread, "the broker said nothing"
        self.answer, self.answered = self.unread.pop(0), True
        return self.answer

    def repeat(self) -> None:
        """Say the last message again: the answer is the same, and nothing happens twice."""
        for _ in range(self.copies if self.answered else 0):
            events = len(self.lab.events)
            self.again()
            assert self.unread == [self.answer], "a copy is answered otherwise"
            assert len(self.lab.events) == events
            self.unread.clear()
        self.answered = False


class TcpSpeaker(Speaker):
    """May cut what it says into single octets."""

    def __init__(self, lab: World, remote: Endpoint, cut: bool) -> None:
        super().__init__(lab, remote)
        self.cut = cut
        self.connection: FakeConnection = lab.connect(remote)

    def say(self, text: bytes, header: bytes | None = None) -> None:
        assert header is None
        for piece in [bytes([each]) for each in text] if self.cut else [text]:
            self.connection.protocol.dataReceived(piece)
        self.lab.clock.advance(0)

    def quiet(self) -> bool:
        self.unread += self.connection.taken()
        return not self.unread

    def hear(self) -> bytes:
        assert not self.quiet(), "the broker said nothing"
        return self.unread.pop(0)


class Script:
    """One conversation, played once."""

    def __init__(self, path: Path, tmp_path: Path, copies: int = 0, cut: bool = False) -> None:
        self.path, self.directory = path, tmp_path
        self.copies, self.cut = copies, cut
        self.lines = lines_of(path)
        self.speakers: dict[Endpoint, Speaker] = {}
        self.ended = 0

    def options(self) -> dict[str, Any]:
        """What the ``!`` lines ask for."""
        asked: dict[str, Any] = {"accounts": {}}
        for line in self.lines:
            if line.verb != "!":
                continue
            match line.text.split():
                case ["account", name, password]:
                    asked["accounts"][name] = password
                case ["realm", realm]:
                    asked["realm"] = realm
                case ["nonce", *nonces]:
                    asked["nonces"] = iter([each.encode() for each in nonces])
                case ["nonces", "fresh"]:
                    asked["nonces"] = (b"n%d" % number for number in count(1))
                case ["mechanisms", *names]:
                    asked["mechanisms"] = tuple(names)
                case ["burst", burst]:
                    asked["gate"] = Gate(1.0, int(burst), 1000.0, 1000)
                case ["policy", name, value]:
                    asked[name] = float(value) if "." in value else int(value)
                case ["say", "once"]:
                    self.copies = 0
                case other:
                    raise AssertionError(f"{self.path.name}:{line.number}: {other}")
        return asked

    def play(self) -> list[tuple[object, ...]]:
        """Every line; returns what was written down in the end."""
        options = self.options()
        with world(self.directory, **options) as lab:
            try:
                self._play(lab)
            except AssertionError as error:
                raise AssertionError(f"{self.path.name}:{self.at}: {error}") from error
            return [
                (each.id, each.owner, each.remote, each.address, each.prefix, each.reason)
                for each in now(lab.store.past_sessions())
            ]

    def _play(self, lab: World) -> None:
        speaker: Any = None
        tunnels: list[str] | None = None
        for line in [*self.lines, Line(0, "end", "")]:
            self.at = line.number or "end"
            if tunnels is not None and line.verb != "=":
                self._compare(lab, tunnels)
                tunnels = None
            if line.verb[0] in "C@-=ep" and speaker is not None:
                for each in self.speakers.values():
                    assert each.quiet(), f"the broker said {each.unread}"
                if isinstance(speaker, UdpSpeaker):
                    speaker.repeat()
            match line.verb:
                case "!" | "end":
                    pass
                case "---":
                    speaker = self._speaker(lab, *line.text.split())
                case "C":
                    speaker.say(octets(line.text))
                case "C again":
                    speaker.again()
                case "S":
                    if line.text == "nothing":
                        assert speaker.quiet(), f"the broker said {speaker.unread}"
                    elif line.text == "closes":
                        assert not speaker.connection.connected
                    else:
                        assert speaker.hear() == octets(line.text)
                case "S in pieces":
                    self._pieces(speaker, octets(line.text))
                case "@":
                    match = re.fullmatch(r"\+([0-9.]+)s", line.text)
                    assert match
                    lab.pass_time(float(match[1]))
                case "ping":
                    [session] = [each for each in lab.live() if each.spec.remote == speaker.remote] or [None]
                    assert (session is not None and lab.ping(session)) == (line.text != "lost")
                case "=":
                    tunnels = [*(tunnels or []), line.text]
                case "ended":
                    ends = [each.ending.reason.value for each in lab.events if isinstance(each, SessionEnded)]
                    assert ends[self.ended :] == line.text.split()
                    self.ended = len(ends)
                case verb:
                    match = re.fullmatch(r"C\[([0-9a-f]{8}) ([0-9a-f]{8})\]", verb)
                    assert match, verb
                    speaker.say(octets(line.text), bytes.fromhex(match[1] + match[2]))

    def _speaker(self, lab: World, carrier: str, where: str) -> Speaker:
        address, port = where.rsplit(":", 1)
        remote = Endpoint(address, int(port))
        if carrier == "tcp":
            assert remote not in self.speakers, "a connection has a port of its own"
            self.speakers[remote] = TcpSpeaker(lab, remote, self.cut)
        elif remote not in self.speakers:
            self.speakers[remote] = UdpSpeaker(lab, remote, self.copies)
        return self.speakers[remote]

    @staticmethod
    def _pieces(speaker: UdpSpeaker, whole: bytes) -> None:
        got = speaker.hear()
        assert len(got) < len(whole), "it came in one piece"
        while len(got) < len(whole):
            speaker.repeat()
            speaker.say(b"")
            piece = speaker.hear()
            assert piece, f"polls bring no more than {got!r}"
            got += piece
        assert got == whole

    @staticmethod
    def _compare(lab: World, expected: list[str]) -> None:
        lab.round()
        shown = [
            " ".join(
                [
                    each.user or "guest",
                    str(each.spec.remote),
                    str(each.spec.address),
                    *([str(each.spec.prefix)] if each.spec.prefix else []),
                ]
            )
            for each in lab.live()
        ]
        assert (shown or ["none"]) == expected


def carriers(path: Path) -> Iterator[str]:
    yield from re.findall(r"^--- (\w+)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_as_it_stands(path: Path, tmp_path: Path) -> None:
    Script(path, tmp_path).play()


@pytest.mark.parametrize("path", [each for each in SCRIPTS if "udp" in carriers(each)], ids=lambda path: path.stem)
def test_every_datagram_said_three_times(path: Path, tmp_path: Path) -> None:
    """The answers are the same, under each copy's own header; nothing is executed or written down twice."""
    for name in ("once", "thrice"):
        (tmp_path / name).mkdir()
    once = Script(path, tmp_path / "once").play()
    thrice = Script(path, tmp_path / "thrice", copies=2).play()
    assert thrice == once


@pytest.mark.parametrize("path", [each for each in SCRIPTS if "tcp" in carriers(each)], ids=lambda path: path.stem)
def test_tcp_octet_by_octet(path: Path, tmp_path: Path) -> None:
    Script(path, tmp_path, cut=True).play()


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 30


def test_no_script_goes_unplayed() -> None:
    assert not [each for each in HERE.iterdir() if each.suffix not in (".tsp", ".py", "") and each.is_file()]
