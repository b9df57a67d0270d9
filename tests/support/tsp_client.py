# SPDX-License-Identifier: GPL-2.0-or-later
"""A TSP client over plain sockets that says byte for byte what the deployed clients say.

It shares no code with `ddtb6`, so a mistake of the broker's is not made here as well. It checks what gogoCLIENT chokes
on: the header of each reply, exact lengths, one line for each `recv` on TCP, expanded addresses.

    wire = Udp(space.socket(AF_INET, SOCK_DGRAM), ("192.0.2.1", 3653))
    client = Client(wire)
    client.log_in("DIGEST-MD5", "alice", "secret")
    offer = client.create(prefix_length=56)
    client.accept()
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import time
from dataclasses import dataclass
from xml.etree import ElementTree

GOGOC, RUBY, JAVA = b"\r\n\0", b"\r\n", b"\r\b"
"""How clients end their AUTHENTICATE line."""

ACCEPT = b'<tunnel action="accept"></tunnel>\r\n'
EXPANDED = re.compile(r"(?:[0-9a-f]{4}:){7}[0-9a-f]{4}")


class Refused(Exception):
    """The broker answered with a status other than 200."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.code = int(line.split()[0])


class Silence(Exception):
    """No answer came in time."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a reply to create says, as text."""

    type: str
    server_outer: str
    server_inner: str
    client_outer: str
    client_inner: str
    prefix: str | None
    """Such as ``2001:0db8:1000:0000:0000:0000:0000:0000/56``."""
    keepalive: int | None
    keepalive_address: str | None
    name: str | None

    @property
    def held(self) -> tuple[str, str | None]:
        return self.client_inner, self.prefix


class Udp:
    """The 8-octet reliability header over UDP; `legacy` writes it little-endian, as the clients of 2004 did."""

    def __init__(
        self,
        handle: socket.socket,
        server: tuple[str, int],
        *,
        legacy: bool = False,
        patience: tuple[float, ...] = (2, 2, 2),
    ) -> None:
        """`patience` is the seconds that are waited after each transmission."""
        self.socket = handle
        self.socket.connect(server)
        self.legacy = legacy
        self.patience = patience
        self.sequence = 0 if legacy else 0xF0
        self._began = time.monotonic()

    def header(self) -> bytes:
        order = "little" if self.legacy else "big"
        milliseconds = int((time.monotonic() - self._began) * 1000) & 0xFFFFFFFF
        return (0xF0000000 | self.sequence).to_bytes(4, order) + milliseconds.to_bytes(4, order)

    def ask(self, text: bytes) -> bytes:
        """Send `text` under a new sequence number and return the text of the reply. Raises Silence."""
        reply = self.repeat(text)
        self.sequence += 1
        return reply

    def repeat(self, text: bytes) -> bytes:
        """As `ask`, keeping the sequence number: a second call is a retransmission."""
        for wait in self.patience:
            header = self.header()
            self.socket.send(header + text)
            end = time.monotonic() + wait
            while (left := end - time.monotonic()) > 0:
                self.socket.settimeout(left)
                try:
                    reply = self.socket.recv(4096)
                except TimeoutError:
                    break
                if reply[:1] and reply[0] >> 4 == 6:
                    continue
                assert len(reply) >= 8, f"a reply of {len(reply)} octets makes gogoCLIENT copy a huge block"
                if reply[:4] == header[:4]:
                    assert reply[4:8] == header[4:], "the reply has not the timestamp of the copy it answers"
                    return reply[8:]
        raise Silence(f"no reply to {text[:40]!r}")

    def tell(self, text: bytes) -> None:
        """Send what is acknowledged by a bare header."""
        assert self.ask(text) == b""

    def poll(self) -> bytes:
        """Fetch the next chunk."""
        return self.ask(b"")

    def echo_request(self) -> bytes:
        return self.ask(b"ECHO REQUEST")

    def close(self) -> None:
        self.socket.close()


