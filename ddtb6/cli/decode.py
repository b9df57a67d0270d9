# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 decode`: a capture, a hex dump or raw octets of TSP as readable text, ``C:`` and ``S:`` in front of messages.

Invariants: no input makes it fail other than with a sentence; without ``--show-secrets`` no password and no proof of
one is shown, also where the conversation around it is missing or broken.
Not here: packets (`cli.capture`), what a broker makes of the messages (`tsp`).
"""

from __future__ import annotations

import argparse
import binascii
import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv6Address
from pathlib import Path

from ddtb6.addressing.endpoint import Carrier, Endpoint
from ddtb6.cli import capture, output
from ddtb6.cli.capture import Payload
from ddtb6.cli.main import Failure
from ddtb6.tsp import framing

PORT = 3653
MASK = "********"
LONGEST_TEXT = 65536
"""Octets of one message that are shown."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="FILE|-|HEX",
        help="a pcap file, a file of hex or of raw octets, - for standard input, or hex itself",
    )
    parser.add_argument("--port", type=int, default=PORT, help="port of the broker in a capture (default: 3653)")
    parser.add_argument("--show-secrets", action="store_true", help="show passwords and proofs of them")
    output.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    messages = decode(_octets(arguments.source), port=arguments.port, show_secrets=arguments.show_secrets)
    try:
        if arguments.json:
            output.print_json([asdict(each) for each in messages])
            return 0
        conversation = ""
        for each in messages:
            if each.conversation != conversation:
                conversation = each.conversation
                print(f"--- {conversation}")
            print(text_of(each))
    except capture.NotACapture as error:
        raise Failure(f"{arguments.source}: {error}") from None
    return 0


