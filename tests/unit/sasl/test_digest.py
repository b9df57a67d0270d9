# SPDX-License-Identifier: GPL-2.0-or-later
"""DIGEST-MD5 against published and captured exchanges; the client's role against the server's."""

from __future__ import annotations

import dataclasses
from base64 import b64decode, b64encode

import pytest

from ddtb6.sasl.credentials import DigestProof
from ddtb6.sasl.digest import (
    SHORTEST_TRUNCATION,
    SaslError,
    check,
    check_rspauth,
    decode_line,
    encode_line,
    parse_directives,
    quote,
    respond,
    user_secret,
)


def proof(
    user: str, realm: str, nonce: bytes, cnonce: bytes, uri: bytes, response: bytes, old: bool = False
) -> DigestProof:
    return DigestProof(
        user=user,
        realm=realm,
        nonce=nonce,
        cnonce=cnonce,
        nonce_count=b"00000001",
        digest_uri=uri,
        response=response,
        truncation_allowed=old,
    )


VECTORS = {
    "RFC 5572 figure 12": (
        proof("username1", "hexos", b"1113908968", b"1113923311", b"tsp/hexos", b"f8e42b3c50c59771853f6274fcffd1ca"),
        "password",
        "70d5cabc9235568be380ba2c907381fe",
    ),
    "RFC 2831 section 4, IMAP": (
        proof(
            "chris",
            "elwood.innosoft.com",
            b"OA6MG9tEQGm2hh",
            b"OA6MHXh6VqTrRk",
            b"imap/elwood.innosoft.com",
            b"d388dad90d4bbd760a152321f2143af7",
        ),
        "secret",
        "ea40f60335c427b5527b84dbabcdfffd",
    ),
    "RFC 2831 section 4, ACAP": (
        proof(
            "chris",
            "elwood.innosoft.com",
            b"OA9BSXrbuRhWay",
            b"OA9BSuZWMSpW8m",
            b"acap/elwood.innosoft.com",
            b"6084c6db3fede7352c551284490fd0fc",
        ),
        "secret",
        "2f0b3d7c3c2e486600ef710726aa2eae",
    ),
    "gogoCLIENT 1.2, VERSION 2.0.2": (
        proof(
            "alice",
            "labrealm",
            b"179521187277",
            b"1795211872",
            b"tsp/192.0.2.1",
            b"30f1bb353fb3d6f8e18df74579756f60",
        ),
        "s3cret",
        "7aaa1080122ff410e0a0614d6b083d44",
    ),
}

OLD_SECRET = user_secret("alice", "labrealm", "p23")
OLD = (b"179521318077", b"1795213180", b"tsp/192.0.2.1")
OLD_TRUNCATED = b"70aded2fb97af4971631ae74ee8c99ac"
OLD_CORRECT = b"329938f2fc51d227c33bd3b7f23ed08d"


class TestCheck:
    @pytest.mark.parametrize("name", VECTORS)
    def test_published_exchanges(self, name: str) -> None:
        given, password, rspauth = VECTORS[name]
        assert check(given, user_secret(given.user, given.realm, password)) == rspauth

    @pytest.mark.parametrize("name", VECTORS)
    def test_anything_else_is_wrong(self, name: str) -> None:
        given, password, _ = VECTORS[name]
        secret = user_secret(given.user, given.realm, password)
        assert check(given, user_secret(given.user, given.realm, password + "x")) is None
        for field in ("nonce", "cnonce", "nonce_count", "digest_uri"):
            assert check(dataclasses.replace(given, **{field: getattr(given, field) + b"x"}), secret) is None
        assert check(dataclasses.replace(given, response=b"0" * 32), secret) is None
        assert check(dataclasses.replace(given, response=b"0" * 32, truncation_allowed=True), secret) is None
        assert check(dataclasses.replace(given, response=given.response.upper()), secret) is None


