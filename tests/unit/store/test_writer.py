# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.stored import HeldThread
from twisted.internet.defer import Deferred, execute
from twisted.python.failure import Failure

from ddtb6.broker.ports import PoolExhausted, StoreBusy, StoreError
from ddtb6.store import writer as writer_module
from ddtb6.store.database import open_writer
from ddtb6.store.writer import LARGEST_BATCH, Operation, Writer


def add(name: str) -> Operation[str]:
    def operation(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO account (name, disabled, created) VALUES (?, 0, 0)", (name,))
        return name

    return operation


def read(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT name FROM account ORDER BY name")]


def refuse(_: sqlite3.Connection) -> None:
    raise PoolExhausted("homes")


def outcome(deferred: Deferred[Any]) -> list[Any]:
    """Filled when `deferred` fires; failures as their exceptions."""
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results


class Disk:
    """A database, what its connection does, and what somebody else sees in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = open_writer(path)
        self.statements: list[str] = []
        self.connection.set_trace_callback(self.statements.append)

    def seen(self) -> list[str]:
        other = sqlite3.connect(self.path)
        try:
            return read(other)
        finally:
            other.close()

    @property
    def commits(self) -> int:
        return self.statements.count("COMMIT")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "ddtb6.sqlite")
    yield disk
    disk.connection.close()


def test_nothing_is_answered_before_its_commit(disk: Disk) -> None:
    thread = HeldThread()
    answer = outcome(Writer(disk.connection, thread).submit(add("alice")))
    assert answer == []
    assert disk.seen() == []
    thread.work()
    assert answer == ["alice"]
    assert disk.seen() == ["alice"]


def test_what_comes_while_the_disk_works_is_one_commit(disk: Disk) -> None:
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    first = outcome(writer.submit(add("first")))
    others = [outcome(writer.submit(add(f"{number:03}"))) for number in range(100)]
    thread.work()
    assert first == ["first"]
    assert others == [[]] * 100
    thread.work()
    assert others == [[f"{number:03}"] for number in range(100)]
    assert disk.commits == 2
    assert thread.jobs == []


def test_what_comes_in_one_turn_is_one_commit(disk: Disk) -> None:
    turn: list[Callable[[], None]] = []
    writer = Writer(disk.connection, execute, turn.append)
    answers = [outcome(writer.submit(add(name))) for name in "abc"]
    assert (answers, disk.seen(), len(turn)) == ([[], [], []], [], 1)
    turn.pop()()
    assert answers == [["a"], ["b"], ["c"]]
    assert disk.commits == 1


def test_what_answers_submit_is_one_commit(disk: Disk) -> None:
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    nested: list[list[Any]] = []

    def go_on(name: str) -> None:
        nested.append(outcome(writer.submit(add(name + name))))

    blocker = outcome(writer.submit(add("x")))
    for name in "abc":
        writer.submit(add(name)).addCallback(go_on)
    thread.work()
    thread.work()
    assert blocker == ["x"]
    assert nested == [[], [], []]
    thread.work()
    assert nested == [["aa"], ["bb"], ["cc"]]
    assert disk.commits == 3


def test_batches_are_bounded_and_in_order(disk: Disk) -> None:
    turn: list[Callable[[], None]] = []
    writer = Writer(disk.connection, execute, turn.append)
    done: list[str] = []
    names = [f"{number:05}" for number in range(LARGEST_BATCH * 40 + 1)]
    for name in names:
        writer.submit(add(name)).addCallback(done.append)
    turn.pop()()
    assert done == names
    assert disk.commits == 41


def test_reading_sees_what_was_submitted_before_and_does_not_wait_for_the_disk(disk: Disk) -> None:
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    assert outcome(writer.submit(read)) == [[]]
    outcome(writer.submit(add("alice")))
    found = outcome(writer.submit(read))
    assert found == []
    thread.work()
    assert found == [["alice"]]
    assert thread.jobs == []


def test_a_refusal_leaves_its_batch_alone(disk: Disk) -> None:
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    outcome(writer.submit(add("blocker")))
    answers = [outcome(writer.submit(each)) for each in (add("a"), refuse, add("b"))]
    thread.work()
    assert answers == [[], [], []]
    thread.work()
    assert answers[0] == ["a"]
    assert isinstance(answers[1][0], PoolExhausted)
    assert answers[2] == ["b"]
    assert disk.commits == 2


def test_a_fault_takes_only_its_own_operation_down(disk: Disk) -> None:
    forgotten: list[bool] = []
    turn: list[Callable[[], None]] = []
    writer = Writer(disk.connection, execute, turn.append, lambda: forgotten.append(True))

    def write_then_refuse(connection: sqlite3.Connection) -> None:
        add("never")(connection)
        refuse(connection)

    operations = [add("a"), add("a"), write_then_refuse, lambda _: 1 // 0, add("b")]
    answers = [outcome(writer.submit(each)) for each in operations]
    turn.pop()()
    assert answers[0] == ["a"]
    assert [type(each[0]) for each in answers[1:4]] == [sqlite3.IntegrityError, AssertionError, ZeroDivisionError]
    assert answers[4] == ["b"]
    assert disk.seen() == ["a", "b"]
    assert len(forgotten) == 4  # the batch, and each of the three by itself


def test_after_a_fault_batches_are_batches_again(disk: Disk) -> None:
    turn: list[Callable[[], None]] = []
    writer = Writer(disk.connection, execute, turn.append)
    for operation in (add("a"), lambda _: 1 // 0):
        outcome(writer.submit(operation))
    turn.pop()()
    before = disk.commits
    for name in "bcd":
        outcome(writer.submit(add(name)))
    turn.pop()()
    assert disk.commits == before + 1


def test_a_full_disk_fails_the_batch_and_not_those_after_it(disk: Disk) -> None:
    turn: list[Callable[[], None]] = []
    writer = Writer(disk.connection, execute, turn.append)
    [pages] = disk.connection.execute("PRAGMA page_count").fetchone()
    disk.connection.execute(f"PRAGMA max_page_count = {pages}")
    answers = [outcome(writer.submit(add(letter * 5000))) for letter in "ab"]
    turn.pop()()
    for [answer] in answers:
        assert isinstance(answer, StoreError)
        assert "full" in str(answer)
    disk.connection.execute(f"PRAGMA max_page_count = {pages + 100}")
    answer = outcome(writer.submit(add("c")))
    turn.pop()()
    assert answer == ["c"]
    assert disk.seen() == ["c"]


def test_another_writer_is_waited_for_in_the_thread(disk: Disk) -> None:
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    other = sqlite3.connect(disk.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = outcome(writer.submit(add("a")))
    assert len(thread.jobs) == 1  # the patient BEGIN
    other.execute("COMMIT")
    other.close()
    thread.work()
    assert answer == []
    thread.work()
    assert answer == ["a"]


def test_patience_ends(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LOCK_PATIENCE", 0.01)
    writer = Writer(disk.connection, execute)
    other = sqlite3.connect(disk.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    [refused] = outcome(writer.submit(add("a")))
    assert isinstance(refused, StoreError)
    assert "locked" in str(refused)
    other.execute("COMMIT")
    other.close()
    assert outcome(writer.submit(add("a"))) == ["a"]


def test_a_thread_that_fails_fails_what_it_had(disk: Disk) -> None:
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    answer = outcome(writer.submit(add("a")))
    [(_, done)] = thread.jobs
    thread.jobs.clear()
    done.errback(Failure(RuntimeError("no thread")))
    assert isinstance(answer[0], RuntimeError)
    assert disk.seen() == []
    again = outcome(writer.submit(add("a")))
    thread.work()
    assert again == ["a"]


def test_the_queue_is_bounded(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LONGEST_QUEUE", 3)
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    answers = [outcome(writer.submit(add(name))) for name in "abcde"]  # the first is under way
    assert isinstance(answers.pop()[0], StoreBusy)
    thread.work()
    thread.work()
    assert answers == [["a"], ["b"], ["c"], ["d"]]


def test_one_that_gave_up_waiting_disturbs_nobody(disk: Disk) -> None:
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    gone = writer.submit(add("a"))
    gone.addErrback(lambda _: None)
    other = outcome(writer.submit(add("b")))
    gone.cancel()
    thread.work()
    thread.work()
    assert other == ["b"]


def test_closing_writes_what_waits(disk: Disk) -> None:
    thread = HeldThread()
    writer = Writer(disk.connection, thread)
    answers = [outcome(writer.submit(add(name))) for name in "ab"]
    closed = [outcome(writer.close()), outcome(writer.close())]
    [late] = outcome(writer.submit(add("c")))
    assert isinstance(late, StoreError)
    thread.work()
    thread.work()
    assert answers == [["a"], ["b"]]
    assert closed == [[], []]
    thread.work()
    assert closed == [[None], [None]]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        disk.connection.execute("SELECT 1")
    assert outcome(writer.close()) == [None]
    assert disk.seen() == ["a", "b"]