class Tcp:
    """The same texts over a TCP connection."""

    def __init__(self, handle: socket.socket, server: tuple[str, int], *, patience: float = 5) -> None:
        self.socket = handle
        self.socket.settimeout(patience)
        self.socket.connect(server)

    def ask(self, text: bytes) -> bytes:
        self.socket.sendall(text)
        return self.poll()

    def tell(self, text: bytes) -> None:
        """Send what is not answered at all."""
        self.socket.sendall(text)

    def poll(self) -> bytes:
        """One `recv`, as gogoCLIENT reads: two replies in one segment would make it wait for ever."""
        try:
            reply = self.socket.recv(4096)
        except TimeoutError:
            raise Silence("no reply") from None
        if not reply:
            raise Silence("the broker closed the connection")
        return reply

    def close(self) -> None:
        self.socket.close()


def digest_proof(
    user: str,
    password: str,
    challenge: bytes,
    *,
    host: str = "192.0.2.1",
    version: str = "2.0.2",
    cnonce: str | None = None,
) -> tuple[bytes, str]:
    """What gogoCLIENT answers to a DIGEST-MD5 challenge (its base64 text), and the rspauth it then demands.

    Its cnonce is the time in seconds.
    """
    fields = dict(re.findall(r'(\w[\w-]*)="?([^",]*)"?', base64.b64decode(challenge).decode()))
    realm, nonce, uri = fields["realm"], fields["nonce"], f"tsp/{host}"
    cnonce = cnonce or str(int(time.time()))
    assert fields["qop"] == "auth"
    secret = hashlib.md5(f"{user}:{realm}:{password}".encode()).digest()
    start = secret + f":{nonce}:{cnonce}".encode()
    if version in ("2.0.0", "1.0.1") and b"\0" in secret:
        start = secret[: secret.index(b"\0")]
    first = hashlib.md5(start).hexdigest()

    def answer(method: str) -> str:
        second = hashlib.md5(f"{method}:{uri}".encode()).hexdigest()
        return hashlib.md5(f"{first}:{nonce}:00000001:{cnonce}:auth:{second}".encode()).hexdigest()

    text = (
        f'charset={fields["charset"]},username="{user}",realm="{realm}",nonce="{nonce}",nc=00000001,'
        f'cnonce="{cnonce}",digest-uri="{uri}",response={answer("AUTHENTICATE")},qop=auth'
    )
    return base64.b64encode(text.encode()) + b"\r\n", answer("")


def create_document(
    *, type: str = "v6udpv4", address: str = "10.66.1.2", prefix_length: int | None = None, keepalive: int | None = 30
) -> bytes:
    """The create request of gogoCLIENT 1.2, to the octet."""
    lines = [f'<tunnel action="create" type="{type}" proxy="no">', " <client>"]
    lines.append(f'  <address type="{"ipv6" if ":" in address else "ipv4"}">{address}</address>')
    if keepalive is not None:
        lines += [f'  <keepalive interval="{keepalive}">', '    <address type="ipv6">::</address>', "  </keepalive>"]
    if prefix_length is not None:
        lines += ["  <router>", f'   <prefix length="{prefix_length}"/>', "  </router>"]
    lines += [" </client>", "</tunnel>"]
    return "".join(f"{line}\r\n" for line in lines).encode()


def framed(document: bytes) -> bytes:
    return b"Content-length: %d\r\n%s" % (len(document), document)


