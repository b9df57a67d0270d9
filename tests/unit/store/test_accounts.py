# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.stored import SetClock, make_store, now, opening

from ddtb6.broker.ports import Account, AccountExists, NoSuchAccount, StoreError
from ddtb6.store.store import Store

ALICE = Account("alice", bytes(range(16)), "scrypt$1$2$3$salt$hash", False, 1.5)
BOB = Account("bob", None, None, True, 2.5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = make_store(tmp_path)
    now(store.add_account(BOB))
    now(store.add_account(ALICE))
    return store


def test_accounts_are_found_by_their_exact_name(store: Store) -> None:
    assert store.find_account("alice") == ALICE
    assert store.find_account("bob") == BOB
    for stranger in ("Alice", "alice ", "", "al\0ice", "a' OR 1=1 --", "\N{SNOWMAN}"):
        assert store.find_account(stranger) is None


def test_accounts_are_listed_by_name_and_survive_a_restart(tmp_path: Path, store: Store) -> None:
    now(store.close())
    assert now(make_store(tmp_path).accounts()) == [ALICE, BOB]


def test_a_taken_name_is_refused(store: Store) -> None:
    with pytest.raises(AccountExists, match="alice"):
        now(store.add_account(dataclasses.replace(BOB, name="alice")))
    assert store.find_account("alice") == ALICE


def test_both_secrets_are_replaced(store: Store) -> None:
    now(store.set_secrets("bob", b"x" * 16, None))
    now(store.set_secrets("alice", None, "scrypt$other"))
    assert store.find_account("bob") == dataclasses.replace(BOB, digest=b"x" * 16)
    assert store.find_account("alice") == dataclasses.replace(ALICE, digest=None, password_hash="scrypt$other")


def test_an_account_is_disabled_and_enabled(store: Store) -> None:
    now(store.set_disabled("alice", True))
    assert store.find_account("alice") == dataclasses.replace(ALICE, disabled=True)
    now(store.set_disabled("alice", False))
    assert store.find_account("alice") == ALICE


def test_what_is_not_there_is_refused(store: Store) -> None:
    for verb in (
        lambda: store.set_secrets("carol", None, None),
        lambda: store.set_disabled("carol", True),
        lambda: store.delete_account("carol"),
    ):
        with pytest.raises(NoSuchAccount, match="carol"):
            now(verb())


def test_a_deleted_account_gives_up_its_leases_and_leaves_its_history(tmp_path: Path) -> None:
    clock = SetClock()
    store = make_store(tmp_path, clock=clock)
    now(store.add_account(ALICE))
    session = now(store.open_session(opening("user:alice", "homes")))
    kept = now(store.open_session(opening("user:alice2", "homes")))
    clock.now = 1100.0
    now(store.delete_account("alice"))
    assert store.find_account("alice") is None
    assert {each.owner for each in now(store.leases())} == {"user:alice2"}
    assert [each.released for each in now(store.leases("user:alice", held=False))] == [1100.0, 1100.0]
    assert [each.id for each in now(store.past_sessions())] == [kept.id, session.id]
    now(store.add_account(ALICE))
    assert store.find_account("alice") == ALICE


def test_a_store_that_cannot_be_read_says_so(store: Store) -> None:
    now(store.close())
    with pytest.raises(StoreError, match="cannot be read"):
        store.find_account("alice")
