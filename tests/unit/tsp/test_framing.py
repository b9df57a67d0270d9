# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers as deployed clients send them, and what an exchange makes of retransmissions, polls and restarts."""

from __future__ import annotations

import sys

import pytest

from ddtb6.tsp.framing import (
    ECHO_REQUEST,
    OVERHEAD,
    Answer,
    Exchange,
    Fresh,
    Header,
    Kind,
    Silent,
    classify,
    echo_reply,
    is_poll,
    pack,
    unpack,
)

GOGOC_FIRST = bytes.fromhex("f00000f00000022a56455253494f4e3d322e302e320d0a")
VERSION = b"VERSION=2.0.2\r\n"


def copy(sequence: int, text: bytes, timestamp: int = 0) -> tuple[Header, bytes, int]:
    datagram = pack(sequence, timestamp, text)
    return *unpack(datagram), len(datagram)


def answered(sequence: int, payload: bytes, timestamp: int = 0) -> Answer:
    return Answer(pack(sequence, timestamp, payload))


def begun(*, proven: bool = False) -> Exchange:
    """An exchange whose VERSION was answered."""
    exchange = Exchange(proven=proven)
    exchange.receive(*copy(240, VERSION, 500))
    exchange.reply(b"CAPABILITY\r\n")
    return exchange


@pytest.mark.parametrize(
    ("datagram", "kind"),
    [
        (GOGOC_FIRST, Kind.SIGNALLING),
        (b"\xf0\0\0\xf1" + bytes(4), Kind.SIGNALLING),
        (b"\0\0\0\xf0" + bytes(4), Kind.SIGNALLING),
        (b"\x01\0\0\xf0" + bytes(4), Kind.SIGNALLING),
        (b"\x11\0\0\xf0" + bytes(4), Kind.OTHER),
        (bytes(8), Kind.OTHER),
        (b"\x60" + bytes(39), Kind.DATA),
        (b"\x6f" + bytes(39), Kind.DATA),
        (b"\x60" + bytes(6), Kind.OTHER),
        (b"\x45" + bytes(19), Kind.OTHER),
        (GOGOC_FIRST[:7], Kind.OTHER),
        (b"", Kind.OTHER),
    ],
)
def test_classify(datagram: bytes, kind: Kind) -> None:
    assert classify(datagram) is kind


@pytest.mark.parametrize(
    ("datagram", "sequence", "timestamp"),
    [
        (GOGOC_FIRST, 240, 0x22A),
        (bytes.fromhex("f0000000 4ad1e700"), 0, 0x4AD1E700),
        (bytes.fromhex("f0000001 00000000"), 1, 0),
        (bytes.fromhex("000000f0 2a020000"), 0, 0x22A),
        (bytes.fromhex("010000f0 2a020000"), 1, 0x22A),
        (bytes.fromhex("0ffffff0 00000000"), 0xFFFF0F, 0),
    ],
)
def test_unpack_reads_both_byte_orders(datagram: bytes, sequence: int, timestamp: int) -> None:
    header, text = unpack(datagram)
    assert header == (datagram[:8], sequence, timestamp)
    assert text == datagram[8:]


def test_pack_writes_what_gogoclient_writes() -> None:
    assert pack(240, 0x22A, VERSION) == GOGOC_FIRST
    assert pack(256, 0, b"")[:4] == bytes.fromhex("f0000100")
    assert pack(1 << 28, 1 << 32, b"") == bytes.fromhex("f0000000 00000000")


def test_echo_request() -> None:
    header, text = unpack(bytes.fromhex("f00000f0000002694543484f2052455155455354"))
    assert text == ECHO_REQUEST
    assert echo_reply(header) == header.raw + b"200 Success\r\n"


@pytest.mark.parametrize("text", [b"", b"\r\n", b"\0", b" \t\r\n\0\0"])
def test_polls(text: bytes) -> None:
    assert is_poll(text)


