# SPDX-License-Identifier: GPL-2.0-or-later
"""Generic netlink against the kernel's own family ``nlctrl``, and against a kernel that misbehaves."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from support.planes import private_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from ddtb6.dataplane import genetlink
from ddtb6.dataplane.genetlink import (
    ACK,
    DUMP,
    MOST_WAITING,
    Family,
    Genetlink,
    Interrupted,
    Refused,
    attribute,
    attributes,
)

CONTROL = Family(16, 2)
GET_FAMILY, FAMILY_ID, FAMILY_NAME = 3, 1, 2
NLCTRL = attribute(FAMILY_NAME, b"nlctrl\0")
ERROR, DONE = 2, 3


def outcome(asked: Deferred[Any]) -> Any:
    """The answers, or the exception; None while there is none."""
    found: list[Any] = []
    if asked.called:
        asked.addCallbacks(found.append, lambda failure: found.append(failure.value))
    return found[0] if found else None


class Lab:
    """A reactor that is turned by hand, and one socket."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.lost: list[str] = []
        self.netlink = Genetlink(reactor, CONTROL, self.lost.append)
        self.kernel: socket.socket | None = None

    def impersonate(self) -> socket.socket:
        """Be the kernel from here on."""
        assert self.netlink._socket is not None
        self.reactor.removeReader(self.netlink)
        ours, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.netlink._socket.close()
        self.netlink._socket = ours
        self.reactor.addReader(self.netlink)
        return self.kernel

    def answer(self, number: int, body: bytes = b"", kind: int = 16, flags: int = 0, length: int | None = None) -> None:
        assert self.kernel is not None
        size = 16 + len(body) if length is None else length
        self.kernel.send(struct.pack("=IHHII", size, kind, flags, number, 0) + body)
        self.reactor.iterate(0.0)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with private_reactor() as reactor:
        made = Lab(reactor)
        yield made
        made.netlink.close()
        if made.kernel is not None:
            made.kernel.close()


def test_the_kernel_has_answered_once_it_has_been_asked(lab: Lab) -> None:
    [body] = outcome(lab.netlink.ask(GET_FAMILY, NLCTRL, 0))
    found = {kind: body[at:end] for kind, at, end in attributes(body)}
    assert found[FAMILY_NAME] == b"nlctrl\0"
    assert struct.unpack("=H", found[FAMILY_ID]) == (16,)
    assert outcome(lab.netlink.ask(GET_FAMILY, NLCTRL, ACK)) == [body]


def test_a_refusal_has_the_kernels_number_and_sentence_and_says_where(lab: Lab) -> None:
    refusal = outcome(lab.netlink.ask(GET_FAMILY, attribute(FAMILY_NAME, b"no-such-family\0")))
    assert (type(refusal), refusal.code, str(refusal)) == (Refused, errno.ENOENT, "No such file or directory")
    fine = attribute(FAMILY_NAME, b"nlctrl\0")
    refusal = outcome(lab.netlink.ask(GET_FAMILY, fine + attribute(FAMILY_ID, b"")))
    assert refusal.code in (errno.EINVAL, errno.ERANGE)
    assert str(refusal) != ""
    assert refusal.where == len(fine)


def test_a_dump_goes_to_who_wants_each_and_others_are_answered_meanwhile(lab: Lab) -> None:
    each: list[bytes] = []
    dump = lab.netlink.ask(GET_FAMILY, b"", DUMP, each.append)
    assert outcome(lab.netlink.ask(GET_FAMILY, NLCTRL, 0))
    for _ in range(100):
        lab.reactor.iterate(0.0)
    assert outcome(dump) == []
    assert any(b"nlctrl\0" in body for body in each)
    [*whole] = outcome(lab.netlink.ask(GET_FAMILY, b"", DUMP))
    assert whole == each


