# SPDX-License-Identifier: GPL-2.0-or-later
"""What every data plane does, whatever carries it: `broker.planes.DataPlane`, packet by packet.

`memory` always runs; `tun` runs where namespaces and /dev/net/tun are, `utun` where the module is loaded, which is in
the virtual machine that tests/vm boots.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from support.planes import DEVICE_MTU, HOST, LOCAL, OWN, RIGS, Rig, drive, hops, icmp, ipv6, packed, plain, spec

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.broker.planes import ECHO_IDENTIFIER, DataPlaneError
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

BROKER = "2001:db8:1::1"
MOMENT = 0.25
"""Seconds within which a machine gets from one statement to the next."""
CLOCK_TICK = 0.02
"""Seconds; what a kernel counts time in is finer."""
ELSEWHERE = "2001:db8:f::3"
"""On the host's wire, and nobody's."""


PLANES = [
    "memory",
    pytest.param("tun", marks=pytest.mark.netns),
    *([pytest.param("utun", marks=pytest.mark.netns)] if Path("/sys/module/utun").exists() else []),
]


@pytest.fixture(scope="module", params=PLANES)
def network(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with RIGS[request.param]() as rig:
        yield rig


@pytest.fixture
def rig(network: Rig) -> Iterator[Rig]:
    """The rig without tunnels; strays go on counting, so tests compare them."""
    yield network
    network.outer_socket(True)
    for each in drive(network.plane.dump()):
        drive(network.plane.lower_tunnel(each.spec.id))
    network.settle()
    network.sent.clear()
    network.to_internet().clear()


def neighbours(rig: Rig) -> list[str]:
    """Those that the kernel keeps for the plane's device, multicast groups left out."""
    with rig.here():
        shown = subprocess.run(["ip", "-6", "neigh", "show", "nud", "all"], capture_output=True, text=True, check=True)
    found = (line.split()[0] for line in shown.stdout.splitlines() if " dev ddtb6 " in line)
    return [each for each in found if not each.startswith("ff")]


def test_many_destinations_are_one_neighbour(rig: Rig) -> None:
    """With one for each destination the kernel would make and forget one for every packet (`links.NEXT_HOP`)."""
    for number in range(100):
        rig.from_internet(ipv6(HOST, f"2001:db8:1::{number + 2:x}"))
        if number % 10 == 0:
            rig.settle()
    assert neighbours(rig) == ([] if rig.plane.name == "memory" else ["fe80::1"])


# --- verbs --------------------------------------------------------------------------------------------------------


def test_it_says_what_it_is(rig: Rig) -> None:
    assert rig.plane.name in RIGS
    assert Encapsulation.V6UDPV4 in rig.plane.encapsulations