@pytest.mark.parametrize("text", [b"\0alice\0s3cret\r\n", b"x", b"\r\n."])
def test_no_polls(text: bytes) -> None:
    assert not is_poll(text)


class TestExchange:
    def test_a_request_is_answered_under_its_header(self) -> None:
        exchange = Exchange()
        header, text = unpack(GOGOC_FIRST)
        assert exchange.receive(header, text, len(GOGOC_FIRST)) == Fresh(VERSION)
        assert exchange.owing
        assert exchange.reply(b"CAPABILITY\r\n") == GOGOC_FIRST[:8] + b"CAPABILITY\r\n"
        assert not exchange.owing

    def test_an_empty_reply_is_a_bare_header(self) -> None:
        exchange = begun()
        exchange.receive(*copy(241, b"AUTHENTICATE PLAIN\r\n\0", 7))
        assert exchange.reply(b"") == pack(241, 7, b"")
        assert exchange.receive(*copy(241, b"AUTHENTICATE PLAIN\r\n\0", 2007)) == answered(241, b"", 2007)

    def test_a_copy_gets_the_cached_answer_under_its_own_header(self) -> None:
        assert begun().receive(*copy(240, VERSION, 2500)) == answered(240, b"CAPABILITY\r\n", 2500)

    def test_a_copy_of_what_is_worked_on_is_silent_and_gets_the_answer(self) -> None:
        exchange = Exchange()
        exchange.receive(*copy(240, VERSION, 1))
        assert exchange.receive(*copy(240, VERSION, 2001)) == Silent()
        assert exchange.receive(*copy(240, VERSION, 4001)) == Silent()
        assert exchange.reply(b"x") == pack(240, 4001, b"x")

    def test_a_used_sequence_with_another_text_is_a_request(self) -> None:
        assert begun().receive(*copy(240, b"AUTHENTICATE ANONYMOUS\r\n")) == Fresh(b"AUTHENTICATE ANONYMOUS\r\n")

    def test_gaps_are_legal_and_older_is_dropped(self) -> None:
        exchange = begun()
        assert exchange.receive(*copy(5000, b"later")) == Fresh(b"later")
        exchange.reply(b"ok")
        assert exchange.receive(*copy(4999, b"earlier")) == Silent()
        assert exchange.receive(*copy(4999, b"")) == Silent()
        assert exchange.receive(*copy(5000, b"later")) == answered(5000, b"ok")

    def test_sequences_wrap(self) -> None:
        exchange = Exchange()
        exchange.receive(*copy(0xFFFFFFF, b"last"))
        exchange.reply(b"ok")
        assert exchange.receive(*copy(0, b"first again")) == Fresh(b"first again")
        exchange.reply(b"ok")
        assert exchange.receive(*copy(0xFFFFFFF, b"last, of another text")) == Silent()

    def test_another_request_waits_for_its_turn(self) -> None:
        exchange = begun()
        exchange.receive(*copy(241, b"slow"))
        assert exchange.receive(*copy(242, b"impatient")) == Silent()
        assert exchange.reply(b"done") == pack(241, 0, b"done")
        assert exchange.receive(*copy(242, b"impatient")) == Fresh(b"impatient")

    def test_legacy_headers_come_back_as_they_were(self) -> None:
        exchange = Exchange()
        header, text = unpack(bytes.fromhex("000000f0 2a020000") + VERSION)
        exchange.receive(header, text, 23)
        assert exchange.reply(b"x") == bytes.fromhex("000000f0 2a020000") + b"x"
        header, text = unpack(bytes.fromhex("010000f0 2b020000") + b"AUTHENTICATE PLAIN\r\n")
        assert exchange.receive(header, text, 28) == Fresh(b"AUTHENTICATE PLAIN\r\n")

    def test_a_reply_is_owed_once(self) -> None:
        with pytest.raises(AssertionError):
            begun().reply(b"again")


