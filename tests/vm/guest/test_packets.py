# SPDX-License-Identifier: GPL-2.0-or-later
"""What the module does with packets: one test for each promise."""

from __future__ import annotations

import re
import socket
import struct
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from support.vm_net import (
    BROKER,
    BROKER_INNER,
    HOST,
    INSIDE,
    PORT,
    PREFIX,
    SOURCE,
    Net,
    fragmentation_needed,
    hop,
    icmp,
    ipv6,
)
from support.vm_utun import Peer

TSP = bytes.fromhex("f00000f000000001") + b"VERSION=2.0.0\r\n"
LEGACY = bytes.fromhex("000000f001000000") + b"VERSION=2.0.0\r\n"
ELSEWHERE = "2001:db8:f::3"
TRACING = Path("/sys/kernel/tracing")


# --- demultiplexing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datagram", [TSP, LEGACY, TSP[:8], bytes.fromhex("0f2345f1") + bytes(4)])
def test_signalling_goes_on_to_the_socket_and_answers_leave_from_it(net: Net, peer: Peer, datagram: bytes) -> None:
    before = net.utun.strays()
    for port in (40001, 40002):
        net.up(datagram, port)
        net.signalling.settimeout(5)
        assert net.signalling.recvfrom(2000) == (datagram, ("192.0.2.2", port))
        net.signalling.sendto(datagram, ("192.0.2.2", port))
        assert net.at_client(port) == datagram
    assert net.utun.strays() == before
    assert net.utun.one(1).drops == {}


@pytest.mark.parametrize(
    "datagram",
    [b"", b"\xf0", TSP[:7], b"\x45" + bytes(40), bytes(8), bytes.fromhex("0000000f00000000"), b"\x70" + bytes(47)],
)
def test_what_is_neither_signalling_nor_data_is_malformed_and_goes_nowhere(net: Net, datagram: bytes) -> None:
    before = net.utun.strays()
    net.up(datagram)
    net.stray_to(before, malformed=1)
    assert net.heard() == []


def test_a_flood_of_data_from_strangers_stays_in_the_kernel(net: Net, peer: Peer) -> None:
    before = net.utun.strays()
    for number in range(500):
        net.up(ipv6(SOURCE, HOST, b"flood"), 41000 + number % 5)
    for short in (b"\x60", ipv6(SOURCE, HOST)[:20]):
        net.up(short, 41000)
    net.stray_to(before, unknown_endpoint=502)
    assert net.heard() == []
    net.nothing_at_host()


# --- what is carried ----------------------------------------------------------------------------------------------


def test_both_ways_unchanged_but_for_one_hop_and_counted_to_the_octet(net: Net, peer: Peer) -> None:
    up = [ipv6(SOURCE, HOST, bytes(n), hops=30) for n in (0, 1, 100, 1240)]
    down = [ipv6(HOST, SOURCE, bytes(n), hops=30) for n in (0, 7, 1240)]
    assert net.utun.one(1).last_rx is None
    for packet in up:
        net.up(packet)
        assert net.at_host() == hop(packet)
    for packet in down:
        net.down(packet)
        assert net.at_client() == hop(packet)
    seen = net.utun.one(1)
    assert seen.carried == (4, 4 * 40 + 1341, 3, 3 * 40 + 1247)
    assert seen.drops == {}
    assert seen.last_rx is not None
    assert seen.last_rx < 60_000
    assert net.heard() == []


def test_datagrams_leave_from_the_end_that_the_peer_knows(net: Net, peer: Peer) -> None:
    net.down(ipv6(HOST, SOURCE, b"down"))
    _, source = net.client_at().recvfrom(2000)
    assert source == (BROKER, PORT)


def test_addresses_and_prefixes_of_every_length_find_their_peer(net: Net) -> None:
    blocks = ["2001:db8:9000::/48", "2001:db8:9001:1000::/52", "2001:db8:9001:2100::/56", "2001:db8:9001:2230::/60"]
    blocks += ["2001:db8:9001:2241::/64", "2001:db8:a000::/40", "2001:db8:1::500/120", "2001:db8:1::601/128"]
    networks = list(map(IPv6Network, blocks))
    for number, block in enumerate(networks, 1):
        net.add(Peer(number, [block], ("192.0.2.2", 41000 + number)))
    for number, block in enumerate(networks, 1):
        for inside in {block[0], block[-1]}:
            net.up(packet := ipv6(inside, HOST, b"up"), 41000 + number)
            assert net.at_host() == hop(packet)
            net.down(packet := ipv6(HOST, inside, b"down"))
            assert net.at_client(41000 + number) == hop(packet)
        for outside in (block[0] - 1, block[-1] + 1):
            net.up(ipv6(outside, HOST), 41000 + number)
        net.drops_to(number, spoofed_source=2)


