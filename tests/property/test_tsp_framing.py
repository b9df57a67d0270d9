# SPDX-License-Identifier: GPL-2.0-or-later
"""An exchange under every order of copies, polls and replies: run once, answered under the right header, bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ddtb6.tsp.framing import OVERHEAD, Answer, Exchange, Fresh, Silent, classify, is_poll, pack, unpack

words = st.integers(0, 2**32 - 1)


@given(st.integers(0, 2**28 - 1), words, st.binary(max_size=64))
def test_round_trip(sequence: int, timestamp: int, text: bytes) -> None:
    header, again = unpack(pack(sequence, timestamp, text))
    assert (header.sequence, header.timestamp, again) == (sequence, timestamp, text)
    assert header.raw + again == pack(sequence, timestamp, text)


@given(st.binary(max_size=64))
def test_anything_is_classified(datagram: bytes) -> None:
    assert classify(datagram)


class LockStepClient(RuleBasedStateMachine):
    """A client that sends requests and polls one at a time, in as many copies as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.exchange = Exchange(OVERHEAD[4])
        self.sequence = 0xFFFFFF0
        self.timestamp = 0
        self.text = b""
        self.expected: bytes | None = None  # what a copy of the latest datagram is answered with
        self.to_fetch = b""
        self.fetched = b""
        self.header = b""
        self.sent = 0  # octets on the wire so far, as are those of `received`
        self.received = 0

    def send(self, text: bytes) -> Fresh | Answer | Silent:
        self.timestamp += 1
        datagram = pack(self.sequence, self.timestamp, text)
        self.text = text
        header, text = unpack(datagram)
        self.header = header.raw
        self.sent += len(datagram) + 28
        return self.exchange.receive(header, text, len(datagram))

    def check(self, datagram: bytes) -> bytes:
        assert datagram[:8] == self.header
        assert len(datagram) <= 1200
        self.received += len(datagram) + 28
        assert self.received <= 3 * self.sent
        return datagram[8:]

    @precondition(lambda self: not self.exchange.owing)
    @rule(text=st.binary(min_size=1, max_size=300).filter(lambda text: not is_poll(text)), gap=st.integers(1, 9))
    def request(self, text: bytes, gap: int) -> None:
        self.sequence += gap
        assert self.send(text) == Fresh(text)
        self.expected = None

    @precondition(lambda self: self.exchange.owing)
    @rule(payload=st.binary(max_size=3000))
    def reply(self, payload: bytes) -> None:
        self.expected = self.check(self.exchange.reply(payload))
        self.to_fetch, self.fetched = payload, self.expected

    @precondition(lambda self: self.sequence != 0xFFFFFF0)
    @rule()
    def repeat(self) -> None:
        arrival = self.send(self.text)
        if self.expected is None:
            assert arrival == Silent()
        else:
            if arrival == Silent():  # It has had its share.
                assert self.received + len(self.expected) + 8 + 28 > 3 * self.sent
                return
            assert isinstance(arrival, Answer)
            assert self.check(arrival.datagram) == self.expected

    @precondition(lambda self: not self.exchange.owing)
    @rule(text=st.sampled_from([b"", b"\r\n"]))
    def poll(self, text: bytes) -> None:
        self.sequence += 1
        arrival = self.send(text)
        assert isinstance(arrival, Answer)
        self.expected = self.check(arrival.datagram)
        assert bool(self.expected) == (self.fetched != self.to_fetch)
        self.fetched += self.expected
        assert self.to_fetch.startswith(self.fetched)

    @precondition(lambda self: not self.exchange.owing)
    @rule(payload=st.binary(min_size=1, max_size=200))
    def followup(self, payload: bytes) -> None:
        self.exchange.followup(payload)
        self.to_fetch += payload

    @rule(back=st.integers(1, 1000), text=st.binary(max_size=20))
    def stray(self, back: int, text: bytes) -> None:
        if self.sequence == 0xFFFFFF0:
            return
        header, text = unpack(pack(self.sequence - back, 0, b"stray" + text))
        self.sent += 40 + 28
        assert self.exchange.receive(header, text, 40) == Silent()


TestLockStepClient = LockStepClient.TestCase
