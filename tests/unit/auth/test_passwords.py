# SPDX-License-Identifier: GPL-2.0-or-later
"""Password hashes, their bounds, and the rules for names and passwords."""

from __future__ import annotations

import hashlib
import tracemalloc
from base64 import b64encode

import pytest

from ddtb6.auth.passwords import (
    InvalidAccount,
    hash_password,
    new_account,
    new_secrets,
    require_name,
    require_password,
    verify_password,
)
from ddtb6.sasl.digest import user_secret

SALT, KEY = b64encode(b"NaCl-sixteen-oct").decode(), b64encode(bytes(32)).decode()


def stored(n: int, r: int, p: int, password: str = "pässword", octets: int = 32) -> str:
    key = hashlib.scrypt(password.encode(), salt=b"NaCl-sixteen-oct", n=n, r=r, p=p, dklen=octets, maxmem=2**28)
    return f"scrypt${n}${r}${p}${SALT}${b64encode(key).decode()}"


class TestHash:
    def test_round_trip(self) -> None:
        kept = hash_password("pässword")
        assert kept.startswith("scrypt$16384$8$1$")
        assert verify_password("pässword", kept)
        assert not verify_password("passwort", kept)
        assert not verify_password("", kept)

    def test_is_salted(self) -> None:
        assert hash_password("p") != hash_password("p")

    def test_vector_of_rfc_7914(self) -> None:
        key = bytes.fromhex(
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
            "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
        )
        salt = b64encode(b"SodiumChloride").decode()
        assert verify_password("pleaseletmein", f"scrypt$16384$8$1${salt}${b64encode(key).decode()}")

    @pytest.mark.parametrize(("n", "r", "p"), [(2, 1, 1), (1024, 8, 16), (2**15, 8, 1), (2**17, 2, 1)])
    def test_other_parameters_are_taken(self, n: int, r: int, p: int) -> None:
        assert verify_password("pässword", stored(n, r, p))
        assert not verify_password("wrong", stored(n, r, p))

    def test_a_shorter_hash_is_taken(self) -> None:
        assert verify_password("pässword", stored(2**14, 8, 1, octets=24))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "secret",
            "scrypt$16384$8$1$$",
            f"scrypt$16384$8$1${SALT}",
            f"bcrypt$16384$8$1${SALT}${KEY}",
            f"scrypt$16384$8$1${SALT}${KEY}$",
            f"scrypt$16384$8$1${SALT}${KEY}\n",
            f"scrypt$-16384$8$1${SALT}${KEY}",
            f"scrypt$1_6$8$1${SALT}${KEY}",
            f"scrypt$١٦$8$1${SALT}${KEY}",
            f"scrypt$16384$8$1${SALT}${KEY[:-1]}",
            f"scrypt$16384$8$1${SALT}${'A' * 100_000}",
            f"scrypt$0$8$1${SALT}${KEY}",
            f"scrypt$1$8$1${SALT}${KEY}",
            f"scrypt$16383$8$1${SALT}${KEY}",
            f"scrypt$65536$1$1${SALT}${KEY}",
            f"scrypt$262144$2$1${SALT}${KEY}",
            f"scrypt$131072$16$1${SALT}${KEY}",
            f"scrypt$131072$8$2${SALT}${KEY}",
            f"scrypt$16384$0$1${SALT}${KEY}",
            f"scrypt$16384$8$0${SALT}${KEY}",
            f"scrypt$16384$99$99${SALT}${KEY}",
            f"scrypt$999999999999999999999$8$1${SALT}${KEY}",
        ],
    )
    def test_a_hostile_database_is_not_worked_for(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def never(*_: object, **__: object) -> bytes:
            raise AssertionError("scrypt was run")

        monkeypatch.setattr(hashlib, "scrypt", never)
        tracemalloc.start()
        try:
            assert not verify_password("p", text)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()


class TestRules:
    @pytest.mark.parametrize("name", ["a", "alice", "Žofie", "алиса", "愛子", "a.b-c_d@example.org", "7", "x" * 64])
    def test_names(self, name: str) -> None:
        require_name(name)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("", "empty"),
            ("x" * 65, "65 characters; 64"),
            *((f"a{each}b", "letters, digits") for each in " :/\\\"'\0\n\t,;$\u202e\xa0\ud800\x7f%"),
        ],
    )
    def test_names_refused(self, name: str, reason: str) -> None:
        with pytest.raises(InvalidAccount, match=reason) as refusal:
            require_name(name)
        assert str(refusal.value).isprintable()
        assert str(refusal.value).isascii()

    @pytest.mark.parametrize("password", ["x", " a b ", 'p"\\:,/', "heslíčko", "ß" * 128])
    def test_passwords(self, password: str) -> None:
        require_password(password)

    @pytest.mark.parametrize(
        ("password", "reason"),
        [
            ("", "empty"),
            ("x" * 129, "129 characters; 128"),
            ("hunter2\t", "control"),
            ("hunter2\r\n", "control"),
            ("hunter2\0", "control"),
            ("hunter2\x7f", "control"),
            ("hunter2\udcff", "not valid text"),
        ],
    )
    def test_passwords_refused(self, password: str, reason: str) -> None:
        with pytest.raises(InvalidAccount, match=reason) as refusal:
            require_password(password)
        assert "hunter2" not in str(refusal.value)
        assert refusal.value.__cause__ is None


class TestNewAccount:
    def test_has_both_verifiers_and_shows_neither(self) -> None:
        account = new_account("alice", "hunter2", "ddtb6", 1e9)
        assert (account.name, account.disabled, account.created) == ("alice", False, 1e9)
        assert account.digest == user_secret("alice", "ddtb6", "hunter2")
        assert account.password_hash is not None
        assert verify_password("hunter2", account.password_hash)
        for shown in (repr(account), str(account)):
            for secret in ("hunter2", account.password_hash, account.digest.hex(), repr(account.digest)):
                assert secret not in shown

    def test_follows_the_rules(self) -> None:
        with pytest.raises(InvalidAccount):
            new_account("a:b", "p", "ddtb6", 0)
        with pytest.raises(InvalidAccount):
            new_account("alice", "", "ddtb6", 0)
        with pytest.raises(InvalidAccount):
            new_secrets("alice", "x" * 129, "ddtb6")