def test_prefixes_of_one_peer_may_lie_in_each_other(net: Net) -> None:
    net.add(Peer(1, ["2001:db8:9000::/48", "2001:db8:9000:1::/64", "2001:db8:9000:1::5/128"]))
    for inside in ("2001:db8:9000:1::5", "2001:db8:9000:1::6", "2001:db8:9000:2::"):
        net.up(packet := ipv6(inside, HOST))
        assert net.at_host() == hop(packet)
        net.down(packet := ipv6(HOST, inside))
        assert net.at_client() == hop(packet)


def test_from_peer_to_peer(net: Net, peer: Peer) -> None:
    net.add(Peer(2, ["2001:db8:1::102/128"], ("192.0.2.2", 40002)))
    net.up(packet := ipv6(SOURCE, "2001:db8:1::102", b"across", hops=9))
    assert net.at_client(40002) == hop(packet)
    assert net.utun.one(1).carried == (1, 46, 0, 0)
    assert net.utun.one(2).carried == (0, 0, 1, 46)


def test_a_ping_of_the_broker_is_answered(net: Net, peer: Peer) -> None:
    # The keepalive of gogoc: identifier and sequence in its own byte order, a timeval.
    carried = bytes.fromhex("0e5c00007bc5006b000000002fac0b0000000000")
    net.up(icmp(SOURCE, BROKER_INNER, 128, 0, carried))
    reply = net.at_client()
    assert reply[8:] == icmp(BROKER_INNER, SOURCE, 129, 0, carried)[8:]


def test_the_last_hop_is_answered_with_time_exceeded(net: Net, peer: Peer) -> None:
    net.up(ipv6(SOURCE, HOST, b"last", hops=1))
    answer = net.at_client()
    assert (answer[6], answer[40], answer[41]) == (58, 3, 0)


# --- what is refused ----------------------------------------------------------------------------------------------

