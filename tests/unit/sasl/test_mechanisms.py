# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's role: what is sent first, what is taken, and what is refused."""

from __future__ import annotations

import itertools
import traceback
from base64 import b64decode

import pytest

from ddtb6.sasl.credentials import Anonymous, DigestProof, Plain
from ddtb6.sasl.digest import check, encode_line, respond, user_secret
from ddtb6.sasl.mechanisms import DIGEST_LIMIT, PLAIN_LIMIT, Mechanism, SaslError, mechanism, rspauth_reply

NONCE = b"abcdefghijklmnopqrst-_"
HEX = b"0123456789abcdef0123456789ABCDEF"


def start(name: str, version: tuple[int, ...] = (2, 0, 2), realm: str = "ddtb6") -> Mechanism:
    made = mechanism(name, realm=realm, nonce=lambda: NONCE, version=version)
    assert made is not None
    assert made.name == name
    return made


@pytest.mark.parametrize("name", ["", "plain", "KERBEROS_V4", "PASSDSS-3DES-1", "DIGEST-MD5 "])
def test_mechanisms_that_are_none(name: str) -> None:
    assert mechanism(name, realm="ddtb6", nonce=lambda: NONCE, version=(2, 0, 2)) is None


class TestAnonymous:
    def test_is_complete_at_once(self) -> None:
        assert start("ANONYMOUS").start() == Anonymous()

    def test_takes_no_response(self) -> None:
        with pytest.raises(SaslError):
            start("ANONYMOUS").respond(b"trace@example.org\r\n")


class TestPlain:
    @staticmethod
    def judge(data: bytes) -> object:
        made = start("PLAIN")
        assert made.start() == b""
        return made.respond(data)

    @pytest.mark.parametrize(
        ("data", "user", "password"),
        [
            (b"\0alice\0s3cret\r\n", "alice", "s3cret"),
            (b"\0alice\0s3cret", "alice", "s3cret"),
            (b"\0alice\0s3cret\r\n\0", "alice", "s3cret"),
            (b"\0alice\0s3cret\n", "alice", "s3cret"),
            (b"\0alice\0 s3cret \r\n", "alice", " s3cret "),
            (b"alice\0alice\0s3cret\r\n", "alice", "s3cret"),
            (b"\0tim\0tanstaaftanstaaf\r\n", "tim", "tanstaaftanstaaf"),
            ("\0Žofie\0heslíčko".encode(), "Žofie", "heslíčko"),
            (b"\0" + b"u" * 253 + b"\0" + b"p" * 128, "u" * 253, "p" * 128),
        ],
    )
    def test_taken(self, data: bytes, user: str, password: str) -> None:
        assert self.judge(data) == Plain(user, password)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\r\n",
            b"alice",
            b"alice\0s3cret\r\n",
            b"\0alice\0\r\n",
            b"\0\0s3cret\r\n",
            b"\0alice\0s3\0cret\r\n",
            b"Ursel\0Kurt\0xipj3plmq\r\n",
            b"\0alice\0\xff\r\n",
            b"\0\xe4lice\0s3cret\r\n",
            b"\0al\nice\0s3cret\r\n",
            b"\0al\x1b[2Jice\0s3cret\r\n",
            "\0al\u202eice\0s3cret\r\n".encode(),
            b"\0" + b"u" * 254 + b"\0s3cret\r\n",
            b"\0alice\0" + b"p" * 129,
            b"\0alice\0s3cret" + b"\0" * PLAIN_LIMIT,
        ],
    )
    def test_refused(self, data: bytes) -> None:
        with pytest.raises(SaslError):
            self.judge(data)

    def test_takes_one_response_after_its_start(self) -> None:
        made = start("PLAIN")
        with pytest.raises(SaslError):
            made.respond(b"\0alice\0s3cret")
        made.start()
        made.respond(b"\0alice\0s3cret")
        with pytest.raises(SaslError):
            made.respond(b"\0alice\0s3cret")