class TestPolls:
    def test_digest_status_is_fetched_by_poll(self) -> None:
        exchange = begun()
        exchange.receive(*copy(241, b"Y2hhcnNldD11"))
        exchange.followup(b"200 Success\r\n")
        assert exchange.reply(b"cnNwYXV0aD03\r\n") == pack(241, 0, b"cnNwYXV0aD03\r\n")
        assert exchange.receive(*copy(242, b"")) == answered(242, b"200 Success\r\n")
        assert exchange.receive(*copy(242, b"", 2000)) == answered(242, b"200 Success\r\n", 2000)
        assert exchange.receive(*copy(243, b"\r\n")) == answered(243, b"")

    def test_a_poll_while_a_request_is_worked_on_gets_a_bare_header(self) -> None:
        exchange = begun()
        exchange.receive(*copy(241, b"slow"))
        assert exchange.receive(*copy(242, b"")) == answered(242, b"")
        assert exchange.receive(*copy(241, b"slow", 9)) == Silent()
        assert exchange.reply(b"done") == pack(241, 9, b"done")

    def test_a_new_request_forgets_what_was_not_fetched(self) -> None:
        exchange = begun()
        exchange.receive(*copy(241, b"response"))
        exchange.reply(b"rspauth")
        exchange.followup(b"200 Success\r\n")
        exchange.receive(*copy(242, b"Content-length: ..."))
        exchange.reply(b"Content-length: 13\r\n200 Success\r\n")
        assert exchange.receive(*copy(243, b"")) == answered(243, b"")

    def test_polls_of_a_client_that_never_counts_on_do_not_run_the_request_again(self) -> None:
        exchange = Exchange()
        exchange.receive(*copy(0, b"request"))
        exchange.reply(b"reply")
        assert exchange.receive(*copy(0, b"")) == answered(0, b"")
        assert exchange.receive(*copy(0, b"request")) == answered(0, b"reply")

    def test_a_poll_before_any_request(self) -> None:
        exchange = Exchange()
        assert exchange.receive(*copy(7, b"")) == answered(7, b"")
        assert not exchange.opens_again(*copy(240, VERSION)[:2])
        assert exchange.receive(*copy(240, VERSION)) == Fresh(VERSION)

    def test_long_replies_are_cut_to_datagrams(self) -> None:
        exchange = begun(proven=True)
        payload = bytes(range(256)) * 12
        exchange.receive(*copy(241, b"list"))
        exchange.followup(b"after")
        datagrams = [exchange.reply(payload)]
        for sequence in range(242, 246):
            arrival = exchange.receive(*copy(sequence, b""))
            assert isinstance(arrival, Answer)
            datagrams.append(arrival.datagram)
        texts = [unpack(each)[1] for each in datagrams]
        assert [len(each) for each in datagrams] == [1200, 1200, 8 + 3072 - 2 * 1192, 8 + 5, 8]
        assert b"".join(texts[:3]) == payload
        assert texts[3:] == [b"after", b""]