FINE = ipv6(SOURCE, HOST, b"payload")
REFUSED = {
    "spoofed_source": [
        ipv6(ELSEWHERE, HOST),
        ipv6(IPv6Address(SOURCE) + 1, HOST),
        ipv6(BROKER_INNER, HOST),
        ipv6("2001:db8:8000:200::", HOST),
        ipv6("fd00::1", HOST),
        ipv6("2002:c633:6407::1", HOST),
    ],
    "bad_source": [ipv6(each, HOST) for each in ("ff02::1", "::", "::1", "::ffff:198.51.100.7", "::198.51.100.7")],
    "bad_destination": [
        ipv6(SOURCE, each) for each in ("ff02::1", "ff0e::1", "::", "::1", "fe80::1", "febf::1", "::ffff:192.0.2.9")
    ],
    "link_local": [
        icmp("fe80::1", "ff02::2", 133, 0, bytes(4), hops=255),
        ipv6("fe80::1", "ff02::16", bytes.fromhex("3a000502000001008f00000000000000"), kind=0, hops=1),
        ipv6("febf:ffff::1", HOST),
    ],
    "malformed": [
        b"\x60",
        FINE[:39],
        FINE[:-1],
        FINE + b"\0",
        FINE[:4] + b"\0\0" + FINE[6:],
        FINE[:4] + b"\xff\xff" + FINE[6:],
    ],
    "loop": [
        ipv6(SOURCE, "2002:c000:201::1"),
        ipv6(SOURCE, "2001:db8:f::5efe:c000:201"),
        ipv6(SOURCE, "2001:db8:f::200:5efe:c000:201"),
        ipv6(SOURCE, "2001:0:c000:201::1"),
        ipv6(SOURCE, "2001:0:c633:6407:0:edb2:3fff:fdfe"),
        ipv6(SOURCE, "64:ff9b::192.0.2.1"),
        ipv6("2002:c000:201::1", HOST),
        ipv6(IPv6Network(PREFIX)[0x5EFE_C000_0201], HOST),
    ],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_packets_from_a_peer_that_are_refused_by_name(net: Net, peer: Peer, reason: str) -> None:
    for number, packet in enumerate(REFUSED[reason], 1):
        net.up(packet)
        net.drops_to(1, **{reason: number})
    seen = net.utun.one(1)
    assert seen.carried == (0, 0, 0, 0)
    assert seen.last_rx is None
    net.nothing_at_host()


def test_addresses_that_only_look_like_loops_pass(net: Net, peer: Peer) -> None:
    block = IPv6Network(PREFIX)
    for source in (block[0x5EFE_C000_0202], block[0xC000_0201], block[0x2002]):
        net.up(packet := ipv6(source, HOST))
        assert net.at_host() == hop(packet)
    for destination in ("2002:c000:202::1", "2001:1:c000:201::1", "2001:0:c633:6407::1"):
        net.up(ipv6(SOURCE, destination))
    net.up(packet := ipv6(SOURCE, HOST))
    assert net.at_host() == hop(packet)
    assert net.utun.one(1).drops == {}


def test_a_loop_from_the_internet_is_refused(net: Net, peer: Peer) -> None:
    net.down(ipv6("2002:c000:201::1", SOURCE))
    net.down(ipv6(HOST, IPv6Network(PREFIX)[0x5EFE_C000_0201]))
    net.drops_to(1, loop=2)


def test_an_address_that_no_peer_has_is_unreachable(net: Net, peer: Peer) -> None:
    before = net.utun.strays()
    net.down(lost := ipv6(HOST, "2001:db8:8000:200::1", b"lost"))
    answer = net.at_host()
    assert (answer[6], answer[40], answer[41]) == (58, 1, 3)
    assert answer[48:] == hop(lost)
    net.stray_to(before, no_tunnel=1)


def test_an_error_is_not_answered_with_an_error(net: Net, peer: Peer) -> None:
    before = net.utun.strays()
    net.down(icmp(HOST, "2001:db8:8000:200::1", 1, 0, bytes(4) + ipv6(INSIDE, HOST)))
    net.stray_to(before, no_tunnel=1)
    net.nothing_at_host()


def test_without_a_socket_nothing_is_sent(net: Net, peer: Peer) -> None:
    net.utun.detach(net.signalling)
    try:
        net.down(ipv6(HOST, SOURCE))
        net.drops_to(1, not_sent=1)
    finally:
        net.utun.attach(net.signalling)
    net.down(packet := ipv6(HOST, SOURCE))
    assert net.at_client() == hop(packet)


def test_every_drop_is_traced_with_its_reason(net: Net, peer: Peer) -> None:
    """As docs/utun.md has it."""
    event = TRACING / "events/utun/utun_drop"
    if not event.exists():
        pytest.skip("this kernel was built without tracepoints")
    (TRACING / "trace").write_text("")
    (event / "enable").write_text("1")
    try:
        before = net.utun.strays()
        net.up(ipv6(ELSEWHERE, HOST))
        net.drops_to(1, spoofed_source=1)
        net.up(ipv6(SOURCE, HOST), 40005)
        net.down(ipv6(HOST, "2001:db8:8000:200::1"))
        net.stray_to(before, unknown_endpoint=1, no_tunnel=1)
        traced = re.findall(r"utun_drop: (.*)", (TRACING / "trace").read_text())
    finally:
        (event / "enable").write_text("0")
    assert traced == [
        "dev=utun0 peer=1 reason=spoofed-source",
        "dev=utun0 peer=0 reason=unknown-endpoint",
        "dev=utun0 peer=0 reason=no-tunnel",
    ]
    net.drain_host()


# --- sizes --------------------------------------------------------------------------------------------------------


def test_too_big_for_the_peer_is_answered_with_its_mtu(net: Net) -> None:
    net.add(Peer(1, [f"{SOURCE}/128"], mtu=1300))
    net.down(big := ipv6(HOST, SOURCE, bytes(1360)))
    answer = net.at_host()
    assert (answer[6], answer[40], answer[41]) == (58, 2, 0)
    assert answer[44:] == struct.pack("!I", 1300) + hop(big)[: 1280 - 48]
    net.drops_to(1, too_big=1)
    net.down(fits := ipv6(HOST, SOURCE, bytes(1260)))
    assert net.at_client() == hop(fits)
    assert net.utun.one(1).tx_packets == 1


def test_too_big_for_the_path_is_answered_with_what_fits(net: Net) -> None:
    net.add(Peer(1, [f"{SOURCE}/128"], mtu=1400))
    net.broker.route("192.0.2.2/32", "dev", net.outer[1], "mtu", "1350")
    try:
        net.down(ipv6(HOST, SOURCE, bytes(1350 - 28 - 40 + 1)))
        answer = net.at_host()
        assert answer[40:48] == answer[40:44] + struct.pack("!I", 1350 - 28)
        net.drops_to(1, too_big=1)
        net.down(fits := ipv6(HOST, SOURCE, bytes(1350 - 28 - 40)))
        assert net.at_client() == hop(fits)
    finally:
        net.broker.run("ip", "route", "delete", "192.0.2.2/32")


def outer_packets(net: Net) -> socket.socket:
    """What arrives at the client's device, with IPv4 headers."""
    tap = net.client.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    tap.bind((net.outer[0], 0x0800))
    tap.settimeout(5)
    return tap


def test_on_a_path_below_1308_the_outer_packet_is_fragmented(net: Net, peer: Peer) -> None:
    net.broker.route("192.0.2.2/32", "dev", net.outer[1], "mtu", "1200")
    tap = outer_packets(net)
    try:
        net.client_at()
        net.down(packet := ipv6(HOST, SOURCE, bytes(1240)))
        first = tap.recv(2000)
        assert len(first) <= 1200
        assert first[6] == 0x20  # more fragments, and not "don't fragment"
        assert net.at_client() == hop(packet)
    finally:
        tap.close()
        net.broker.run("ip", "route", "delete", "192.0.2.2/32")


def test_fragmentation_needed_from_the_path_lowers_what_fits(net: Net) -> None:
    """An ICMPv4 error that quotes one of our datagrams; the kernel learns the route's MTU of it."""
    net.add(Peer(1, [f"{SOURCE}/128"], mtu=1400))
    tap = outer_packets(net)
    raw = net.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    try:
        net.client_at()
        net.down(packet := ipv6(HOST, SOURCE, bytes(1360)))
        quoted = tap.recv(2000)
        assert quoted[6] & 0x40  # "don't fragment"
        assert net.at_client() == hop(packet)
        raw.sendto(fragmentation_needed(quoted, 1340), (BROKER, 0))
        net.down(ipv6(HOST, SOURCE, bytes(1340 - 28 - 40 + 1)))
        answer = net.at_host()
        assert answer[40:48] == answer[40:44] + struct.pack("!I", 1340 - 28)
        net.drops_to(1, too_big=1)
        net.signalling.sendto(TSP, ("192.0.2.2", 40001))  # the error is not the socket's
    finally:
        tap.close()
        raw.close()
        net.broker.run("ip", "route", "flush", "cache")


# --- congestion marks (RFC 6040) ----------------------------------------------------------------------------------


MARKS = [(0, 0, 0), (1, 3, 3), (2, 3, 3), (2, 0, 2), (1, 1, 1), (3, 0, 3)]


@pytest.mark.parametrize(("inner", "outer", "comes"), MARKS)
def test_a_mark_of_the_outer_path_gets_to_the_inner_packet(
    net: Net, peer: Peer, inner: int, outer: int, comes: int
) -> None:
    net.client_at().setsockopt(socket.IPPROTO_IP, socket.IP_TOS, outer)
    net.up(ipv6(SOURCE, HOST, tclass=0x40 | inner))
    assert net.at_host() == hop(ipv6(SOURCE, HOST, tclass=0x40 | comes))


def test_a_mark_on_what_cannot_be_marked_is_malformed(net: Net, peer: Peer) -> None:
    net.client_at().setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 3)
    net.up(ipv6(SOURCE, HOST, tclass=0))
    net.drops_to(1, malformed=1)


@pytest.mark.parametrize(("inner", "outer"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_what_the_inner_packet_allows_the_outer_one_says(net: Net, peer: Peer, inner: int, outer: int) -> None:
    tap = outer_packets(net)
    net.client_at()
    net.down(ipv6(HOST, SOURCE, tclass=0x40 | inner))
    try:
        assert tap.recv(2000)[1] == outer
    finally:
        tap.close()


@pytest.mark.parametrize("flags", [0, 1])
def test_the_outer_checksum_is_there_unless_it_is_not_wanted(net: Net, flags: int) -> None:
    net.add(Peer(1, [f"{SOURCE}/128"], flags=flags))
    tap = outer_packets(net)
    net.client_at()
    net.down(ipv6(HOST, SOURCE, b"odd"))
    try:
        assert (tap.recv(2000)[26:28] == b"\0\0") == bool(flags)
        net.at_client()
    finally:
        tap.close()