class TestDigestChallenge:
    def test_is_what_clients_can_read(self) -> None:
        challenge = start("DIGEST-MD5").start()
        assert isinstance(challenge, bytes)
        assert challenge.endswith(b"\r\n")
        assert b64decode(challenge, validate=False) == (
            b'realm="ddtb6",nonce="abcdefghijklmnopqrst-_",qop="auth",algorithm=md5-sess,charset=utf8'
        )

    def test_has_another_nonce_each_time(self) -> None:
        count = itertools.count()
        made = mechanism("DIGEST-MD5", realm="r", nonce=lambda: b"n%d" % next(count), version=(2, 0, 2))
        assert made is not None
        assert made.start() != made.start()

    def test_is_not_larger_than_three_requests(self) -> None:
        """An IPv4 and UDP header and the reliability header are 36 octets; the realm may have 24 characters."""
        challenge = start("DIGEST-MD5", realm="r" * 24).start()
        assert isinstance(challenge, bytes)
        assert 36 + len(challenge) <= 3 * (36 + len(b"AUTHENTICATE DIGEST-MD5\r\n"))

    @pytest.mark.parametrize("realm", ["", "a,b", 'a"b', "a\\b", "a\nb", "a\0"])
    def test_realms_that_clients_cannot_read(self, realm: str) -> None:
        with pytest.raises(ValueError, match="realm"):
            mechanism("DIGEST-MD5", realm=realm, nonce=lambda: NONCE, version=(2, 0, 2))


GOOD = {
    b"charset": b"utf8",
    b"username": b'"alice"',
    b"realm": b'"ddtb6"',
    b"nonce": b'"%b"' % NONCE,
    b"nc": b"00000001",
    b"cnonce": b'"1795211872"',
    b"digest-uri": b'"tsp/192.0.2.1"',
    b"response": HEX,
    b"qop": b"auth",
}


def message(**changes: bytes | None) -> bytes:
    """A good response with directives replaced, added, or (None) left out."""
    said = GOOD | {name.replace("_", "-").encode(): value for name, value in changes.items()}
    return b",".join(name + b"=" + value for name, value in said.items() if value is not None)


def take(text: bytes, version: tuple[int, ...] = (2, 0, 2)) -> DigestProof:
    made = start("DIGEST-MD5", version)
    made.start()
    credentials = made.respond(encode_line(text))
    assert isinstance(credentials, DigestProof)
    return credentials


