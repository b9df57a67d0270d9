# SPDX-License-Identifier: GPL-2.0-or-later
"""What an authenticator is asked to judge: one value per mechanism.

Source: RFC 4505 (ANONYMOUS), RFC 4616 (PLAIN), RFC 2831 (DIGEST-MD5).
Invariant: a secret never shows in `repr`.
Not here: who judges them (`auth`), how they are read from the wire (`sasl.mechanisms`).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Anonymous:
    """No identity is claimed."""

    mechanism = "ANONYMOUS"


@dataclass(frozen=True, slots=True)
class Plain:
    """A user name and the password itself; non-empty authorisation identities are refused before this exists."""

    mechanism = "PLAIN"
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DigestProof:
    """A DIGEST-MD5 response with all that went into it; nonce, nc and qop have been checked already.

    All text is kept as the bytes that were hashed. `truncation_allowed` is set for VERSION 2.0.0 and lower,
    whose clients may hash A1 only up to the first zero byte of MD5(user:realm:password).
    """

    mechanism = "DIGEST-MD5"
    user: str
    realm: str
    nonce: bytes
    cnonce: bytes
    nonce_count: bytes
    digest_uri: bytes
    response: bytes = field(repr=False)
    """32 lower-case hexadecimal digits."""
    truncation_allowed: bool = False


Credentials = Anonymous | Plain | DigestProof
