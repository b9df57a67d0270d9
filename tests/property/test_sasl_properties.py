# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever is written can be read back however it is quoted, and whatever is sent is taken or refused, never raised."""

from __future__ import annotations

import re
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st
from support.texts import CHARACTERS

from ddtb6.sasl.credentials import DigestProof, Plain
from ddtb6.sasl.digest import SaslError, check, check_rspauth, encode_line, parse_directives, respond, user_secret
from ddtb6.sasl.mechanisms import mechanism, rspauth_reply

NONCE = b"abcdefghijklmnopqrst-_"
CHALLENGE = encode_line(b'realm="ddtb6",nonce="%b",qop="auth",algorithm=md5-sess,charset=utf8' % NONCE)

names = st.from_regex(rb"[a-z][a-z0-9-]{0,12}", fullmatch=True)
values = st.lists(st.integers(0x20, 0xFF).filter(lambda octet: octet != 0x7F), max_size=40).map(bytes)
blanks = st.sampled_from([b"", b" ", b"\t", b"\r\n ", b"  "])
text = st.text(CHARACTERS, min_size=1, max_size=30)


@st.composite
def written(draw: st.DrawFn) -> tuple[dict[bytes, bytes], bytes]:
    """Directives, and one of the many ways to write them."""
    said = draw(st.dictionaries(names, values, max_size=8))
    parts = []
    for name, value in said.items():
        if re.fullmatch(rb'[^\x00-\x20",\\\x7f]*', value) and draw(st.booleans()):
            shown = value
        else:
            shown = b'"%b"' % b"".join(
                b"\\" + octet if octet in (b'"', b"\\") or draw(st.integers(0, 9)) == 0 else octet
                for octet in (bytes([each]) for each in value)
            )
        cased = name.upper() if draw(st.booleans()) else name
        parts.append(draw(blanks) + cased + draw(blanks) + b"=" + draw(blanks) + shown + draw(blanks))
        parts += [draw(blanks)] * draw(st.integers(0, 1))
    return said, b",".join(parts)


@given(written())
def test_every_way_to_write_directives_reads_the_same(case: tuple[dict[bytes, bytes], bytes]) -> None:
    said, line = case
    assert parse_directives(line) == said


@given(st.binary(max_size=300))
def test_parsing_gives_directives_or_sasl_error(data: bytes) -> None:
    try:
        found = parse_directives(data)
    except SaslError:
        return
    assert all(name == name.lower() for name in found)


@given(
    user=text, password=text, host=text, cnonce=st.binary(min_size=1, max_size=12).map(lambda raw: raw.hex().encode())
)
def test_client_and_server_agree(user: str, password: str, host: str, cnonce: bytes) -> None:
    who = (user, password, f"tsp/{host}", cnonce)
    made = mechanism("DIGEST-MD5", realm="ddtb6", nonce=lambda: NONCE, version=(2, 0, 2))
    assert made is not None
    assert made.start() == CHALLENGE
    try:
        proof = made.respond(respond(CHALLENGE, *who))
    except SaslError:
        assert not user.isprintable() or not host.isprintable()
        return
    assert isinstance(proof, DigestProof)
    assert proof.user == user
    rspauth = check(proof, user_secret(user, "ddtb6", password))
    assert rspauth is not None
    assert check_rspauth(rspauth_reply(rspauth), CHALLENGE, *who)
    assert check(proof, user_secret(user, "ddtb6", password + "x")) is None


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with a piece cut out and something else in its place."""
    start = draw(st.integers(0, len(whole)))
    return whole[:start] + draw(st.binary(max_size=6)) + whole[start + draw(st.integers(0, 12)) :]


GOOD_DIGEST = (
    b'charset=utf8,username="alice",realm="ddtb6",nonce="%b",nc=00000001,cnonce="1795211872",'
    b'digest-uri="tsp/192.0.2.1",response=30f1bb353fb3d6f8e18df74579756f60,qop=auth' % NONCE
)


@given(damaged(GOOD_DIGEST), st.booleans())
def test_damaged_digest_responses(data: bytes, encoded: bool) -> None:
    made = mechanism("DIGEST-MD5", realm="ddtb6", nonce=lambda: NONCE, version=(2, 0, 0))
    assert made is not None
    made.start()
    try:
        proof = made.respond(encode_line(data) if encoded else data)
    except SaslError:
        return
    assert isinstance(proof, DigestProof)
    assert proof.user.isprintable()
    assert (proof.nonce, proof.realm, len(proof.response)) == (NONCE, "ddtb6", 32)


@given(damaged(encode_line(GOOD_DIGEST)))
def test_damaged_base64(data: bytes) -> None:
    made = mechanism("DIGEST-MD5", realm="ddtb6", nonce=lambda: NONCE, version=(2, 0, 2))
    assert made is not None
    made.start()
    with suppress(SaslError):
        assert isinstance(made.respond(data), DigestProof)


@given(damaged(b"\0alice\0s3cret\r\n") | st.binary(max_size=1100))
def test_damaged_plain_responses(data: bytes) -> None:
    made = mechanism("PLAIN", realm="ddtb6", nonce=lambda: NONCE, version=(2, 0, 2))
    assert made is not None
    made.start()
    try:
        plain = made.respond(data)
    except SaslError:
        return
    assert isinstance(plain, Plain)
    assert plain.user.isprintable()
    assert 0 < len(plain.password) <= 128
    assert "\0" not in plain.password


@given(damaged(CHALLENGE) | st.binary(max_size=100), damaged(encode_line(b"rspauth=" + b"0" * 32)))
def test_the_client_survives_any_server(challenge: bytes, reply: bytes) -> None:
    for call in (
        lambda: respond(challenge, "alice", "p", "tsp/x", b"c"),
        lambda: check_rspauth(reply, CHALLENGE, "alice", "p", "tsp/x", b"c"),
    ):
        with suppress(SaslError):
            assert call() is not None