class Client:
    """One negotiation over a wire."""

    def __init__(self, wire: Udp | Tcp, *, version: str = "2.0.2", ending: bytes = GOGOC) -> None:
        self.wire = wire
        self.version = version
        self.ending = ending

    def greet(self) -> set[str]:
        """Send VERSION; returns the words of the CAPABILITY line."""
        reply = self.wire.ask(f"VERSION={self.version}\r\n".encode())
        if not reply.startswith(b"CAPABILITY "):
            raise Refused(reply.decode())
        assert reply.endswith(b"\r\n")
        assert b"  " not in reply
        return set(reply.decode().split()[1:])

    def log_in(self, mechanism: str, user: str = "", password: str = "") -> None:
        """VERSION to 200. Raises Refused."""
        assert f"AUTH={mechanism}" in self.greet()
        self.authenticate(mechanism, user, password)

    def authenticate(self, mechanism: str, user: str = "", password: str = "") -> None:
        start = b"AUTHENTICATE " + mechanism.encode() + self.ending
        if mechanism == "ANONYMOUS":
            reply = self.wire.ask(start)
        elif mechanism == "PLAIN":
            self.wire.tell(start)
            reply = self.wire.ask(f"\0{user}\0{password}\r\n".encode())
        else:
            proof, rspauth = digest_proof(user, password, self.wire.ask(start), version=self.version)
            reply = self.wire.ask(proof)
            if not reply.startswith(b"3"):
                assert reply.endswith(b"\r\n")
                assert base64.b64decode(reply, validate=False) == f"rspauth={rspauth}".encode()
                reply = self.wire.poll()
        if reply != b"200 Success\r\n":
            raise Refused(reply.decode())

    def command(self, document: bytes) -> bytes:
        """Send a document; returns what follows the status line. Raises Refused."""
        reply = self.wire.ask(framed(document))
        match = re.match(rb"Content-length: (\d+)\r\n", reply)
        assert match, reply
        body = reply[match.end() :]
        assert len(body) == int(match[1]), "gogoCLIENT reconnects without delay when Content-length is short"
        status, _, rest = body.partition(b"\r\n")
        if status != b"200 Success":
            raise Refused(status.decode())
        return rest

    def create(
        self,
        *,
        type: str = "v6udpv4",
        address: str = "10.66.1.2",
        prefix_length: int | None = None,
        keepalive: int | None = 30,
    ) -> Offer:
        document = create_document(type=type, address=address, prefix_length=prefix_length, keepalive=keepalive)
        return read_offer(self.command(document))

    def accept(self) -> None:
        assert self.command(ACCEPT) == b""


def read_offer(document: bytes) -> Offer:
    """Read an info document, insisting on the shape that every known client takes."""
    assert document.endswith(b"</tunnel>\r\n")
    assert b"\n" not in document[:-2]
    assert b"'" not in document
    root = ElementTree.fromstring(document)
    assert root.tag == "tunnel"
    assert root.get("action") == "info"
    assert root.get("type") in ("v6v4", "v6udpv4", "v4v6")
    assert int(root.get("lifetime", "")) > 0

    def text(path: str, *, expanded: bool = True) -> str:
        found = root.find(path)
        assert found is not None, f"no {path}"
        value = found.text or ""
        assert not expanded or EXPANDED.fullmatch(value), f"{path}: {value} is not fully expanded"
        return value

    assert root.find("client/dns_server/address[@type='ipv6']") is not None, "gogoCLIENT crashes without dns_server"
    keepalive = root.find("client/keepalive")
    if keepalive is not None:
        text("client/keepalive/address[@type='ipv6']")
    prefix = root.find("client/router/prefix")
    name = root.find("client/address[@type='dn']")
    return Offer(
        type=root.get("type", ""),
        server_outer=text("server/address[@type='ipv4']", expanded=False),
        server_inner=text("server/address[@type='ipv6']"),
        client_outer=text("client/address[@type='ipv4']", expanded=False),
        client_inner=text("client/address[@type='ipv6']"),
        prefix=None if prefix is None else f"{text('client/router/prefix')}/{prefix.get('length')}",
        keepalive=None if keepalive is None else int(keepalive.get("interval", "")),
        keepalive_address=None if keepalive is None else text("client/keepalive/address[@type='ipv6']"),
        name=None if name is None else name.text,
    )
