# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a password, and which names and passwords an account may have.

Source: RFC 7914 (scrypt); limits of gogoCLIENT and of RFC 2831.
Invariants: a stored string cannot make verification take more than 128 MiB; comparison takes constant time.
`hash_password` and `verify_password` take about 50 ms and 16 MiB: call them in a thread (`auth.local.ThreadLane`).
Not here: who may log in (`auth.local`), DIGEST-MD5 (`sasl.digest`).
"""

from __future__ import annotations

import binascii
import hashlib
import re
import secrets
from base64 import b64decode, b64encode
from hmac import compare_digest
from typing import NamedTuple

from ddtb6.broker.ports import Account
from ddtb6.sasl.digest import user_secret

NAME_LIMIT = 64
"""Characters of an account name."""
PASSWORD_LIMIT = 128
"""Characters of a password; gogoCLIENT takes no more."""

_SALT_OCTETS = 16
_HASH_OCTETS = 32
_LARGEST_N = 2**17
_LARGEST_WORK = 2**20
"""N * r * p; memory is 128 * N * r octets."""

_STORED = re.compile(
    r"scrypt\$([0-9]{1,6})\$([0-9]{1,2})\$([0-9]{1,2})\$([A-Za-z0-9+/]{11,86}={0,2})\$([A-Za-z0-9+/]{22,86}={0,2})"
)


class _Cost(NamedTuple):
    n: int
    r: int
    p: int

    @property
    def bearable(self) -> bool:
        """Whether RFC 7914 section 6 allows it and it is within our bounds."""
        lawful = self.n >= 2 and self.n & (self.n - 1) == 0 and self.n < 2 ** (16 * self.r)
        return lawful and self.n <= _LARGEST_N and 0 < self.n * self.r * self.p <= _LARGEST_WORK


_COST = _Cost(n=2**14, r=8, p=1)


class InvalidAccount(ValueError):
    """The name or password will not do; the message is a sentence for the person who chose it."""


def hash_password(password: str) -> str:
    """``scrypt$N$r$p$salt$hash`` with a fresh salt, the last two in base64."""
    salt = secrets.token_bytes(_SALT_OCTETS)
    key = _scrypt(password, salt, _COST, _HASH_OCTETS)
    return f"scrypt${_COST.n}${_COST.r}${_COST.p}${b64encode(salt).decode()}${b64encode(key).decode()}"


def verify_password(password: str, stored: str) -> bool:
    """Whether `stored` was made from `password`. False for a stored string that is malformed or asks for too much."""
    parts = _parse(stored)
    if parts is None:
        return False
    cost, salt, key = parts
    return compare_digest(_scrypt(password, salt, cost, len(key)), key)


def require_name(name: str) -> None:
    """Raises InvalidAccount unless `name` may be the name of an account."""
    if not name:
        raise InvalidAccount("The user name is empty.")
    if len(name) > NAME_LIMIT:
        raise InvalidAccount(f"The user name has {len(name)} characters; {NAME_LIMIT} are allowed.")
    for character in name:
        if not (character.isalnum() or character in ".-_@"):
            raise InvalidAccount(f"The user name holds {character!a}; use letters, digits and . - _ @ only.")


def require_password(password: str) -> None:
    """Raises InvalidAccount unless `password` can be used with every mechanism."""
    if not password:
        raise InvalidAccount("The password is empty.")
    if len(password) > PASSWORD_LIMIT:
        raise InvalidAccount(f"The password has {len(password)} characters; {PASSWORD_LIMIT} are allowed.")
    if any(ord(character) < 0x20 or character == "\x7f" for character in password):
        raise InvalidAccount(
            "The password holds a control character, such as a tab or a line end; clients cannot send it."
        )
    try:
        password.encode()
    except UnicodeEncodeError:
        raise InvalidAccount("The password is not valid text; check the character set of the terminal.") from None


def new_secrets(name: str, password: str, realm: str) -> tuple[bytes, str]:
    """`Account.digest` and `Account.password_hash` of an account. Raises InvalidAccount. Slow, see above."""
    require_name(name)
    require_password(password)
    return user_secret(name, realm, password), hash_password(password)


def new_account(name: str, password: str, realm: str, now: float) -> Account:
    """An enabled account with both verifiers; `now` is epoch seconds. Raises InvalidAccount. Slow, see above."""
    digest, password_hash = new_secrets(name, password, realm)
    return Account(name=name, digest=digest, password_hash=password_hash, disabled=False, created=now)


def _parse(stored: str) -> tuple[_Cost, bytes, bytes] | None:
    match = _STORED.fullmatch(stored)
    if match is None:
        return None
    cost = _Cost(int(match[1]), int(match[2]), int(match[3]))
    try:
        salt, key = b64decode(match[4], validate=True), b64decode(match[5], validate=True)
    except binascii.Error:
        return None
    return (cost, salt, key) if cost.bearable else None


def _scrypt(password: str, salt: bytes, cost: _Cost, octets: int) -> bytes:
    # OpenSSL counts some buffers beside the 128 * N * r octets that scrypt itself needs.
    memory = 128 * cost.n * cost.r + 128 * cost.r * cost.p + 256 * cost.r + 65536
    return hashlib.scrypt(password.encode(), salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=memory, dklen=octets)