def test_a_turn_is_the_reactors_next(lab: Lab) -> None:
    turn = lab.netlink.turn()
    assert not turn.called
    lab.reactor.iterate(0.0)
    assert turn.called
    turn = lab.netlink.turn()
    lab.netlink.close()
    assert turn.called
    assert lab.netlink.turn().called


def test_what_waits_when_it_is_closed_is_refused_and_so_is_what_comes_later(lab: Lab) -> None:
    lab.impersonate()
    asked = lab.netlink.ask(GET_FAMILY, NLCTRL)
    lab.netlink.close()
    lab.netlink.close()
    assert outcome(asked).code == errno.ENOBUFS
    assert outcome(lab.netlink.ask(GET_FAMILY, NLCTRL)).code == errno.ENOTCONN
    assert lab.lost == []


def test_a_dump_that_changed_meanwhile_says_so(lab: Lab) -> None:
    lab.impersonate()
    asked = lab.netlink.ask(GET_FAMILY, b"", DUMP)
    lab.answer(1, bytes(4), flags=0x12)
    lab.answer(1, bytes(4), kind=DONE, flags=2)
    assert isinstance(outcome(asked), Interrupted)


def test_answers_find_their_requests_in_any_order_and_strange_ones_nobody(lab: Lab) -> None:
    lab.impersonate()
    one, other = lab.netlink.ask(GET_FAMILY, b"", 0), lab.netlink.ask(GET_FAMILY, b"", 0)
    for number, kind, body, length in (
        *((77, 16, b"", None), (77, ERROR, bytes(4), None), (1, 16, b"", 3), (1, 16, b"", 4000)),
        *((0, ERROR, b"", None), (0, 16, b"", 0)),
    ):
        lab.answer(number, body, kind, length=length)
    assert lab.kernel is not None
    lab.kernel.send(b"short")
    lab.answer(2, b"headtwo")
    assert (outcome(one), outcome(other)) == (None, [b"two"])
    lab.answer(1, b"headone")
    assert outcome(one) == [b"one"]


def test_a_kernel_that_does_not_answer_does_not_fill_the_memory(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genetlink, "MOST_WAITING", 8)
    lab.impersonate()
    asked = [lab.netlink.ask(GET_FAMILY, b"") for _ in range(10)]
    assert [outcome(each).code for each in asked[-2:]] == [errno.EBUSY] * 2
    assert MOST_WAITING > 1000


def test_lost_answers_fail_all_that_waits_and_are_told(lab: Lab) -> None:
    lab.impersonate()
    asked = [lab.netlink.ask(GET_FAMILY, b"") for _ in range(2)]

    class Full:
        def recv_into(self, buffer: object) -> int:
            raise OSError(errno.ENOBUFS, "No buffer space available")

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    real: Any = lab.netlink._socket
    lab.netlink._socket = Full()  # type: ignore[assignment]
    lab.netlink.doRead()
    assert [outcome(each).code for each in asked] == [errno.ENOBUFS] * 2
    assert lab.lost == ["answers of the kernel were lost: No buffer space available"]
    lab.netlink._socket = real


def test_what_nobody_waits_for_does_not_keep_the_reactor_busy(lab: Lab) -> None:
    lab.impersonate()
    for number in range(3):
        lab.answer(number, bytes(4))
    with pytest.raises(BlockingIOError):
        lab.netlink._socket.recv(1)  # type: ignore[union-attr]


def test_a_descriptor_that_the_reactor_gives_up_is_told(lab: Lab) -> None:
    lab.netlink.connectionLost(Failure(ConnectionLost()))
    lab.netlink.connectionLost(Failure(ConnectionLost()))
    assert len(lab.lost) == 1
    assert lab.netlink.fileno() == -1


@pytest.mark.parametrize("blob", [b"\x03\0\x01\0", b"\0\0\0\0", b"\x09\0\x01\0", b"abc"])
def test_attributes_that_do_not_fit_end_the_row(blob: bytes) -> None:
    good = attribute(5, b"x")
    assert list(attributes(good + blob)) == [(5, 4, 5)]
