# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.planes import icmp, ipv6

from ddtb6.dataplane import icmp6

ROUTER = bytes.fromhex("20010db8000100000000000000000001")
HOST, CLIENT = "2001:db8:f::2", "2001:db8:1::5"

addresses = st.binary(min_size=16, max_size=16)


@given(addresses, addresses, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=1300))
def test_a_message_is_what_rfc_1071_makes_of_it(
    source: bytes, destination: bytes, kind: int, code: int, rest: bytes
) -> None:
    expected = icmp(int.from_bytes(source), int.from_bytes(destination), kind, code, rest)
    built = icmp6.message(source, destination, kind, code, rest)
    # Zero and its complement are the same sum; a receiver accepts either.
    assert built == expected or (built[42:44], expected[42:44]) == (b"\xff\xff", b"\0\0")


def test_the_keepalive_of_gogoc_has_the_checksum_that_was_captured() -> None:
    request = bytes.fromhex(
        "600eaf3f00183a40" "20010db8000000010000000000000002" "20010db8000000010000000000000001"
        "80005efd0e5c00007bc5006b000000002fac0b0000000000"
    )  # fmt: skip
    body = request[40:42] + b"\0\0" + request[44:]
    assert icmp6.checksum(request[8:24], request[24:40], body) == 0x5EFD
    reply = icmp6.echo_reply(request)
    assert reply is not None
    assert reply == icmp("2001:db8:0:1::1", "2001:db8:0:1::2", 129, 0, request[44:])


@pytest.mark.parametrize(
    "packet", [ipv6(HOST, CLIENT), icmp(HOST, CLIENT, 129, 0, bytes(4)), icmp(HOST, CLIENT, 128, 0, b"x")]
)
def test_what_is_not_an_echo_request_gets_no_reply(packet: bytes) -> None:
    assert icmp6.echo_reply(packet) is None


def test_an_error_carries_as_much_of_the_packet_as_fits() -> None:
    for size in (0, 1, 1191, 1192, 1193, 9000):
        about = ipv6(HOST, CLIENT, bytes(size))
        answer = icmp6.error(ROUTER, icmp6.PACKET_TOO_BIG, 0, 1280, about)
        assert answer == icmp(int.from_bytes(ROUTER), HOST, 2, 0, (1280).to_bytes(4) + about[:1232])
        assert len(answer) <= 1280


OPTIONS = bytes((58, 0)) + bytes(6)
UNANSWERABLE = {
    "an error": icmp(HOST, CLIENT, 1, 0, bytes(4)),
    "an unknown error": icmp(HOST, CLIENT, 127, 0, bytes(4)),
    "a redirect": icmp(HOST, CLIENT, 137, 0, bytes(36)),
    "an error behind options": ipv6(HOST, CLIENT, OPTIONS + bytes((3, 0)) + bytes(6), following=0),
    "an error behind three headers": ipv6(
        HOST, CLIENT, b"\x3c\0" + bytes(6) + b"\x2c\1" + bytes(14) + b"\x3a\0\0\1" + bytes(4) + b"\1", following=0
    ),
    "icmp without a type": ipv6(HOST, CLIENT, following=58),
    "a later fragment": ipv6(HOST, CLIENT, b"\x11\0\0\x08" + bytes(12), following=44),
    "endless options": ipv6(HOST, CLIENT, (b"\x3c\0" + bytes(6)) * 20, following=60),
    "options cut short": ipv6(HOST, CLIENT, b"\x3a\x05\0\0", following=0),
    "to multicast": ipv6(HOST, "ff0e::1"),
    "from multicast": ipv6("ff0e::1", CLIENT),
    "from link-local": ipv6("fe80::1", CLIENT),
    "from nowhere": ipv6("::", CLIENT),
    "from loopback": ipv6("::1", CLIENT),
    "from v4-mapped": ipv6("::ffff:192.0.2.1", CLIENT),
}


@pytest.mark.parametrize("what", UNANSWERABLE)
def test_what_must_not_be_answered(what: str) -> None:
    assert icmp6.error(ROUTER, icmp6.DESTINATION_UNREACHABLE, 3, 0, UNANSWERABLE[what]) is None


ANSWERABLE = {
    "anything": ipv6(HOST, CLIENT),
    "an echo request": icmp(HOST, CLIENT, 128, 0, bytes(4)),
    "an echo request behind options": ipv6(HOST, CLIENT, OPTIONS + bytes((128, 0)) + bytes(6), following=0),
    "a first fragment": ipv6(HOST, CLIENT, b"\x11\0\0\x01" + bytes(12), following=44),
}


@pytest.mark.parametrize("what", ANSWERABLE)
def test_what_may_be_answered(what: str) -> None:
    assert icmp6.error(ROUTER, icmp6.DESTINATION_UNREACHABLE, 3, 0, ANSWERABLE[what]) is not None


def test_too_big_answers_multicast_for_path_mtu_discovery() -> None:
    assert icmp6.error(ROUTER, icmp6.PACKET_TOO_BIG, 0, 1280, ipv6(HOST, "ff0e::1")) is not None


@given(st.binary(min_size=40, max_size=200))
def test_any_bytes_are_answered_or_not_but_never_raise(about: bytes) -> None:
    answer = icmp6.error(ROUTER, icmp6.DESTINATION_UNREACHABLE, 3, 0, about)
    assert answer is None or answer[48:] == about
    icmp6.echo_reply(about)


def test_the_rate_limit_allows_a_burst_and_then_the_rate() -> None:
    limit = icmp6.RateLimit(rate=4, burst=3)
    assert [limit.take(5.0) for _ in range(5)] == [True, True, True, False, False]
    assert [limit.take(5.25) for _ in range(2)] == [True, False]
    assert [limit.take(1000.0) for _ in range(4)] == [True, True, True, False]