def _octets(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    path = Path(source)
    try:
        if path.exists():
            return path.read_bytes()
    except OSError as error:
        if not _hex_datagrams(source):
            raise Failure(f"{source[:80]} cannot be read: {error.strerror}") from None
    if _hex_datagrams(source):
        return source.encode()
    raise Failure(f"{source[:80]} is neither a file nor hex")


@dataclass(frozen=True, slots=True)
class Message:
    """One thing that was said."""

    sender: str
    """``C`` the client, ``S`` the broker, ``?`` unknown."""
    lines: tuple[str, ...]
    header: str = ""
    """The reliable-UDP header in words; empty over TCP."""
    time: float | None = None
    """Epoch seconds."""
    conversation: str = ""
    """The two ends, the client's first; empty where they are not known."""
    data: bool = False
    """It is a tunnelled packet, or a run of them."""


def text_of(message: Message) -> str:
    """A message as lines of text."""
    time = f"{output.when(message.time)[11:19]}.{int(message.time % 1 * 1000):03} " if message.time is not None else ""
    header = f"[{message.header}] " if message.header else ""
    start = f"{time}{message.sender}: "
    first, *rest = message.lines
    return "\n".join([f"{start}{header}{first}", *(f"{' ' * len(start)}{line}" for line in rest)])


def decode(octets: bytes, *, port: int = PORT, show_secrets: bool = False) -> Iterator[Message]:
    """What `octets`, a capture, hex or one raw datagram, say. Raises capture.NotACapture.

    Of a run of tunnelled packets only the first is shown, and how many follow it.
    """
    run: list[Message] = []
    for message in _messages(octets, port, show_secrets):
        if message.data and (not run or run[0].conversation == message.conversation):
            run.append(message)
            continue
        yield from _summary(run)
        run = [message] if message.data else []
        if not message.data:
            yield message
    yield from _summary(run)


def _summary(run: list[Message]) -> Iterator[Message]:
    if len(run) == 1:
        yield run[0]
    elif run:
        by_client = sum(each.sender == "C" for each in run[1:])
        more = f"and {len(run) - 1} packets more, {by_client} of them from the client"
        yield replace(run[0], lines=(*run[0].lines, more))


def _messages(octets: bytes, port: int, show_secrets: bool) -> Iterator[Message]:
    payloads: Iterable[Payload | bytes]
    if capture.is_capture(octets):
        payloads = capture.read(io.BytesIO(octets), port)
    else:
        datagrams = _hex_datagrams(octets.decode("latin-1")) or [octets]
        payloads = (capture.from_packet(each, port) or each for each in datagrams)
    conversations: dict[tuple[Endpoint, Endpoint] | None, _Conversation] = {}
    for payload in payloads:
        if isinstance(payload, bytes):
            conversation = conversations.setdefault(None, _Conversation("", show_secrets))
            yield from conversation.read(payload, None, None, framing.classify(payload) is not framing.Kind.OTHER)
            continue
        from_client = payload.destination.port == port
        ends = (payload.source, payload.destination) if from_client else (payload.destination, payload.source)
        name = f"{payload.carrier.value} {ends[0]} - {ends[1]}"
        conversation = conversations.setdefault(ends, _Conversation(name, show_secrets))
        sender = "C" if from_client else "S"
        yield from conversation.read(payload.octets, sender, payload.time, payload.carrier is Carrier.UDP)


# --- hex ----------------------------------------------------------------------------------------------------------

_OFFSET = re.compile(r"\s*(?:0x)?[0-9a-fA-F]{4,8}:\s+|\s*[0-9a-fA-F]{8}\s\s")
_LENGTH = re.compile(r"[0-9a-fA-F]{8}")  # the last line of hexdump -C
_GROUPS = re.compile(r"\s*((?:[0-9a-fA-F]{2})+(?:[ :]{1,2}(?:[0-9a-fA-F]{2})+)*)")


def _hex_datagrams(text: str) -> list[bytes]:
    """What a hex dump holds, datagrams parted by empty lines; nothing when a line is not of a dump.

    Takes plain hex in any grouping, and the dumps of tcpdump -x and -X, xxd and hexdump -C.
    """
    datagrams = [bytearray()]
    for line in text.replace("\r\n", "\n").strip("\n").split("\n"):
        if not line.strip():
            datagrams.append(bytearray())
            continue
        if _LENGTH.fullmatch(line) and datagrams[-1] and int(line, 16) == len(datagrams[-1]):
            continue
        offset = _OFFSET.match(line)
        groups = _GROUPS.match(line, offset.end() if offset else 0)
        if groups is None:
            if offset is None or line[offset.end() :].strip():
                return []
            continue
        if offset is None and line[groups.end() :].strip():
            return []
        datagrams[-1] += bytes.fromhex(groups[1].replace(":", " "))
    return [bytes(each) for each in datagrams if each]


# --- TSP ----------------------------------------------------------------------------------------------------------

_COMMANDS = (b"VERSION=", b"AUTHENTICATE", b"CONTENT-LENGTH", b"ECHO REQUEST", b"CAPABILITY", b"<TUNNEL")
_SAID_BY_SERVER = re.compile(rb"(?i)CAPABILITY|[0-9]{3,4} |Content-length:[^\n]*\n[0-9]{3,4} ")
_STATUS = re.compile(rb"[0-9]{3,4}(?: |\r?\n|$)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{16,}={0,2}")
_SECRETS = re.compile(r"(?i)\b(response|rspauth)(\s*=\s*)\"?[0-9a-f]*\"?")
_PIECES = re.compile(r"<[^<>/]*>[^<]*</[^<>]*>|<[^<>]*>[^<]*|[^<]+|<")
_OPENS = re.compile(r"<(?![/!?])[^>]*(?<!/)>")
_PROTOCOLS = {6: "TCP", 17: "UDP", 58: "ICMPv6", 59: "nothing", 41: "IPv6", 4: "IPv4"}


@dataclass(slots=True)
class _Conversation:
    """What must be remembered between messages in order to hide secrets."""

    name: str
    show_secrets: bool
    expects_plain: bool = field(default=False)
    """The client's next words are a PLAIN message, whatever they look like."""

    def read(self, octets: bytes, sender: str | None, time: float | None, udp: bool) -> Iterator[Message]:
        header, text = "", octets
        if udp:
            kind = framing.classify(octets)
            if kind is framing.Kind.DATA:
                yield Message(sender or "?", (_packet(octets),), "", time, self.name, data=True)
                return
            if kind is framing.Kind.OTHER:
                yield Message(
                    sender or "?", (f"{len(octets)} octets that are no TSP: {_hex(octets)}",), "", time, self.name
                )
                return
            parsed, text = framing.unpack(octets)
            legacy = ", little-endian" if octets[0] >> 4 != 0xF else ""
            header = f"{parsed.raw.hex(' ', 4)} sequence {parsed.sequence}, time {parsed.timestamp}{legacy}"
        sender = sender or ("S" if _SAID_BY_SERVER.match(text) or b"rspauth" in _from_base64(text) else "?")
        if sender == "?" and text[:64].upper().lstrip().startswith(_COMMANDS):
            sender = "C"
        lines = list(self._lines(text[:LONGEST_TEXT], sender)) or [_nothing(sender)]
        if len(text) > LONGEST_TEXT:
            lines.append(f"... and {len(text) - LONGEST_TEXT} octets more")
        yield Message(sender, tuple(map(output.safe, lines)), header, time, self.name)

    def _lines(self, text: bytes, sender: str) -> Iterator[str]:
        """The lines of a text. SASL takes a text, or what follows an AUTHENTICATE line in it; TCP may bring both."""
        while text.strip(b"\0\t\n\v\f\r\b "):
            if self.expects_plain and sender != "S" and text.startswith(b"\0"):
                yield self._sasl(text, sender)
                return
            start = text.lstrip(b"\r\n\b ").upper()
            if start.lstrip(b"\0").startswith(b"CONTENT-LENGTH") or start.startswith(b"<TUNNEL"):
                self.expects_plain = False
                yield from _document(text)
                return
            if start.lstrip(b"\0").startswith(_COMMANDS) or (sender == "S" and _STATUS.match(text)):
                line, _, text = text.lstrip(b"\0\r\n ").partition(b"\n")
                words = line.strip(b"\0\r\b ")
                self.expects_plain = words.upper().split() == [b"AUTHENTICATE", b"PLAIN"] if sender != "S" else False
                yield words.decode("utf-8", "backslashreplace")
                if self.expects_plain and text.startswith(b"\0"):
                    # gogoCLIENT's NUL after the line end; the message itself begins with one of its own.
                    text = text[1:]
                continue
            line, text = (text, b"") if sender != "S" else _cut(text)
            yield self._sasl(line, sender)

    def _sasl(self, text: bytes, sender: str) -> str:
        if sender != "S" and (self.expects_plain or text.rstrip(b"\r\n\0\b").count(b"\0") >= 2):
            self.expects_plain = False
            return self._plain(text)
        said = _from_base64(text)
        if said and all(9 <= octet < 127 or octet > 127 for octet in said):
            return f"(base64) {self._masked(said.decode('utf-8', 'backslashreplace'))}"
        if said:
            return f"(base64) {len(said)} octets{f': {_hex(said)}' if self.show_secrets else ''}"
        words = text.strip(b"\0\r\n\b ").decode("utf-8", "backslashreplace")
        if sender == "S" or self.show_secrets:
            return self._masked(words)
        # Words of a client that are none of the protocol's: perhaps half of a PLAIN message.
        return f"({len(text)} octets that are none of TSP's words)"

    def _plain(self, text: bytes) -> str:
        parts = text.rstrip(b"\r\n\0\b").split(b"\0")
        if len(parts) != 3:
            shown = f": {text!r}" if self.show_secrets else ""
            return f"(PLAIN) {len(text)} octets that are not three parts{shown}"
        authzid, user, password = (part.decode("utf-8", "backslashreplace") for part in parts)
        identity = f"authorisation identity {authzid}, " if authzid else ""
        return f"(PLAIN) {identity}user {user}, password {password if self.show_secrets else MASK}"

    def _masked(self, words: str) -> str:
        return words if self.show_secrets else _SECRETS.sub(rf"\1\2{MASK}", words)


def _cut(text: bytes) -> tuple[bytes, bytes]:
    line, _, rest = text.partition(b"\n")
    return line, rest


def _nothing(sender: str) -> str:
    return {"C": "(poll: nothing but the header)", "S": "(nothing but the header)"}.get(sender, "(nothing)")


def _document(text: bytes) -> Iterator[str]:
    """A framed message, its XML cut into lines and indented. No parser: what is broken must show as it is."""
    words = text.strip(b"\0\r\n\b ").decode("utf-8", "backslashreplace")
    head, mark, xml = words.partition("<")
    yield from (line.strip() for line in head.splitlines() if line.strip())
    depth = 0
    for piece in _PIECES.findall(mark + xml):
        tag = re.sub(r"\s+", " ", piece).strip()
        if not tag:
            continue
        if tag.startswith("</"):
            depth = max(0, depth - 1)
        yield f"{'  ' * min(depth, 20)}{tag}"
        if _OPENS.match(tag) and "</" not in tag:
            depth += 1


def _from_base64(text: bytes) -> bytes:
    """What a line of base64 says; nothing when it is none."""
    line = text.strip(b"\0\r\n\b ")
    if not _BASE64.fullmatch(line):
        return b""
    try:
        return binascii.a2b_base64(line)
    except binascii.Error:
        return b""


def _packet(octets: bytes) -> str:
    """A tunnelled packet in a few words."""
    if len(octets) < 40:
        return f"(data) {len(octets)} octets, too few for IPv6"
    source, destination = IPv6Address(octets[8:24]), IPv6Address(octets[24:40])
    kind = _PROTOCOLS.get(octets[6], f"protocol {octets[6]}")
    if octets[6] == 58 and len(octets) > 40:
        kind = {128: "ICMPv6 echo request", 129: "ICMPv6 echo reply"}.get(octets[40], f"ICMPv6 type {octets[40]}")
    return f"(data) {len(octets)} octets, {source} to {destination}, {kind}"


def _hex(octets: bytes) -> str:
    return octets[:32].hex(" ") + (" ..." if len(octets) > 32 else "")