class TestTruncation:
    """gogoCLIENT at VERSION 2.0.0 hashes A1 up to the first zero octet of the secret."""

    def test_the_secret_is_the_captured_one(self) -> None:
        assert OLD_SECRET.hex() == "efed2e3c89a198d20500f26f0a4f6222"

    def test_the_correct_form_always_holds(self) -> None:
        for old in (False, True):
            assert check(proof("alice", "labrealm", *OLD, OLD_CORRECT, old), OLD_SECRET) is not None

    def test_the_truncated_form_holds_for_old_clients_only(self) -> None:
        assert check(proof("alice", "labrealm", *OLD, OLD_TRUNCATED, True), OLD_SECRET) is not None
        assert check(proof("alice", "labrealm", *OLD, OLD_TRUNCATED, False), OLD_SECRET) is None

    def test_rspauth_has_the_form_of_the_response(self) -> None:
        truncated = check(proof("alice", "labrealm", *OLD, OLD_TRUNCATED, True), OLD_SECRET)
        correct = check(proof("alice", "labrealm", *OLD, OLD_CORRECT, True), OLD_SECRET)
        # Any secret that begins like this one up to its zero makes the same truncated rspauth.
        lookalike = OLD_SECRET[:10] + bytes(range(100, 106))
        assert truncated == check(proof("alice", "labrealm", *OLD, OLD_TRUNCATED, True), lookalike)
        assert truncated != correct

    @pytest.mark.parametrize("known", range(16))
    def test_a_secret_that_begins_with_a_zero_is_no_open_door(self, known: int) -> None:
        secret = bytes(range(1, known + 1)) + bytes(16 - known)
        # The forger knows the octets before the zero and no more: this is the secret cut there.
        forged = proof("alice", "labrealm", *OLD, response_of_truncated(secret[:known]), True)
        assert (check(forged, secret) is not None) == (known >= SHORTEST_TRUNCATION)

    def test_a_secret_without_zero_has_no_other_form(self) -> None:
        secret = bytes(range(1, 17))
        assert check(proof("alice", "labrealm", *OLD, response_of_truncated(secret), True), secret) is None


def response_of_truncated(prefix: bytes) -> bytes:
    """The response as written down in RFC 2831, from a hash of `prefix` in the place of A1."""
    from hashlib import md5

    nonce, cnonce, uri = OLD
    a1, a2 = md5(prefix).hexdigest(), md5(b"AUTHENTICATE:" + uri).hexdigest()
    return md5(f"{a1}:{nonce.decode()}:00000001:{cnonce.decode()}:auth:{a2}".encode()).hexdigest().encode()


class TestParser:
    def test_the_shape_of_gogoclient(self) -> None:
        assert parse_directives(b'charset=utf8,username="U",nc=00000001,qop=auth') == {
            b"charset": b"utf8",
            b"username": b"U",
            b"nc": b"00000001",
            b"qop": b"auth",
        }

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (b'a="x"', b"x"),
            (b"a=x", b"x"),
            (b"A=x", b"x"),
            (b' \t a \r\n = "x" ', b"x"),
            (b",, a=x, ,", b"x"),
            (b"a=", b""),
            (b'a=""', b""),
            (b'a="x,y=z"', b"x,y=z"),
            (b'a="x\\"y\\\\z\\w"', b'x"y\\zw'),
            (b"a=tsp/[2001:db8::1]:3653", b"tsp/[2001:db8::1]:3653"),
            (b"a=b==", b"b=="),
            ('a="ä"'.encode(), "ä".encode()),
        ],
    )
    def test_one_directive(self, text: bytes, value: bytes) -> None:
        assert parse_directives(text) == {b"a": value}

    @pytest.mark.parametrize("text", [b"", b" ", b",", b", ,\r\n"])
    def test_nothing(self, text: bytes) -> None:
        assert parse_directives(text) == {}

    @pytest.mark.parametrize(
        "text",
        [
            b"a",
            b"=x",
            b'a="x',
            b'a="x\\"',
            b'a="x"y',
            b'a=x"y"',
            b"a=x y",
            b"a=x\\y",
            b'a="x" b="y"',
            b"a=x,a=x",
            b"a=x,A=y",
            b'a="x\0"',
            b'a="x\\\n"',
            b'a="x\r\ny"',
            b"a=x\0",
            b"a b=x",
            b"\xe4=x",
        ],
    )
    def test_refused(self, text: bytes) -> None:
        with pytest.raises(SaslError):
            parse_directives(text)

    def test_long_hostile_input_takes_linear_time(self) -> None:
        for text in (b'a="' + b"\\x" * 50_000, b"a" * 100_000, b", " * 50_000 + b"!", b"a=" + b" " * 100_000 + b"x y"):
            with pytest.raises(SaslError):
                parse_directives(text)


class TestLines:
    def test_round_trip(self) -> None:
        assert encode_line(b"rspauth") == b"cnNwYXV0aA==\r\n"
        assert decode_line(b"cnNwYXV0aA==\r\n", 100) == b"rspauth"
        assert decode_line(b" cnNwYXV0aA==\r\n\0", 100) == b"rspauth"

    @pytest.mark.parametrize(
        "line", [b"cnNwYXV0aA", b"cnNwYXV0aA=", b"cnNw\r\nYXV0aA==", b"cn*w", b"YQ==YQ==", b"\xff\xff"]
    )
    def test_refused(self, line: bytes) -> None:
        with pytest.raises(SaslError):
            decode_line(line, 100)

    def test_limit(self) -> None:
        assert decode_line(b"A" * 100, 100) == bytes(75)
        with pytest.raises(SaslError, match="too long"):
            decode_line(b"A" * 104, 100)


