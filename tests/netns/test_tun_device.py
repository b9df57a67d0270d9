# SPDX-License-Identifier: GPL-2.0-or-later
"""The TUN device of the user-space plane on a machine where things go wrong: what is made, kept, found again, removed.

One namespace `broker` with the device, nothing else; packets are in the conformance suite.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from support.capabilities import need_tun
from support.netns import Lab, Namespace, wait_until
from support.planes import LOCAL, OWN, POOLS, SetClock, drive, ipv6, private_reactor, spec
from twisted.internet.epollreactor import EPollReactor

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.planes import DataPlaneError, PlaneEvent
from ddtb6.dataplane.choose import choose
from ddtb6.dataplane.device import open_tun
from ddtb6.dataplane.links import Layout, Links, own_outer_addresses
from ddtb6.dataplane.tun import TunPlane

pytestmark = pytest.mark.netns

BLOCKS = {str(pool.block) for pool in POOLS}


@pytest.fixture(autouse=True)
def tun() -> None:
    need_tun()


@pytest.fixture
def broker() -> Iterator[Namespace]:
    with Lab() as lab:
        yield lab.namespace("broker")


@pytest.fixture
def reactor() -> Iterator[EPollReactor]:
    with private_reactor() as made:
        yield made


class Plane(TunPlane):
    """With its reactor, clock and events at hand; `start` and `stop` in a namespace."""

    def __init__(self, space: Namespace, reactor: EPollReactor) -> None:
        self.reactor = reactor
        super().__init__(reactor, SetClock(), "ddtb6", POOLS, 1280, [OWN])
        self.space = space
        self.events: list[PlaneEvent] = []
        self.subscribe(self.events.append)

    def go(self) -> None:
        with self.space.inside():
            drive(self.start())

    def halt(self) -> None:
        with self.space.inside():
            drive(self.stop())


def routes(space: Namespace) -> set[tuple[str, str]]:
    """(Destination, device or "unreachable") of the routes that are ours."""
    shown = json.loads(space.run("ip", "-6", "-j", "route", "show", "proto", "182") or "[]")
    return {(each["dst"], each["type"] if each.get("type") == "unreachable" else each["dev"]) for each in shown}


def addresses(space: Namespace, device: str) -> set[str]:
    (shown,) = json.loads(space.run("ip", "-6", "-j", "address", "show", "dev", device)) or [{"addr_info": []}]
    return {f"{each['local']}/{each['prefixlen']}" for each in shown["addr_info"]}


def link(space: Namespace, device: str) -> dict[str, Any]:
    (shown,) = json.loads(space.run("ip", "-j", "link", "show", "dev", device))
    return dict(shown)


UNREACHABLE = {(block, "unreachable") for block in BLOCKS}
COMPLETE = UNREACHABLE | {(block, "ddtb6") for block in BLOCKS}


def test_what_a_start_makes_and_a_stop_takes_back(broker: Namespace, reactor: EPollReactor) -> None:
    plane = Plane(broker, reactor)
    plane.go()
    assert routes(broker) == COMPLETE
    assert addresses(broker, "ddtb6") == {"2001:db8:1::1/128", "2001:db8:2::1/128"}
    shown = link(broker, "ddtb6")
    assert shown["mtu"] == 1280
    assert {"UP", "POINTOPOINT"} <= set(shown["flags"])
    assert "MULTICAST" not in shown["flags"]
    drive(plane.raise_tunnel(spec(1)))
    plane.halt()
    assert routes(broker) == set()
    assert "ddtb6" not in broker.run("ip", "link")
    assert drive(plane.dump()) == []
    plane.halt()
    plane.go()
    assert routes(broker) == COMPLETE
    plane.halt()


def test_killed_it_leaves_its_space_unreachable_and_finds_that_again(broker: Namespace, reactor: EPollReactor) -> None:
    program = (
        "import signal\n"
        "from support.planes import *\n"
        "from twisted.internet.epollreactor import EPollReactor\n"
        "plane = TunPlane(EPollReactor(), SetClock(), 'ddtb6', POOLS, 1280)\n"
        "drive(plane.start())\n"
        "print('up', flush=True)\n"
        "signal.pause()\n"
    )
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
    child = broker.spawn(sys.executable, "-c", program, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    assert child.stdout.readline() == b"up\n"
    assert routes(broker) == COMPLETE
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    wait_until(lambda: routes(broker) == UNREACHABLE, "the device to go")
    plane = Plane(broker, reactor)
    plane.go()
    assert routes(broker) == COMPLETE
    plane.halt()
    assert routes(broker) == set()


def test_a_device_that_somebody_removes_is_lost_and_made_again(broker: Namespace, reactor: EPollReactor) -> None:
    plane = Plane(broker, reactor)
    plane.go()
    tunnel = spec(1)
    drive(plane.raise_tunnel(tunnel))
    broker.run("ip", "link", "delete", "ddtb6")
    wait_until(lambda: plane.reactor.iterate(0.0) or plane.events, "the loss to be noticed")
    assert ["gone" in event.why for event in plane.events] == [True]
    plane.feed(ipv6(tunnel.address, "2001:db8:f::1"), tunnel.local, tunnel.remote)
    assert {each.value: n for each, n in drive(plane.dump())[0].counters.refused.items()} == {"not-sent": 1}
    assert len(plane.events) == 1
    plane.go()
    assert routes(broker) == COMPLETE
    plane.feed(ipv6(tunnel.address, "2001:db8:1::1"), tunnel.local, tunnel.remote)
    assert drive(plane.dump())[0].counters.packets_in == 1
    plane.halt()


def test_a_device_that_somebody_takes_down_is_lost_and_brought_up_again(
    broker: Namespace, reactor: EPollReactor
) -> None:
    plane = Plane(broker, reactor)
    plane.go()
    tunnel = spec(1)
    drive(plane.raise_tunnel(tunnel))
    broker.run("ip", "link", "set", "ddtb6", "down")
    for _ in range(3):
        plane.feed(ipv6(tunnel.address, "2001:db8:1::1"), tunnel.local, tunnel.remote)
    assert ["takes no packets" in event.why for event in plane.events] == [True]
    plane.go()
    assert routes(broker) == COMPLETE
    assert addresses(broker, "ddtb6") == {"2001:db8:1::1/128", "2001:db8:2::1/128"}
    plane.halt()
    assert routes(broker) == set()


def test_a_device_in_use_is_refused_with_the_remedy_and_nothing_is_left(
    broker: Namespace, reactor: EPollReactor
) -> None:
    plane, second = Plane(broker, reactor), Plane(broker, reactor)
    plane.go()
    with pytest.raises(DataPlaneError, match="in use by another process"):
        second.go()
    assert second.fileno() == -1
    plane.halt()
    broker.run("ip", "link", "add", "ddtb6", "type", "veth", "peer", "other")
    with pytest.raises(DataPlaneError, match="another kind"):
        second.go()


def test_a_foreign_route_is_not_touched_and_what_was_made_is_taken_back(
    broker: Namespace, reactor: EPollReactor
) -> None:
    broker.run("ip", "link", "add", "theirs", "type", "veth", "peer", "other")
    for end in ("theirs", "other"):
        broker.run("ip", "link", "set", end, "addrgenmode", "none", "up")
    broker.run("ip", "-6", "route", "add", "unreachable", "2001:db8:2::/64", "metric", "1000000")
    before = broker.run("ip", "-6", "route")
    plane = Plane(broker, reactor)
    with pytest.raises(DataPlaneError, match=r"another route to 2001:db8:2::/64 .* remove it"):
        plane.go()
    assert broker.run("ip", "-6", "route") == before
    assert "ddtb6" not in broker.run("ip", "link")


def test_a_big_packet_of_our_own_is_cut_to_the_mtu_of_the_tunnel(broker: Namespace, reactor: EPollReactor) -> None:
    plane = Plane(broker, reactor)
    sent: list[bytes] = []
    plane.send_with(lambda datagram, local, remote: sent.append(datagram) or True)
    plane.go()
    broker.run("ip", "link", "set", "ddtb6", "mtu", "1500")
    tunnel = spec(1)
    drive(plane.raise_tunnel(tunnel))
    with broker.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:

        def arrives() -> bool:
            sender.sendto(b"x" * 1400, (str(tunnel.address), 9))
            plane.reactor.iterate(0.0)
            return len(sent) >= 2

        wait_until(arrives, "fragments that fit")
    assert {packet[6] for packet in sent} == {44}
    assert max(map(len, sent)) <= 1280
    plane.halt()


def test_strangers_cost_nothing_but_a_count(broker: Namespace, reactor: EPollReactor) -> None:
    plane = Plane(broker, reactor)
    plane.go()
    for port in range(500):
        plane.feed(ipv6("2001:db8:1::5", "2001:db8:1::1"), LOCAL, Endpoint("203.0.113.9", port + 1))
    assert {each.value: n for each, n in plane.strays().items()}["unknown-endpoint"] == 500
    plane.halt()


def test_the_choice_for_this_machine(broker: Namespace) -> None:
    choice = choose("auto")
    assert choice.kind == "tun"
    assert choice.reason.startswith("the utun module is ")
    assert choose("tun").reason == "it is configured"


WITHOUT = {
    "the right": ("os.setuid(65534)", "needs CAP_NET_ADMIN|may not be opened: run as root"),
    "the device node": (
        "ctypes.CDLL(None).unshare(0x20000); subprocess.run('mount --make-rprivate / && mount -t tmpfs none /dev/net', "
        "shell=True, check=True)",
        "/dev/net/tun is missing: load the tun module",
    ),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_without_what_it_needs_the_sentence_says_the_remedy(broker: Namespace, what: str) -> None:
    deprive, said = WITHOUT[what]
    program = (
        "import ctypes, os, subprocess\n"
        "from ddtb6.dataplane.choose import choose\n"
        "from ddtb6.broker.planes import DataPlaneError\n"
        f"{deprive}\n"
        "for kind in ('tun', 'auto'):\n"
        "    try:\n"
        "        print('chose', choose(kind))\n"
        "    except DataPlaneError as error:\n"
        "        print(error)\n"
    )
    lines = broker.python(program, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert any(each in line for each in said.split("|"))
    assert lines[1].startswith("the utun module is ")


@pytest.fixture
def lan(broker: Namespace) -> str:
    """A device that has no address, not even in a while."""
    broker.run("ip", "link", "add", "lan0", "type", "veth", "peer", "lan1")
    for end in ("lan0", "lan1"):
        broker.run("ip", "link", "set", end, "addrgenmode", "none", "up")
    return "lan0"


def test_a_layout_for_a_client_with_a_lan(broker: Namespace, lan: str) -> None:
    broker.address("lan0", "2001:db8:77::5/64")
    broker.route("default", "via", "2001:db8:77::1", "metric", "512")
    before = (broker.run("ip", "-6", "route"), addresses(broker, "lan0"), link(broker, "lan0")["flags"])
    prefix = IPv6Network("2001:db8:8000:100::/56")
    links = Links()
    with broker.inside():
        fd = open_tun("tunnel6")
        for _ in range(2):
            links.apply(
                "tunnel6",
                Layout(
                    mtu=1280,
                    addresses=(IPv6Interface("2001:db8:1::101/128"),),
                    routes=(IPv6Network("::/0"),),
                    unreachable=(prefix,),
                    metric=256,
                ),
            )
            inner = (IPv6Interface("2001:db8:8000:100::1/64"), IPv6Interface("2001:db8:77::5/64"))
            links.apply("lan0", Layout(addresses=inner))
    assert routes(broker) == {
        ("default", "tunnel6"),
        (str(prefix), "unreachable"),
        ("2001:db8:8000:100::/64", "lan0"),
    }
    assert "dev tunnel6" in broker.run("ip", "-6", "route", "get", "2001:db8:f::1")
    assert "dev lan0" in broker.run("ip", "-6", "route", "get", "2001:db8:8000:100::9")
    assert "2001:db8:8000:100::1/64" in addresses(broker, "lan0")
    os.close(fd)
    with broker.inside():
        links.undo()
        links.undo()
    assert (broker.run("ip", "-6", "route"), addresses(broker, "lan0"), link(broker, "lan0")["flags"]) == before


LAN = Layout(addresses=(IPv6Interface("2001:db8:8000:100::1/64"), IPv6Interface("2001:db8:8000:200::1/64")))


def test_addresses_on_a_lan_that_a_killed_program_left_are_known_again(broker: Namespace, lan: str) -> None:
    with broker.inside():
        Links().apply(lan, LAN)  # and nothing undoes it
        assert addresses(broker, lan) == set(map(str, LAN.addresses))
        for _ in range(2):
            links = Links()
            links.apply(lan, LAN)
        links.undo()
    assert addresses(broker, lan) == set()
    assert routes(broker) == set()


def test_an_address_on_a_lan_that_somebody_else_gave_stays(broker: Namespace, lan: str) -> None:
    theirs = str(LAN.addresses[0])
    broker.address(lan, theirs)
    before = (addresses(broker, lan), broker.run("ip", "-6", "route"))
    with broker.inside():
        Links().apply(lan, LAN)
        links = Links()
        links.apply(lan, LAN)
        links.undo()
    assert (addresses(broker, lan), broker.run("ip", "-6", "route")) == before


def test_a_lan_that_is_down_gets_its_address_all_the_same(broker: Namespace, lan: str) -> None:
    broker.run("ip", "link", "set", lan, "down")
    links = Links()
    with broker.inside():
        links.apply(lan, LAN)
        assert addresses(broker, lan) == set(map(str, LAN.addresses))
        links.undo()
    assert addresses(broker, lan) == set()


def test_our_own_addresses_are_those_of_every_device_but_loopback_ones(broker: Namespace, lan: str) -> None:
    index = link(broker, lan)["ifindex"]
    broker.address(lan, "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "fe80::1/64")
    broker.run("ip", "address", "add", "198.51.100.1", "peer", "198.51.100.2", "dev", lan)
    broker.run("ip", "address", "add", "2001:db8:5::1", "peer", "2001:db8:5::2", "dev", lan)
    broker.address("lo", "203.0.113.9/32", "127.0.0.53/8")
    four = {"192.0.2.1", "192.0.2.2", "198.51.100.1", "203.0.113.9"}
    with broker.inside():
        assert own_outer_addresses() == four | {"2001:db8::1", "2001:db8:5::1", f"fe80::1%{index}"}
        broker.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
        assert own_outer_addresses() == four


def test_a_machine_without_addresses_has_none_of_its_own(broker: Namespace) -> None:
    broker.run("ip", "link", "set", "lo", "down")
    with broker.inside():
        assert own_outer_addresses() == frozenset()


def test_a_tunnel_does_not_end_at_an_address_of_this_machine(
    broker: Namespace, lan: str, reactor: EPollReactor
) -> None:
    index = link(broker, lan)["ifindex"]
    broker.address(lan, "192.0.2.1/24", "2001:db8::1/64", "fe80::1/64")
    with broker.inside():
        plane = TunPlane(reactor, SetClock(), "ddtb6", POOLS, 1280, own_outer_addresses())
    for own in ("192.0.2.1", "2001:db8::1", f"fe80::1%{index}"):
        with pytest.raises(DataPlaneError, match="own addresses"):
            drive(plane.raise_tunnel(spec(1, remote=Endpoint(own, 40000))))
    for other in ("192.0.2.3", "2001:db8::2", f"fe80::2%{index}", f"fe80::1%{index + 1}"):
        drive(plane.raise_tunnel(spec(1, remote=Endpoint(other, 40000))))


def test_a_device_that_is_not_there_is_named(broker: Namespace) -> None:
    with broker.inside(), pytest.raises(DataPlaneError, match="no device nothing0"):
        Links().apply("nothing0", Layout(mtu=1280))


def test_ipv6_switched_off_is_said_so(broker: Namespace, reactor: EPollReactor) -> None:
    broker.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
    with pytest.raises(DataPlaneError, match="IPv6 is switched off"):
        Plane(broker, reactor).go()
