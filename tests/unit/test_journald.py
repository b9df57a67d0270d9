# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries as journald reads them, and that a journald that is slow or gone hurts nobody."""

from __future__ import annotations

import io
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.logger import ILogObserver, Logger, LogLevel
from zope.interface.verify import verifyObject

from ddtb6.journald import LONGEST, Journal, observer


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as handle:
        handle.bind(str(tmp_path / "socket"))
        handle.settimeout(5)
        yield handle


@pytest.fixture
def log(journald: socket.socket) -> Logger:
    return Logger("ddtb6.test", observer=observer(journald.getsockname()))


def entry(journald: socket.socket) -> dict[str, str]:
    """The fields of the next one, read as the protocol says."""
    left, fields = journald.recv(1 << 20), {}
    while left:
        line, _, left = left.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(left[:8], "little")
            value, left = left[8 : 8 + size], left[8 + size :]
            assert left[:1] == b"\n"
            left = left[1:]
        fields[name.decode()] = value.decode()
    return fields


@pytest.mark.parametrize(("level", "severity"), [("debug", 7), ("info", 6), ("warn", 4), ("error", 3), ("critical", 2)])
def test_an_entry_has_its_severity(journald: socket.socket, log: Logger, level: str, severity: int) -> None:
    log.emit(LogLevel.levelWithName(level), "{what} happened", what="nothing")
    assert entry(journald) == {
        "MESSAGE": "nothing happened",
        "PRIORITY": str(severity),
        "SYSLOG_IDENTIFIER": "ddtb6",
        "DDTB6_LOGGER": "ddtb6.test",
    }


def test_whom_it_is_about_can_be_asked_for(journald: socket.socket, log: Logger) -> None:
    log.info("one line", session=17, user="alice")
    log.info("another", session=18, user=None)
    told = entry(journald)
    assert (told["DDTB6_SESSION"], told["DDTB6_USER"]) == ("17", "alice")
    assert "DDTB6_USER" not in entry(journald)


def test_nobody_can_write_fields_of_an_entry(journald: socket.socket, log: Logger) -> None:
    log.info("{said}", said="hello\nPRIORITY=0\nMESSAGE=all is lost", user="a\nPRIORITY=1\udc80")
    told = entry(journald)
    assert told["MESSAGE"] == "hello\nPRIORITY=0\nMESSAGE=all is lost"
    assert told["DDTB6_USER"] == "a\nPRIORITY=1\\udc80"
    assert told["PRIORITY"] == "6"


def test_a_failure_has_its_traceback_and_an_end(journald: socket.socket, log: Logger) -> None:
    try:
        raise ValueError("x" * LONGEST)
    except ValueError:
        log.failure("while testing")
    told = entry(journald)
    assert told["PRIORITY"] == "2"
    assert told["MESSAGE"].startswith("while testing\nTraceback")
    assert len(told["MESSAGE"]) <= LONGEST


def test_a_journald_that_does_not_read_is_waited_for_once(journald: socket.socket, log: Logger) -> None:
    began = time.monotonic()
    for number in range(5000):
        log.info("entry {number} {fill}", number=number, fill="x" * 1000)
    assert time.monotonic() - began < 60, "it waited each time"
    taken = []
    journald.setblocking(False)
    while True:
        try:
            taken.append(entry(journald)["MESSAGE"])
        except BlockingIOError:
            break
    assert 0 < len(taken) < 5000
    log.info("after it")
    assert (
        entry(journald)["MESSAGE"] == f"{5000 - len(taken)} lines before this one were lost: journald did not take them"
    )
    assert entry(journald)["MESSAGE"] == "after it"


def test_a_journald_that_is_gone_is_no_error(journald: socket.socket) -> None:
    log = Logger("ddtb6.test", observer=Journal(journald.getsockname()))
    Path(journald.getsockname()).unlink()
    log.info("one")
    log.info("two")


def test_without_one_it_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    made = observer(str(tmp_path / "socket"))
    assert verifyObject(ILogObserver, made)
    Logger("ddtb6.test", observer=made).warn("what a line")
    assert sys.stdout.getvalue().endswith("[ddtb6.test#warn] what a line\n")