class TestDigestResponse:
    PROOF = DigestProof(
        user="alice",
        realm="ddtb6",
        nonce=NONCE,
        cnonce=b"1795211872",
        nonce_count=b"00000001",
        digest_uri=b"tsp/192.0.2.1",
        response=HEX.lower(),
    )

    @pytest.mark.parametrize(
        "text",
        [
            message(),
            message(qop=None, charset=None),
            message(qop=b'"auth"', nc=b'"00000001"', charset=b"utf-8"),
            message(username=b"alice", realm=b"ddtb6", nonce=NONCE, cnonce=b"1795211872", digest_uri=b"tsp/192.0.2.1"),
            message(username=b'"al\\ice"'),
            message(authzid=b'""'),
            message(response=b'"%b"' % HEX.lower()),
            message(maxbuf=b"65536", algorithm=b"md5", opaque=b'"x"', x_new=b"1"),
            message().replace(b",", b" ,\r\n\t"),
            b",".join(reversed(message().split(b","))),
            message().replace(b"username", b"UserName"),
        ],
    )
    def test_taken(self, text: bytes) -> None:
        assert take(text) == self.PROOF

    @pytest.mark.parametrize("uri", [b"tsp/hexos", b"tsp/192.0.2.1:3653", b"tsp/[2001:db8::1]:3653", b"", b'a\\"b'])
    def test_the_uri_is_taken_as_it_stands(self, uri: bytes) -> None:
        assert take(message(digest_uri=b'"%b"' % uri)).digest_uri == uri.replace(b"\\", b"")

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            *(
                message(**{name: None})
                for name in ("username", "realm", "nonce", "nc", "cnonce", "digest_uri", "response")
            ),
            message(nonce=b'"other"'),
            message(nonce=b'"%b"' % NONCE.upper()),
            message(nc=b"00000002"),
            message(nc=b"1"),
            message(realm=b'"hexos"'),
            message(realm=b'""'),
            message(qop=b"auth-int"),
            message(qop=b'""'),
            message(authzid=b'"root"'),
            message(authzid=b'"alice"'),
            message(username=b'""'),
            message(username=b'"' + b"u" * 254 + b'"'),
            message(username=b'"\xff"'),
            message(username='"al\u202eice"'.encode()),
            message(cnonce=b'""'),
            message(response=HEX[1:]),
            message(response=HEX + b"0"),
            message(response=b"g" * 32),
            message() + b",username=bob",
            message() + b",x",
        ],
    )
    def test_refused(self, text: bytes) -> None:
        with pytest.raises(SaslError):
            take(text)

    def test_refused_as_no_line_of_base64(self) -> None:
        for data in (b"\xff", message(), encode_line(message())[:-4], encode_line(message(cnonce=b"c" * DIGEST_LIMIT))):
            made = start("DIGEST-MD5")
            made.start()
            with pytest.raises(SaslError):
                made.respond(data)

    def test_the_longest_message_of_gogoclient(self) -> None:
        filler = 1023 - len(message(digest_uri=b'""'))
        assert take(message(digest_uri=b'"%b"' % (b"u" * filler))).digest_uri == b"u" * filler

    def test_the_nonce_serves_once(self) -> None:
        made = start("DIGEST-MD5")
        with pytest.raises(SaslError):
            made.respond(encode_line(message()))
        made.start()
        made.respond(encode_line(message()))
        with pytest.raises(SaslError, match="used up"):
            made.respond(encode_line(message()))

    def test_a_refused_response_uses_the_nonce_up_too(self) -> None:
        made = start("DIGEST-MD5")
        made.start()
        for _ in range(2):
            with pytest.raises(SaslError):
                made.respond(encode_line(message(nc=b"00000002")))
        with pytest.raises(SaslError, match="used up"):
            made.respond(encode_line(message()))

    @pytest.mark.parametrize(
        ("version", "allowed"),
        [((1, 0, 1), True), ((2, 0), True), ((2, 0, 0), True), ((2, 0, 1), False), ((2, 1), False)],
    )
    def test_truncation_is_for_old_clients(self, version: tuple[int, ...], allowed: bool) -> None:
        assert take(message(), version).truncation_allowed is allowed

    def test_the_whole_way_with_our_client(self) -> None:
        made = start("DIGEST-MD5")
        challenge = made.start()
        assert isinstance(challenge, bytes)
        credentials = made.respond(respond(challenge, "Žofie", 'p"\\:,w', "tsp/broker.example", b"c"))
        assert isinstance(credentials, DigestProof)
        assert credentials.user == "Žofie"
        assert check(credentials, user_secret("Žofie", "ddtb6", 'p"\\:,w')) is not None


def test_rspauth_reply() -> None:
    """As in RFC 5572 figure 12."""
    assert rspauth_reply("70d5cabc9235568be380ba2c907381fe") == (
        b"cnNwYXV0aD03MGQ1Y2FiYzkyMzU1NjhiZTM4MGJhMmM5MDczODFmZQ==\r\n"
    )


def test_no_secret_shows() -> None:
    seen = [
        repr(Plain("alice", "hunter2")),
        repr(take(message())),
        str(Plain("alice", "hunter2")),
        f"{start('PLAIN')!r}{vars(type(start('PLAIN')))!r}",
    ]
    for data in (b"x\0bob\0alice\0hunter2", b"bob\0alice\0hunter2", b"\0alice\0hunter2\xff", b"\0alice\0hunter2" * 99):
        made = start("PLAIN")
        made.start()
        with pytest.raises(SaslError) as refusal:
            made.respond(data)
        seen.append("".join(traceback.format_exception(refusal.value)))
    for text in seen:
        assert "hunter2" not in text
        assert HEX.decode().lower() not in text