class TestAmplification:
    @pytest.mark.parametrize("family", [4, 6])
    @pytest.mark.parametrize("text", [b"x", VERSION, b"AUTHENTICATE DIGEST-MD5\r\n\0", b"x" * 2000])
    def test_an_unproven_peer_gets_at_most_three_times_its_octets(self, family: int, text: bytes) -> None:
        exchange = Exchange(OVERHEAD[family])
        header, text, octets = copy(1, text)
        exchange.receive(header, text, octets)
        datagram = exchange.reply(bytes(5000))
        assert 8 + 70 < len(datagram) <= 1200
        assert len(datagram) + OVERHEAD[family] <= 3 * (octets + OVERHEAD[family])
        arrival = exchange.receive(*copy(2, b""))
        assert isinstance(arrival, Answer)
        received = octets + 8 + 2 * OVERHEAD[family]
        sent = len(datagram) + len(arrival.datagram) + 2 * OVERHEAD[family]
        assert len(arrival.datagram) > 8 + 70
        assert sent <= 3 * received

    def test_the_share_is_of_the_whole_exchange(self) -> None:
        """A short command after longer ones is answered whole; copies of it are not, beyond the share."""
        exchange = begun()
        for sequence in range(241, 246):
            exchange.receive(*copy(sequence, b"x" * 100))
            exchange.reply(b"short")
        exchange.receive(*copy(246, b"x"))
        assert len(exchange.reply(bytes(600))) == 608
        answers = [exchange.receive(*copy(246, b"x")) for _ in range(20)]
        assert Silent() in answers
        assert sum(isinstance(each, Answer) for each in answers) <= (20 * 3 * 37 + 6 * 3 * 136) // 636

    def test_what_this_broker_says_first_is_not_cut(self) -> None:
        capability = (
            b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 TUNNEL=V4V6 "
            b"AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5 AUTH=PASSDSS-3DES-1\r\n"
        )
        exchange = Exchange()
        exchange.receive(*copy(240, VERSION))
        assert exchange.reply(capability)[8:] == capability

    def test_a_proven_peer_gets_all(self) -> None:
        exchange = begun()
        exchange.proven = True
        exchange.receive(*copy(241, b"x"))
        assert len(exchange.reply(bytes(700))) == 708

    def test_short_copies_of_a_long_poll_get_its_chunk_as_long_as_the_share_lasts(self) -> None:
        exchange = Exchange()
        exchange.receive(*copy(1, b"x"))
        exchange.reply(bytes(5000))
        arrival = exchange.receive(*copy(2, b" " * 400))
        assert isinstance(arrival, Answer)
        assert len(arrival.datagram) == 1200
        assert exchange.receive(*copy(2, b"")) == Silent()
        assert exchange.receive(*copy(2, b" " * 400)) == arrival


class TestOpensAgain:
    def test_a_retransmission_does_not(self) -> None:
        exchange = Exchange()
        assert not exchange.opens_again(*copy(240, VERSION, 500)[:2])
        exchange.receive(*copy(240, VERSION, 500))
        assert not exchange.opens_again(*copy(240, VERSION, 2500)[:2])
        exchange.reply(b"CAPABILITY\r\n")
        assert not exchange.opens_again(*copy(240, VERSION, 2500)[:2])
        assert not exchange.opens_again(*copy(240, VERSION, 500)[:2])

    def test_it_does_when_the_exchange_has_gone_on(self) -> None:
        exchange = begun()
        exchange.receive(*copy(241, b"AUTHENTICATE ANONYMOUS\r\n"))
        assert exchange.opens_again(*copy(240, VERSION, 2500)[:2])

    def test_it_does_after_a_poll(self) -> None:
        exchange = begun()
        exchange.receive(*copy(241, b""))
        assert exchange.opens_again(*copy(240, VERSION, 2500)[:2])

    @pytest.mark.parametrize(
        ("sequence", "text", "timestamp"),
        [(240, VERSION, 499), (241, VERSION, 2500), (0, VERSION, 2500), (240, b"VERSION=2.0.1\r\n", 500)],
    )
    def test_it_does_when_sequence_clock_or_text_say_so(self, sequence: int, text: bytes, timestamp: int) -> None:
        assert begun().opens_again(*copy(sequence, text, timestamp)[:2])

    def test_only_a_version_line_opens(self) -> None:
        assert not begun().opens_again(*copy(1, b"AUTHENTICATE PLAIN\r\n")[:2])
        assert not begun().opens_again(*copy(1, b"")[:2])


def test_a_lingering_exchange_is_small() -> None:
    exchange = begun(proven=True)
    exchange.receive(*copy(241, b"x" * 1000))
    exchange.reply(bytes(700))
    exchange.receive(*copy(242, b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'))
    exchange.reply(b"Content-length: 13\r\n200 Success\r\n")
    held = [getattr(exchange, name) for name in Exchange.__slots__]
    assert sys.getsizeof(exchange) + sum(sys.getsizeof(each) for each in held) < 700