class TestClient:
    CHALLENGE = encode_line(b'realm="labrealm",nonce="179521187277",qop="auth",algorithm=md5-sess,charset=utf8')
    WHO = ("alice", "s3cret", "tsp/192.0.2.1", b"1795211872")

    def test_says_what_gogoclient_said(self) -> None:
        assert b64decode(respond(self.CHALLENGE, *self.WHO)) == (
            b'charset=utf8,username="alice",realm="labrealm",nonce="179521187277",nc=00000001,cnonce="1795211872",'
            b'digest-uri="tsp/192.0.2.1",response=30f1bb353fb3d6f8e18df74579756f60,qop=auth'
        )

    def test_the_unquoted_challenge_of_the_rfc(self) -> None:
        challenge = b"cmVhbG09aGV4b3Msbm9uY2U9MTExMzkwODk2OCxxb3A9YXV0aCxhbGdvcml0aG09bWQ1LXNlc3MsY2hhcnNldD11dGY4"
        assert respond(challenge, "username1", "password", "tsp/hexos", b"1113923311") == (
            b"Y2hhcnNldD11dGY4LHVzZXJuYW1lPSJ1c2VybmFtZTEiLHJlYWxtPSJoZXhvcyIsbm9uY2U9IjExMTM5MDg5NjgiLG5jPTAwMDAwMDAx"
            b"LGNub25jZT0iMTExMzkyMzMxMSIsZGlnZXN0LXVyaT0idHNwL2hleG9zIixyZXNwb25zZT1mOGU0MmIzYzUwYzU5NzcxODUzZjYyNzRm"
            b"Y2ZmZDFjYSxxb3A9YXV0aA==\r\n"
        )
        reply = b"cnNwYXV0aD03MGQ1Y2FiYzkyMzU1NjhiZTM4MGJhMmM5MDczODFmZQ=="
        assert check_rspauth(reply, challenge, "username1", "password", "tsp/hexos", b"1113923311")

    def test_rspauth(self) -> None:
        right, wrong = (encode_line(b"rspauth=" + each) for each in (b"7aaa1080122ff410e0a0614d6b083d44", b"0" * 32))
        assert check_rspauth(right, self.CHALLENGE, *self.WHO)
        assert not check_rspauth(wrong, self.CHALLENGE, *self.WHO)

    @pytest.mark.parametrize("reply", [b"300 Authentication failed\r\n", b"", encode_line(b"qop=auth"), b"A" * 5000])
    def test_no_rspauth(self, reply: bytes) -> None:
        with pytest.raises(SaslError):
            check_rspauth(reply, self.CHALLENGE, *self.WHO)

    def test_quotes_and_escapes(self) -> None:
        said = b64decode(respond(self.CHALLENGE, 'al"i\\ce', "p", "tsp/x", b"c"))
        assert b'username="al\\"i\\\\ce"' in said
        assert parse_directives(said)[b"username"] == b'al"i\\ce'
        assert quote(b"") == b'""'

    def test_a_server_without_charset(self) -> None:
        challenge = encode_line(b'realm="labrealm", nonce="179521187277", algorithm=MD5-sess')
        assert b64decode(respond(challenge, *self.WHO)).startswith(b'username="alice"')

    def test_a_server_that_offers_more(self) -> None:
        challenge = encode_line(b'realm="r",nonce="n",qop="auth-int, auth",algorithm=md5-sess,cipher="3des",stale=true')
        assert b",qop=auth" in b64decode(respond(challenge, *self.WHO))

    @pytest.mark.parametrize(
        "challenge",
        [
            b'nonce="n",qop="auth",algorithm=md5-sess',
            b'realm="r",qop="auth",algorithm=md5-sess',
            b'realm="r",nonce="n",qop="auth-int",algorithm=md5-sess',
            b'realm="r",nonce="n",algorithm=md5',
            b'realm="r",nonce="n",charset=iso-8859-1',
            b'realm="\xff",nonce="n"',
            b"300 Authentication failed",
        ],
    )
    def test_challenges_that_cannot_be_answered(self, challenge: bytes) -> None:
        with pytest.raises(SaslError):
            respond(encode_line(challenge), *self.WHO)

    def test_a_status_line_in_place_of_the_challenge(self) -> None:
        with pytest.raises(SaslError, match="base64"):
            respond(b"300 Authentication failed\r\n", *self.WHO)

    def test_a_challenge_without_end(self) -> None:
        with pytest.raises(SaslError, match="too long"):
            respond(b64encode(bytes(4096)), *self.WHO)
