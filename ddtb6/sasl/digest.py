# SPDX-License-Identifier: GPL-2.0-or-later
"""DIGEST-MD5: its arithmetic, the reading of its messages, and the client's role.

Source: RFC 2831 with qop=auth and algorithm=md5-sess. Departs from its 2.1.2.1: text is hashed as UTF-8 always, not as
ISO 8859-1 where that is possible, because deployed clients hash the octets they were configured with.
Invariants: secrets and proofs are compared in constant time; the parser raises `SaslError` and nothing else.
Not here: the server's role in a negotiation (`mechanisms`), where secrets are kept (`auth.local`).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from hmac import compare_digest

from ddtb6.sasl.credentials import DigestProof

SHORTEST_TRUNCATION = 8
"""Octets of a secret that must stand before its first zero for the truncated form to be accepted.

The truncated form proves knowledge of these octets and of nothing else: with none of them anybody could log in.
"""

CHALLENGE_LIMIT = 2048
"""RFC 2831 2.1.1: octets that a challenge must stay below."""

_BLANKS = b" \t\r\n"
_DIRECTIVE = re.compile(
    rb"""[\ \t\r\n,]*+ ([!#$%&'*+.^_`|~0-9A-Za-z-]++) [\ \t\r\n]*+ = [\ \t\r\n]*+
         (?: "( [^"\\\x00-\x1f\x7f]*+ (?: \\[^\x00-\x1f\x7f] [^"\\\x00-\x1f\x7f]*+ )*+ )" | ([^\x00-\x20",\\\x7f]*+) )
         [\ \t\r\n]*+ (?: , | \Z )""",
    re.VERBOSE,
)
_ESCAPED = re.compile(rb"\\(.)")
_TO_ESCAPE = re.compile(rb'(["\\])')


class SaslError(Exception):
    """A message of the peer that is not acceptable. The text is for the log and holds nothing that the peer wrote."""


def parse_directives(text: bytes) -> dict[bytes, bytes]:
    """The directives of a message by lower-case name, quotes and escapes removed.

    Takes values quoted or bare, blanks around everything, and empty list elements. Raises SaslError for control octets
    and for any directive that comes twice (RFC 2831 lets only `realm` in a challenge, and unknown ones).
    """
    text = text.strip(_BLANKS + b",")
    found: dict[bytes, bytes] = {}
    at, end = 0, len(text)
    while at < end:
        directive = _DIRECTIVE.match(text, at)
        if directive is None:
            raise SaslError("malformed directive")
        name, quoted, bare = directive.groups()
        name = name.lower()
        if name in found:
            raise SaslError("a directive comes twice")
        if quoted is None:
            found[name] = bare
        else:
            found[name] = _ESCAPED.sub(rb"\1", quoted) if b"\\" in quoted else quoted
        at = directive.end()
    return found


def quote(value: bytes) -> bytes:
    """`value` as a quoted string."""
    return b'"%b"' % _TO_ESCAPE.sub(rb"\\\1", value)


def decode_line(line: bytes, limit: int) -> bytes:
    """What a line of base64 says, its line end ignored. Raises SaslError for more than `limit` octets or other text."""
    if len(line) > limit:
        raise SaslError("message too long")
    try:
        return binascii.a2b_base64(line.strip(b" \t\r\n\0"), strict_mode=True)
    except ValueError:
        raise SaslError("not base64") from None


def encode_line(text: bytes) -> bytes:
    """`text` as a line of base64 with CR LF."""
    return binascii.b2a_base64(text, newline=False) + b"\r\n"


# --- arithmetic ---------------------------------------------------------------------------------------------------


def user_secret(user: str, realm: str, password: str) -> bytes:
    """The 16 octets of MD5(user:realm:password): what a server keeps. As good as the password for DIGEST-MD5."""
    return _md5(f"{user}:{realm}:{password}".encode()).digest()


def check(proof: DigestProof, secret: bytes) -> str | None:
    """The rspauth (32 hexadecimal digits) when `proof` was made with `secret` (16 octets); None when it was not."""
    key = _session_key(proof, secret)
    if not compare_digest(_keyed(proof, key, b"AUTHENTICATE"), proof.response):
        if not proof.truncation_allowed:
            return None
        # Clients of VERSION 2.0.0 and lower treat the first part of A1 as a C string.
        known = secret.partition(b"\0")[0]
        if not SHORTEST_TRUNCATION <= len(known) < len(secret):
            return None
        key = _hex_md5(known)
        if not compare_digest(_keyed(proof, key, b"AUTHENTICATE"), proof.response):
            return None
    return _keyed(proof, key, b"").decode()


def _session_key(proof: DigestProof, secret: bytes) -> bytes:
    return _hex_md5(b"%b:%b:%b" % (secret, proof.nonce, proof.cnonce))


def _keyed(proof: DigestProof, key: bytes, method: bytes) -> bytes:
    a2 = _hex_md5(b"%b:%b" % (method, proof.digest_uri))
    return _hex_md5(b"%b:%b:%b:%b:auth:%b" % (key, proof.nonce, proof.nonce_count, proof.cnonce, a2))


def _hex_md5(text: bytes) -> bytes:
    return _md5(text).hexdigest().encode()


def _md5(text: bytes) -> hashlib._Hash:
    return hashlib.md5(text, usedforsecurity=False)


# --- client -------------------------------------------------------------------------------------------------------


def respond(challenge: bytes, user: str, password: str, uri: str, cnonce: bytes) -> bytes:
    """The line that answers the line `challenge`, both in base64.

    `uri` is such as ``tsp/broker.example``; `cnonce` must be fresh and unpredictable. Raises SaslError when the
    challenge is not one for qop=auth and md5-sess, or when its realm or nonce is missing.
    """
    proof, secret, charset = _answer(challenge, user, password, uri, cnonce)
    message = b"%busername=%b,realm=%b,nonce=%b,nc=%b,cnonce=%b,digest-uri=%b,response=%b,qop=auth" % (
        b"charset=%b," % charset if charset else b"",
        quote(user.encode()),
        quote(proof.realm.encode()),
        quote(proof.nonce),
        proof.nonce_count,
        quote(proof.cnonce),
        quote(proof.digest_uri),
        _keyed(proof, _session_key(proof, secret), b"AUTHENTICATE"),
    )
    return encode_line(message)


def check_rspauth(reply: bytes, challenge: bytes, user: str, password: str, uri: str, cnonce: bytes) -> bool:
    """Whether the line `reply` (base64) proves that the server knows the secret; the rest as given to `respond`.

    Raises SaslError for a reply that is none, such as a status line.
    """
    proof, secret, _ = _answer(challenge, user, password, uri, cnonce)
    claimed = parse_directives(decode_line(reply, CHALLENGE_LIMIT)).get(b"rspauth")
    if claimed is None:
        raise SaslError("no rspauth")
    return compare_digest(_keyed(proof, _session_key(proof, secret), b""), claimed)


def _answer(challenge: bytes, user: str, password: str, uri: str, cnonce: bytes) -> tuple[DigestProof, bytes, bytes]:
    """What is hashed, except for the response itself; the secret; the charset as the server spelled it."""
    offered = parse_directives(decode_line(challenge, CHALLENGE_LIMIT * 4 // 3))
    if b"auth" not in (each.strip(_BLANKS) for each in offered.get(b"qop", b"auth").split(b",")):
        raise SaslError("the server does not offer qop=auth")
    if offered.get(b"algorithm", b"md5-sess").lower() != b"md5-sess":
        raise SaslError("the server does not offer algorithm=md5-sess")
    charset = offered.get(b"charset", b"")
    if charset.lower() not in (b"", b"utf-8", b"utf8"):
        raise SaslError("the server wants a character set other than UTF-8")
    try:
        nonce, realm = offered[b"nonce"], offered[b"realm"].decode()
    except (KeyError, UnicodeDecodeError):
        raise SaslError("the server's realm or nonce is missing or not text") from None
    proof = DigestProof(
        user=user,
        realm=realm,
        nonce=nonce,
        cnonce=cnonce,
        nonce_count=b"00000001",
        digest_uri=uri.encode(),
        response=b"",
    )
    return proof, user_secret(user, realm, password), charset