def test_starting_twice_is_starting_once(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    with rig.here():
        drive(rig.plane.start())
    assert rig.observed(tunnel).spec == tunnel
    rig.settle()


def test_raising_twice_is_raising_once(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    rig.from_client(tunnel, ipv6(tunnel.address, HOST))
    before = rig.observed(tunnel)
    rig.raise_tunnel(spec(1))
    after = rig.observed(tunnel)
    assert (after.spec, after.counters) == (before.spec, before.counters)
    assert after.last_seen == pytest.approx(before.last_seen, abs=MOMENT)
    assert [each.spec for each in drive(rig.plane.dump())] == [tunnel]


def test_a_raised_tunnel_has_seen_and_counted_nothing(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    assert rig.observed(tunnel).counters == Counters()
    assert rig.observed(tunnel).last_seen is None


def test_another_spec_replaces_and_the_counters_go_on(rig: Rig) -> None:
    old = rig.raise_tunnel(spec(1))
    rig.from_client(old, ipv6(old.address, HOST, b"one"))
    new = rig.raise_tunnel(
        spec(1, remote=Endpoint("198.51.100.9", 7), address=IPv6Address("2001:db8:1::abc"), prefix=None)
    )
    strays = rig.strays().get("unknown-endpoint", 0)
    rig.from_client(old, ipv6(old.address, HOST, b"two"))
    assert rig.strays()["unknown-endpoint"] == strays + 1
    packet = ipv6(new.address, HOST, b"three")
    rig.from_client(new, packet)
    rig.comes_out(hops(packet))
    assert rig.observed(new).spec == new
    assert rig.observed(new).counters == Counters(packets_in=2, octets_in=43 + 45)
    assert rig.raise_tunnel(spec(2, address=old.address, prefix=old.prefix, remote=old.remote))


def test_lowering_gives_the_final_counters_once(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    rig.from_client(tunnel, ipv6(tunnel.address, HOST, b"x" * 60))
    final = drive(rig.plane.lower_tunnel(tunnel.id))
    assert final == Counters(packets_in=1, octets_in=100)
    assert drive(rig.plane.lower_tunnel(tunnel.id)) is None
    assert drive(rig.plane.dump()) == []
    rig.raise_tunnel(spec(2, address=tunnel.address, prefix=tunnel.prefix, remote=tunnel.remote))
    assert drive(rig.plane.lower_tunnel(TunnelId(2))) == Counters()


def test_dump_gives_those_asked_for_that_exist(rig: Rig) -> None:
    tunnels = [rig.raise_tunnel(spec(number)) for number in (1, 2, 3)]
    assert {each.spec for each in drive(rig.plane.dump())} == set(tunnels)
    assert {each.spec for each in drive(rig.plane.dump([TunnelId(1), TunnelId(3), TunnelId(4)]))} == {
        tunnels[0],
        tunnels[2],
    }
    assert list(drive(rig.plane.dump([]))) == []


ROUTE = IPv6Network("2001:db8:9000:40::/58")
TAKEN = {
    "endpoint": {"remote": spec(1).remote},
    "address": {"address": spec(1).address},
    "prefix": {"prefix": spec(1).prefix},
    "larger prefix": {"prefix": IPv6Network("2001:db8:8000::/48")},
    "part of the prefix": {"prefix": IPv6Network("2001:db8:8000:1ff::/64")},
    "address inside the prefix": {"address": IPv6Address("2001:db8:8000:100::1")},
    "prefix around the address": {"prefix": IPv6Network("2001:db8:1::/64")},
    "prefix that is a route": {"prefix": ROUTE},
    "prefix around a route": {"prefix": IPv6Network("2001:db8:9000::/56")},
    "prefix inside a route": {"prefix": IPv6Network("2001:db8:9000:7f::/64")},
    "address inside a route": {"address": ROUTE[-1]},
    "route that is the prefix": {"routes": (IPv6Network("2001:db8:a000::/64"), spec(1).prefix)},
    "route around the prefix": {"routes": (IPv6Network("2001:db8:8000::/34"),)},
    "route inside the prefix": {"routes": (IPv6Network("2001:db8:8000:1ff::/64"),)},
    "route around the address": {"routes": (IPv6Network("2001:db8:1::/64"),)},
    "route that is a route": {"routes": (ROUTE,)},
    "route around a route": {"routes": (IPv6Network("2001:db8:9000::/57"),)},
    "route inside a route": {"routes": (IPv6Network("2001:db8:9000:7e::/63"), IPv6Network("2001:db8:a000::/64"))},
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_another_tunnel_has_is_refused_and_nothing_changes(rig: Rig, what: str) -> None:
    first, second = rig.raise_tunnel(spec(1, routes=(ROUTE,))), rig.raise_tunnel(spec(0x202))
    assert first.prefix == IPv6Network("2001:db8:8000:100::/56")
    for number in (0x202, 3):  # changing one, and making one
        with pytest.raises(DataPlaneError, match=r"tunnel \d+ has"):
            drive(rig.plane.raise_tunnel(spec(number, **TAKEN[what])))
    assert {each.spec for each in drive(rig.plane.dump())} == {first, second}
    for tunnel, inside in ((first, first.prefix[5]), (first, ROUTE[5]), (second, second.prefix[5])):
        rig.from_client(tunnel, packet := ipv6(inside, HOST, what.encode()))
        rig.comes_out(hops(packet))
        rig.from_internet(packet := ipv6(HOST, inside, what.encode()))
        rig.reaches(tunnel, hops(packet))
    rig.from_client(second, ipv6("2001:db8:a000::1", HOST))
    assert rig.refused(second) == {"spoofed-source": 1}


UNFIT = {
    "encapsulation": ({"encapsulation": Encapsulation.V4V6}, "v4v6"),
    "small mtu": ({"mtu": 1279}, "1279"),
    "large mtu": ({"mtu": 65508}, "65508"),
    "our own address": ({"remote": Endpoint(OWN, 5000)}, "own addresses"),
    "the endpoint itself": ({"local": Endpoint("127.0.0.1", 9), "remote": Endpoint("127.0.0.1", 9)}, "own addresses"),
    "an address that tunnels carry": ({"remote": Endpoint("2001:db8:1::77", 5000)}, "tunnels carry"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_cannot_be_carried_is_refused(rig: Rig, what: str) -> None:
    changes, said = UNFIT[what]
    with pytest.raises(DataPlaneError, match=said):
        drive(rig.plane.raise_tunnel(spec(1, **changes)))
    assert drive(rig.plane.dump()) == []


def test_everything_and_the_parts_of_a_host_are_no_prefix(rig: Rig) -> None:
    for prefix in ("::/0", "2001:db8:8000::/65"):
        with pytest.raises(DataPlaneError, match="prefix"):
            drive(rig.plane.raise_tunnel(spec(1, prefix=IPv6Network(prefix))))
        with pytest.raises(DataPlaneError, match="prefix"):
            drive(rig.plane.raise_tunnel(spec(1, routes=(spec(1).prefix, IPv6Network(prefix)))))
    assert drive(rig.plane.dump()) == []


# --- what is carried ----------------------------------------------------------------------------------------------


def test_packets_both_ways_unchanged_but_for_one_hop_and_counted_to_the_octet(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    up = [ipv6(tunnel.address, HOST, bytes(n), hop_limit=30) for n in (0, 1, 100, 1240)]
    down = [ipv6(HOST, tunnel.address, bytes(n), hop_limit=30) for n in (0, 7, 1240)]
    for packet in up:
        rig.from_client(tunnel, packet)
    for packet in down:
        rig.from_internet(packet)
    assert rig.internet_saw() == [hops(packet) for packet in up]
    assert rig.sent == [(hops(packet), tunnel.local, tunnel.remote) for packet in down]
    assert rig.observed(tunnel).counters == Counters(4, 4 * 40 + 1341, 3, 3 * 40 + 1247)


def test_what_all_carry_together_is_roughly_what_tunnels_count(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    with rig.here():
        before = rig.plane.carried()
    for _ in range(3):
        rig.from_client(tunnel, ipv6(tunnel.address, HOST, b"x" * 500))
    rig.from_internet(ipv6(HOST, tunnel.address, b"x" * 900))
    rig.until(lambda: rig.observed(tunnel).counters.packets_out, "the packet to the client")
    counted = rig.observed(tunnel).counters
    with rig.here():
        after = rig.plane.carried()
    assert before is not None
    assert after is not None
    octets_in, octets_out, packets_in, packets_out = (new - old for new, old in zip(after, before, strict=True))
    assert counted.octets_in <= octets_in <= counted.octets_in + 500
    assert counted.octets_out <= octets_out <= counted.octets_out + 500
    assert (packets_in >= 3, packets_out >= 1) == (True, True)


def test_addresses_and_prefixes_of_every_length_find_their_tunnel(rig: Rig) -> None:
    blocks = ["2001:db8:9000::/48", "2001:db8:9001:1000::/52", "2001:db8:9001:2100::/56", "2001:db8:9001:2230::/60"]
    blocks += ["2001:db8:9001:2241::/64", "2001:db8:a000::/40"]
    tunnels = [rig.raise_tunnel(spec(n, prefix=IPv6Network(block))) for n, block in enumerate(blocks, 1)]
    for tunnel in tunnels:
        for inside in (tunnel.address, tunnel.prefix[0], tunnel.prefix[1], tunnel.prefix[-1]):
            up, down = ipv6(inside, HOST, b"up"), ipv6(HOST, inside, b"down")
            rig.from_client(tunnel, up)
            rig.comes_out(hops(up))
            rig.from_internet(down)
            rig.reaches(tunnel, hops(down))
        for outside in (tunnel.prefix[0] - 1, tunnel.prefix[-1] + 1):
            rig.from_client(tunnel, ipv6(outside, HOST))
        assert rig.refused(tunnel) == {"spoofed-source": 2}
        drive(rig.plane.lower_tunnel(tunnel.id))


def test_an_address_inside_of_its_own_prefix(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1, address=IPv6Address("2001:db8:8000:100::1")))
    for inside in (tunnel.address, tunnel.prefix[99]):
        rig.from_internet(packet := ipv6(HOST, inside, b"in"))
        rig.reaches(tunnel, hops(packet))
    with pytest.raises(DataPlaneError):
        drive(rig.plane.raise_tunnel(spec(2, address=tunnel.prefix[7], prefix=None)))
    drive(rig.plane.lower_tunnel(tunnel.id))
    rig.raise_tunnel(spec(2, address=tunnel.prefix[7], prefix=None))


def carries(rig: Rig, tunnel: TunnelSpec, inside: IPv6Address) -> None:
    """Packets from and to the address pass."""
    rig.from_client(tunnel, packet := ipv6(inside, HOST, b"up"))
    rig.comes_out(hops(packet))
    rig.from_internet(packet := ipv6(HOST, inside, b"down"))
    rig.reaches(tunnel, hops(packet))


@pytest.mark.parametrize("prefix", [None, IPv6Network("2001:db8:8000:100::/56")])
def test_routes_of_every_length_are_the_tunnels_own(rig: Rig, prefix: IPv6Network | None) -> None:
    blocks = ["2001:db8:a000::/35", "2001:db8:9001:4000::/51", "2001:db8:9001:2180::/57", "2001:db8:9001:2232::/63"]
    blocks += ["2001:db8:9001:2241::/64", "2001:db8:9001:2243::/64"]
    tunnel = rig.raise_tunnel(spec(1, prefix=prefix, routes=tuple(map(IPv6Network, blocks))))
    neighbour = rig.raise_tunnel(spec(2, prefix=None, routes=(IPv6Network("2001:db8:9001:2242::/64"),)))
    carries(rig, tunnel, tunnel.address)
    for network in tunnel.routes if prefix is None else (prefix, *tunnel.routes):
        for inside in (network[0], network[1], network[-1]):
            carries(rig, tunnel, inside)
        for outside in (network[0] - 1, network[-1] + 1):
            rig.from_client(tunnel, ipv6(outside, HOST))
            rig.from_client(neighbour, ipv6(network[7], HOST))
    count = 2 * len(blocks) + (0 if prefix is None else 2)
    assert rig.refused(tunnel) == rig.refused(neighbour) == {"spoofed-source": count}
    carries(rig, neighbour, neighbour.routes[0][1])


def test_a_packet_for_a_route_from_the_routes_of_another_client(rig: Rig) -> None:
    one = rig.raise_tunnel(spec(1, routes=(ROUTE,)))
    other = rig.raise_tunnel(spec(2, routes=(IPv6Network("2001:db8:9000:80::/57"),)))
    rig.from_client(one, packet := ipv6(ROUTE[3], other.routes[0][4], b"across"))
    rig.reaches(other, hops(packet))
    assert rig.internet_saw() == []


def test_routes_may_lie_in_each_other_and_around_the_rest_of_their_tunnel(rig: Rig) -> None:
    prefix, address = IPv6Network("2001:db8:8000:100::/56"), IPv6Address("2001:db8:9000:41::1")
    nested = ("2001:db8:8000:100::/56", "2001:db8:8000:1ff::/64", "2001:db8:8000::/55", "2001:db8:9000:41::/64")
    routes = (ROUTE, *map(IPv6Network, nested), ROUTE)
    for changes in ({"prefix": prefix, "address": address}, {"prefix": prefix}, {"prefix": None}):
        tunnel = rig.raise_tunnel(spec(1, routes=routes, **changes))
        assert rig.observed(tunnel).spec == tunnel
        for inside in (tunnel.address, ROUTE[0], ROUTE[-1], prefix[-1], IPv6Address("2001:db8:8000::1")):
            carries(rig, tunnel, inside)
        for network in routes:
            with pytest.raises(DataPlaneError, match="tunnel 1 has"):
                drive(rig.plane.raise_tunnel(spec(2, prefix=None, routes=(network,))))
    drive(rig.plane.lower_tunnel(tunnel.id))
    rig.raise_tunnel(spec(2, address=address, prefix=prefix, routes=(IPv6Network("2001:db8:8000::/56"),)))
    rig.raise_tunnel(spec(3, routes=(IPv6Network("2001:db8:9000:40::/64"),)))


def test_a_route_that_is_taken_back_is_nobodys_and_can_be_anothers(rig: Rig) -> None:
    kept = IPv6Network("2001:db8:9000:100::/62")
    tunnel = rig.raise_tunnel(spec(1, routes=(ROUTE, kept)))
    carries(rig, tunnel, ROUTE[9])
    tunnel = rig.raise_tunnel(spec(1, routes=(kept,)))
    assert rig.observed(tunnel).counters == Counters(1, 42, 1, 44)
    carries(rig, tunnel, kept[9])
    carries(rig, tunnel, tunnel.prefix[9])
    rig.from_client(tunnel, ipv6(ROUTE[9], HOST))
    assert rig.refused(tunnel) == {"spoofed-source": 1}
    before = rig.strays().get("no-tunnel", 0)
    rig.from_internet(ipv6(HOST, ROUTE[9]))
    rig.until(lambda: rig.strays().get("no-tunnel", 0) == before + 1, "the refusal")
    other = rig.raise_tunnel(spec(2, prefix=None, routes=(ROUTE,)))
    carries(rig, other, ROUTE[9])
    drive(rig.plane.lower_tunnel(tunnel.id))
    carries(rig, other, ROUTE[10])
    rig.raise_tunnel(spec(3, routes=(kept,)))


def test_from_client_to_client(rig: Rig) -> None:
    one, other = rig.raise_tunnel(spec(1)), rig.raise_tunnel(spec(2))
    packet = ipv6(one.prefix[3], other.prefix[4], b"across", hop_limit=9)
    rig.from_client(one, packet)
    rig.reaches(other, hops(packet))
    assert rig.internet_saw() == []
    assert rig.observed(one).counters == Counters(packets_in=1, octets_in=46)
    assert rig.observed(other).counters == Counters(packets_out=1, octets_out=46)


def test_datagrams_leave_from_the_end_the_client_wrote_to(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1, local=Endpoint("203.0.113.80", 3653), remote=Endpoint("198.51.100.8", 1)))
    rig.from_internet(packet := ipv6(HOST, tunnel.address))
    rig.reaches(tunnel, hops(packet))
    rig.from_client(tunnel, packet := ipv6(tunnel.address, HOST))
    rig.comes_out(hops(packet))


def test_a_ping_of_each_broker_address_is_answered_with_whatever_it_carried(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    # The keepalive of gogoc: identifier and sequence in its own byte order, a timeval.
    carried = bytes.fromhex("0e5c00007bc5006b000000002fac0b0000000000")
    for broker in (BROKER, "2001:db8:2::1"):
        rig.sent.clear()
        rig.from_client(tunnel, icmp(tunnel.address, broker, 128, 0, carried))
        reply = rig.until(lambda: rig.sent and rig.sent[0][0], "the reply")
        assert plain(reply) == icmp(broker, tunnel.address, 129, 0, carried)
    assert rig.observed(tunnel).counters == Counters(2, 128, 2, 128)


def test_our_echoes_reach_a_client_and_its_answers_come_back_to_us(rig: Rig) -> None:
    heard: list[tuple[bytes, bytes]] = []
    tunnel = rig.raise_tunnel(spec(1))
    with rig.here():
        rig.plane.hear_echoes(lambda client, rest: not heard.append((client, rest)))
    ours = ECHO_IDENTIFIER.to_bytes(2, "big") + b"\0\1" + bytes(range(28))
    with rig.here():
        assert rig.plane.send_echo(packed(BROKER), packed(tunnel.address), ours)
    request = icmp(BROKER, tunnel.address, 128, 0, ours)

    def sent() -> list[bytes]:
        return [plain(packet) for packet, *ends in rig.sent if tuple(ends) == (tunnel.local, tunnel.remote)]

    rig.until(lambda: request in sent(), "the request at the client")
    rig.from_client(tunnel, icmp(tunnel.address, BROKER, 129, 0, b"xx\0\1" + bytes(28)))
    rig.from_client(tunnel, icmp(tunnel.address, BROKER, 129, 0, ours[:3]))
    rig.from_client(tunnel, icmp(tunnel.address, BROKER, 129, 0, ours))
    rig.until(lambda: heard, "the answer")
    assert heard == [(packed(tunnel.address), ours)]
    assert rig.observed(tunnel).last_seen is not None
    rig.settle()


def test_any_valid_packet_is_life_and_no_other(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    rig.from_client(tunnel, ipv6(ELSEWHERE, HOST))
    rig.from_client(tunnel, ipv6("fe80::1", "ff02::2"))
    rig.from_internet(packet := ipv6(HOST, tunnel.address))
    rig.reaches(tunnel, hops(packet))
    assert rig.observed(tunnel).last_seen is None
    rig.from_client(tunnel, ipv6(tunnel.prefix[1], HOST))
    first = rig.observed(tunnel).last_seen
    rig.passes(2 * MOMENT)
    assert rig.observed(tunnel).last_seen == pytest.approx(first, abs=MOMENT)
    rig.from_client(tunnel, ipv6(tunnel.prefix[1], HOST))
    second = rig.observed(tunnel).last_seen
    assert second >= first + 2 * MOMENT - CLOCK_TICK
    rig.passes(2 * MOMENT)
    assert rig.observed(tunnel).last_seen == pytest.approx(second, abs=MOMENT)


def test_data_never_moves_an_endpoint(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    before = rig.strays().get("unknown-endpoint", 0)
    for elsewhere in (Endpoint("198.51.100.7", 40002), Endpoint("198.51.100.8", 40001)):
        rig.feed(ipv6(tunnel.address, HOST, b"moved"), LOCAL, elsewhere)
    assert rig.strays()["unknown-endpoint"] == before + 2
    rig.from_internet(packet := ipv6(HOST, tunnel.address))
    rig.reaches(tunnel, hops(packet))
    assert rig.internet_saw() == []
    assert rig.sent == [(hops(packet), tunnel.local, tunnel.remote)]
    assert rig.observed(tunnel).counters == Counters(packets_out=1, octets_out=40)


# --- what is refused ----------------------------------------------------------------------------------------------

SOURCE, PREFIX = spec(1).address, spec(1).prefix
FINE = ipv6(SOURCE, HOST, b"payload")
REFUSED = {
    "spoofed-source": [
        ipv6(ELSEWHERE, HOST),
        ipv6(SOURCE + 1, HOST),
        ipv6(BROKER, HOST),
        ipv6("2001:db8:8000:200::", HOST),
        ipv6("fd00::1", HOST),
        ipv6("2002:c633:6407::1", HOST),
    ],
    "bad-source": [ipv6(each, HOST) for each in ("ff02::1", "::", "::1", "::ffff:198.51.100.7", "::198.51.100.7")],
    "bad-destination": [
        ipv6(SOURCE, each) for each in ("ff02::1", "ff0e::1", "::", "::1", "fe80::1", "febf::1", "::ffff:192.0.2.9")
    ],
    "link-local": [
        icmp("fe80::1", "ff02::2", 133, 0, bytes(4), hop_limit=255),
        ipv6("fe80::1", "ff02::16", bytes.fromhex("3a000502000001008f00000000000000"), following=0, hop_limit=1),
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
        ipv6(PREFIX[0x5EFE_C000_0201], HOST),
    ],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_packets_from_a_client_that_are_refused_by_name(rig: Rig, reason: str) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    for number, packet in enumerate(REFUSED[reason], 1):
        rig.from_client(tunnel, packet)
        assert rig.refused(tunnel) == {reason: number}, packet.hex()
    assert rig.internet_saw() == []
    assert rig.sent == []
    assert rig.observed(tunnel).counters.packets_in == 0


def test_addresses_that_only_look_like_loops_pass(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    for source in (PREFIX[0x5EFE_C000_0202], PREFIX[0xC000_0201], PREFIX[0x2002]):
        rig.from_client(tunnel, packet := ipv6(source, HOST))
        rig.comes_out(hops(packet))
    for destination in ("2002:c000:202::1", "2001:1:c000:201::1", "2001:0:c633:6407::1"):
        rig.from_client(tunnel, ipv6(SOURCE, destination))
    assert rig.refused(tunnel) == {}


def test_a_packet_of_a_loop_from_the_internet_is_refused(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    rig.from_internet(ipv6("2002:c000:201::1", tunnel.address))
    rig.from_internet(ipv6(HOST, PREFIX[0x5EFE_C000_0201]))
    rig.until(lambda: rig.refused(tunnel) == {"loop": 2}, "both refused")
    assert rig.sent == []


def test_strangers_are_counted_and_never_answered(rig: Rig) -> None:
    before = rig.strays().get("unknown-endpoint", 0)
    stranger = Endpoint("203.0.113.5", 3653)
    for packet in (FINE, b"\x60", icmp(SOURCE, BROKER, 128, 0, bytes(8)), FINE[:20]):
        rig.feed(packet, LOCAL, stranger)
    assert rig.strays()["unknown-endpoint"] == before + 4
    assert rig.internet_saw() == []
    assert rig.sent == []


def test_too_big_for_the_tunnel_is_answered_with_its_mtu(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1, mtu=1300))
    big = ipv6(HOST, tunnel.address, (bytes(range(256)) * 6)[: DEVICE_MTU - 40])
    rig.from_internet(big)
    (answer,) = rig.until(rig.internet_saw, "the answer")
    whole = struct.pack("!I", 1300) + hops(big)[: 1280 - 48]
    assert plain(answer) == icmp(rig.errors_come_from, HOST, 2, 0, whole)
    assert len(answer) == 1280
    assert rig.refused(tunnel) == {"too-big": 1}
    fits = ipv6(HOST, tunnel.address, bytes(1260))
    rig.from_internet(fits)
    rig.reaches(tunnel, hops(fits))
    assert rig.observed(tunnel).counters.packets_out == 1


def test_too_big_from_another_client_is_answered_to_it(rig: Rig) -> None:
    one, other = rig.raise_tunnel(spec(1, mtu=1400)), rig.raise_tunnel(spec(2))
    rig.from_client(one, big := ipv6(one.address, other.prefix[1], bytes(1300)))
    answer = rig.until(lambda: rig.sent and rig.sent[0][0], "the answer")
    whole = struct.pack("!I", 1280) + hops(big)[: 1280 - 48]
    assert plain(answer) == icmp(BROKER, one.address, 2, 0, whole)
    assert rig.sent[0][2] == one.remote
    assert rig.refused(other) == {"too-big": 1}
    assert rig.refused(one) == {}


def test_the_last_hop_is_answered_with_time_exceeded(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    rig.from_client(tunnel, packet := ipv6(tunnel.address, HOST, b"trace", hop_limit=1))
    answer = rig.until(lambda: rig.sent and rig.sent[0][0], "the answer")
    assert plain(answer) == icmp(BROKER, tunnel.address, 3, 0, bytes(4) + packet)
    assert rig.internet_saw() == []


@pytest.mark.parametrize("nobody", ["2001:db8:1::dead", "2001:db8:2::dead", "2001:db8:8000:dead::1", "2001:db8:1::"])
def test_an_address_that_no_tunnel_has_is_unreachable(rig: Rig, nobody: str) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    before = rig.strays().get("no-tunnel", 0)
    rig.from_internet(packet := ipv6(HOST, nobody, b"anybody?"))
    (answer,) = rig.until(rig.internet_saw, "the answer to the host")
    assert plain(answer) == icmp(rig.errors_come_from, HOST, 1, 3, bytes(4) + hops(packet))
    rig.from_client(tunnel, packet := ipv6(tunnel.address, nobody, b"anybody?"))
    answer = rig.until(lambda: rig.sent and rig.sent[0][0], "the answer to the client")
    assert plain(answer) == icmp(BROKER, tunnel.address, 1, 3, bytes(4) + hops(packet))
    assert rig.strays()["no-tunnel"] == before + 2


def test_errors_are_not_answered_with_errors(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    before = rig.strays().get("no-tunnel", 0)
    rig.from_client(tunnel, icmp(tunnel.address, "2001:db8:1::dead", 1, 3, bytes(4) + FINE))
    if not rig.in_kernel:  # Linux answers redirects, though RFC 4443 section 2.4(e.2) says not to.
        rig.from_client(tunnel, icmp(tunnel.address, "2001:db8:1::dead", 137, 0, bytes(36)))
        before += 1
    rig.until(lambda: rig.strays().get("no-tunnel", 0) == before + 1, "all refused")
    assert rig.internet_saw() == []
    assert rig.sent == []


def test_answers_are_limited_in_rate(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    before = rig.strays().get("no-tunnel", 0)
    with rig.limited():
        rig.passes(0 if rig.in_kernel else 100)
        for _ in range(5):  # in portions, as the queue of a device is not without end
            for _ in range(60):
                rig.from_client(tunnel, ipv6(tunnel.address, "2001:db8:1::dead"))
            rig.settle()
        assert rig.strays()["no-tunnel"] == before + 300
        assert 0 < len(rig.sent) <= 100
        if not rig.in_kernel:  # How many the kernel sends is its own affair.
            assert len(rig.sent) == 100
            rig.passes(0.5)
            for _ in range(60):
                rig.from_client(tunnel, ipv6(tunnel.address, "2001:db8:1::dead"))
            rig.settle()
            assert len(rig.sent) == 150


def test_a_full_outer_socket_is_counted_and_nothing_raises(rig: Rig) -> None:
    tunnel = rig.raise_tunnel(spec(1))
    rig.outer_socket(False)
    rig.from_internet(ipv6(HOST, tunnel.address))
    rig.until(lambda: rig.refused(tunnel) == {"not-sent": 1}, "the refusal")
    assert rig.observed(tunnel).counters.packets_out == 0
    rig.outer_socket(True)
    rig.from_internet(packet := ipv6(HOST, tunnel.address, b"again"))
    rig.reaches(tunnel, hops(packet))


def test_mutated_packets_never_raise_and_every_one_is_accounted_for(rig: Rig) -> None:
    tunnel, other = rig.raise_tunnel(spec(1)), rig.raise_tunnel(spec(2))
    chance = random.Random(6324)
    seeds = [FINE, *(packet for packets in REFUSED.values() for packet in packets if packet)]
    seeds += [ipv6(SOURCE, other.address, bytes(50)), icmp(SOURCE, BROKER, 128, 0, bytes(30))]
    sent = 400 if rig.in_kernel else 2000  # there each is waited for
    for number in range(sent):
        mutated = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 6)):
            mutated[chance.randrange(len(mutated))] = chance.choice((0, 0xFF, 0x60, 0xFE, chance.randrange(256)))
        if len(mutated) > 1 and chance.random() < 0.2:
            del mutated[chance.randrange(1, len(mutated)) :]
        mutated[0] = 0x60 | mutated[0] & 0xF  # Others are no packets, and not given to a plane.
        rig.from_client(tunnel, bytes(mutated))
        if number % 50 == 0:
            rig.turn()
    counted = rig.observed(tunnel).counters
    assert counted.packets_in + sum(counted.refused.values()) - rig.refused(tunnel).get("too-big", 0) == sent
    rig.settle()
    for packet, _, _ in rig.sent:
        assert packet[24:40] in (packed(SOURCE), packed(other.address)) or IPv6Address(packet[24:40]) in PREFIX
