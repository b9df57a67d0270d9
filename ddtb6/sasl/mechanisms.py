# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's role in ANONYMOUS, PLAIN and DIGEST-MD5: from what a client sends to credentials that can be judged.

Source: RFC 4616, RFC 2831; TSP profile: PLAIN is sent raw, DIGEST-MD5 in base64, and ANONYMOUS without the trace
information of RFC 4505.
Invariants: an instance serves one negotiation and takes one response; one that is not acceptable raises `SaslError` and
nothing else.
Not here: who judges the credentials (`auth`), DIGEST-MD5 arithmetic (`digest`), AUTHENTICATE lines (`tsp`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hmac import compare_digest
from typing import Protocol

from ddtb6.sasl.credentials import Anonymous, Credentials, DigestProof, Plain
from ddtb6.sasl.digest import SaslError, decode_line, encode_line, parse_directives

__all__ = ["Mechanism", "SaslError", "mechanism", "rspauth_reply"]

PLAIN_LIMIT = 1024
"""Octets of a PLAIN response with its line end."""
DIGEST_LIMIT = 1536
"""Octets of base64 of a DIGEST-MD5 response; gogoCLIENT sends 1,364 at most."""
USER_LIMIT = 253
"""Octets of a user name: what a RADIUS attribute holds, and what gogoCLIENT allows."""
PASSWORD_LIMIT = 128
"""Characters of a password; what gogoCLIENT allows."""

_RESPONSE = re.compile(rb"[0-9a-f]{32}")
_FIRST_USE = b"00000001"


class Mechanism(Protocol):
    """One mechanism in one negotiation."""

    name: str

    def start(self) -> bytes | Credentials:
        """What to send before the client's response, empty for nothing; or the credentials when they are complete."""

    def respond(self, data: bytes) -> Credentials:
        """Take the client's response as it came, line end included. Raises SaslError, for a second response always."""


def mechanism(name: str, *, realm: str, nonce: Callable[[], bytes], version: tuple[int, ...]) -> Mechanism | None:
    """A fresh mechanism by upper-case name; None when there is none of that name.

    `nonce` gives an unpredictable value never given before, of letters, digits, ``-`` and ``_``. `version` is the TSP
    version the client named. Raises ValueError for a realm that clients could not parse.
    """
    if name == "DIGEST-MD5":
        return _DigestMd5(realm, nonce, version <= (2, 0, 0))
    if name == "PLAIN":
        return _Plain()
    if name == "ANONYMOUS":
        return _Anonymous()
    return None


def rspauth_reply(rspauth: str) -> bytes:
    """The line that proves the server to a DIGEST-MD5 client; `rspauth` is 32 hexadecimal digits."""
    return encode_line(b"rspauth=" + rspauth.encode())


class _Anonymous:
    name = "ANONYMOUS"
    __slots__ = ()

    def start(self) -> Credentials:
        return Anonymous()

    def respond(self, data: bytes) -> Credentials:
        raise SaslError("ANONYMOUS has no response")


class _Plain:
    name = "PLAIN"
    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting = False

    def start(self) -> bytes:
        self._waiting = True
        return b""

    def respond(self, data: bytes) -> Credentials:
        if not self._waiting:
            raise SaslError("no response is expected")
        self._waiting = False
        if len(data) > PLAIN_LIMIT:
            raise SaslError("message too long")
        parts = data.rstrip(b"\r\n\0").split(b"\0")
        if len(parts) != 3:
            raise SaslError("not authorisation identity, user name and password")
        authzid, user, password = parts
        if authzid and authzid != user:
            raise SaslError("an authorisation identity other than the user's own")
        return Plain(_user_name(user), _password(password))


class _DigestMd5:
    name = "DIGEST-MD5"
    __slots__ = ("_make_nonce", "_nonce", "_realm", "_truncation_allowed", "_wire_realm")

    def __init__(self, realm: str, nonce: Callable[[], bytes], truncation_allowed: bool) -> None:
        self._realm = realm
        self._wire_realm = _wire_realm(realm)
        self._make_nonce = nonce
        self._nonce: bytes | None = None
        self._truncation_allowed = truncation_allowed

    def start(self) -> bytes:
        self._nonce = self._make_nonce()
        # gogoCLIENT splits at commas before it looks at quotes, crashes on blanks and on any of these that is missing,
        # and hashes the value of qop as it stands.
        return encode_line(
            b'realm="%b",nonce="%b",qop="auth",algorithm=md5-sess,charset=utf8' % (self._wire_realm, self._nonce)
        )

    def respond(self, data: bytes) -> Credentials:
        nonce, self._nonce = self._nonce, None
        if nonce is None:
            raise SaslError("the nonce is used up")
        said = parse_directives(decode_line(data, DIGEST_LIMIT))
        try:
            user, response = said[b"username"], said[b"response"].lower()
            cnonce, digest_uri = said[b"cnonce"], said[b"digest-uri"]
            if not compare_digest(said[b"nonce"], nonce) or said[b"nc"] != _FIRST_USE:
                raise SaslError("not the nonce that was sent, or not its first use")
            # 2.1.2: "required if the server provided any realms"; every client known echoes the one that was offered.
            if said[b"realm"] != self._wire_realm:
                raise SaslError("not the realm that was offered")
        except KeyError:
            raise SaslError("a directive is missing") from None
        if said.get(b"qop", b"auth") != b"auth":
            raise SaslError("not qop=auth")
        if said.get(b"authzid"):  # GNU SASL sends an empty one, and leaves it out of the hash.
            raise SaslError("an authorisation identity")
        if _RESPONSE.fullmatch(response) is None:
            raise SaslError("the response is not 32 hexadecimal digits")
        if not cnonce:
            raise SaslError("the client's nonce is empty")
        return DigestProof(
            user=_user_name(user),
            realm=self._realm,
            nonce=nonce,
            cnonce=cnonce,
            nonce_count=_FIRST_USE,
            digest_uri=digest_uri,
            response=response,
            truncation_allowed=self._truncation_allowed,
        )


@lru_cache(maxsize=8)
def _wire_realm(realm: str) -> bytes:
    if not realm or not realm.isprintable() or any(each in realm for each in ',"\\'):
        raise ValueError("a realm must be printable text without comma, double quote and backslash")
    return realm.encode()


def _user_name(raw: bytes) -> str:
    if not 0 < len(raw) <= USER_LIMIT:
        raise SaslError("the user name is empty or too long")
    name = _text(raw)
    if not name.isprintable():  # So that it can be logged and shown as it stands.
        raise SaslError("the user name holds control characters")
    return name


def _password(raw: bytes) -> str:
    password = _text(raw)
    if not 0 < len(password) <= PASSWORD_LIMIT:
        raise SaslError("the password is empty or too long")
    return password


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise SaslError("not UTF-8") from None
