# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's side of the module beyond what every data plane does: restarts, losses, what others did to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Any

import pytest
from support.netns import Lab, wait_until
from support.plane_utun import CLIENT, Near, clients
from support.planes import DEVICE_MTU, HOST, LOCAL, OWN, POOLS, Far, drive, far_side, hops, ipv6, private_reactor, spec
from support.traffic import ping
from support.vm_utun import MTU, Netlink, Peer, Utun, u16
from twisted.internet.defer import Deferred

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.broker.planes import DataPlaneError, PlaneLost
from ddtb6.clock import SystemClock
from ddtb6.dataplane.utun import UtunPlane
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters, TunnelId

DEVICE = "ddtb6"


@dataclass
class Bench:
    """The network, and planes on one device."""

    reactor: Any
    far: Far
    near: Near
    plane: UtunPlane
    lost: list[str]

    def start(self) -> UtunPlane:
        """The next life of the daemon."""
        self.plane = UtunPlane(self.reactor, SystemClock(), DEVICE, POOLS, DEVICE_MTU, [OWN])
        self.lost.clear()
        self.plane.subscribe(self._listen)
        self.go()
        drive(self.plane.attach([self.near.outer.fileno()]))
        return self.plane

    def _listen(self, event: PlaneLost) -> None:
        self.lost.append(event.why)

    def go(self) -> None:
        with self.far.broker.inside():
            drive(self.plane.start())
            self.near.look_at(DEVICE)

    def carries(self, tunnel: Any) -> None:
        up, down = ipv6(tunnel.address, HOST, b"up"), ipv6(HOST, tunnel.address, b"down")
        self.near.feed(up, tunnel.local, tunnel.remote)
        wait_until(lambda: hops(up) in self.far.to_internet(), "the packet at the host")
        self.far.from_internet(down)

        def came() -> bool:
            self.near.collect()
            return (hops(down), tunnel.local, tunnel.remote) in self.near.sent

        wait_until(came, "the packet at the client")
        self.near.sent.clear()
        self.far.seen.clear()

    def turn_until(self, what: Any) -> None:
        def turned() -> bool:
            self.reactor.iterate(0.0)
            return bool(what())

        wait_until(turned, "what the reactor is turned for")

    def run(self, work: Any) -> Any:
        """A coroutine that may need turns of the reactor."""
        found: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(found.append)
        self.turn_until(lambda: found)
        return found[0]

    @property
    def utun(self) -> Utun:
        assert self.near.utun is not None
        return self.near.utun


@pytest.fixture
def bench() -> Iterator[Bench]:
    with private_reactor() as reactor, Lab() as lab, contextlib.ExitStack() as stack:
        far = far_side(lab, stack)
        made = Bench(reactor, far, clients(lab, far.broker, stack), None, [])  # type: ignore[arg-type]
        made.start()
        yield made
        drive(made.plane.stop())


def test_tunnels_outlive_the_daemon_and_are_found_again_as_they_were(bench: Bench) -> None:
    nested = (IPv6Network("2001:db8:9000::/48"), IPv6Network("2001:db8:9000:1::/64"))
    wanted = [spec(1), spec(2, prefix=None), spec(3, routes=nested, mtu=1400)]
    for each in wanted:
        drive(bench.plane.raise_tunnel(each))
    bench.carries(wanted[2])
    bench.near.feed(ipv6("2001:db8:f::9", HOST), LOCAL, wanted[0].remote)
    bench.near.feed(ipv6("2001:db8:f::9", HOST), LOCAL, Endpoint("198.51.100.7", 9))
    before = drive(bench.plane.dump())
    assert bench.plane.strays() == {Refusal.UNKNOWN_ENDPOINT: 1}
    drive(bench.plane.stop())
    with pytest.raises(DataPlaneError, match="not there"):
        drive(bench.plane.raise_tunnel(spec(4)))
    bench.carries(wanted[2])  # nobody runs
    bench.start()
    after = {each.spec.id: each for each in drive(bench.plane.dump())}
    assert [after[each.id].spec for each in wanted] == wanted == [each.spec for each in before]
    assert after[TunnelId(1)].counters == Counters(refused={Refusal.SPOOFED_SOURCE: 1})
    assert after[TunnelId(3)].counters == Counters(2, 84, 2, 88)
    assert not any(bench.plane.strays().values()), "since start"
    assert bench.utun.device()["sockets"] == 1
    assert drive(bench.plane.lower_tunnel(TunnelId(3))) == Counters(2, 84, 2, 88)


def test_many_in_one_message_and_each_that_is_refused_is_named_and_the_others_stand(bench: Bench) -> None:
    drive(bench.plane.raise_tunnel(spec(500, remote=spec(40).remote)))
    drive(bench.plane.raise_tunnel(spec(501, address=spec(60).address)))
    wanted = [spec(number, **({"mtu": 7} if number == 20 else {})) for number in range(1, 100)]
    refused = bench.run(bench.plane.raise_tunnels(wanted))
    assert refused == {
        20: "an MTU of 7 is outside of 1280 to 65507",
        40: f"tunnel 500 has the endpoint {spec(40).remote}",
        60: f"tunnel 501 has an address of {spec(60).inner_text}",
    }
    stands = {each.spec.id for each in drive(bench.plane.dump())}
    assert stands == {500, 501, *range(1, 100)} - {20, 40, 60}
    assert bench.run(bench.plane.raise_tunnels([])) == {}


def test_what_others_did_to_a_tunnel_is_seen_and_put_right(bench: Bench) -> None:
    tunnel = spec(1)
    drive(bench.plane.raise_tunnel(tunnel))
    bench.utun.set(1, u16(MTU, 1300))
    bench.utun.add(Peer(7, ["2001:db8:2::/96"], ("198.51.100.9", 5), (OWN, 3653), flags=2))
    changed, strange = sorted(drive(bench.plane.dump()), key=lambda each: each.spec.id)
    assert changed.spec == spec(1, mtu=1300)
    assert (strange.spec.id, strange.spec.mtu) == (7, 0)
    assert drive(bench.plane.lower_tunnel(TunnelId(7))) == Counters()
    drive(bench.plane.raise_tunnel(tunnel))
    assert [each.spec for each in drive(bench.plane.dump())] == [tunnel]


@pytest.mark.parametrize("how", [("set", DEVICE, "down"), ("delete", DEVICE)])
def test_a_device_that_goes_or_is_set_down_is_told_and_made_again(bench: Bench, how: tuple[str, ...]) -> None:
    tunnel = spec(1)
    drive(bench.plane.raise_tunnel(tunnel))
    bench.near.feed(ipv6(tunnel.address, HOST), LOCAL, Endpoint("198.51.100.7", 9))
    assert bench.plane.strays()[Refusal.UNKNOWN_ENDPOINT] == 1
    bench.far.broker.run("ip", "link", *how)
    bench.turn_until(lambda: bench.lost)
    assert len(bench.lost) == 1
    assert ("gone" if how[0] == "delete" else "set down") in bench.lost[0]
    if how[0] == "delete":
        with pytest.raises(DataPlaneError):
            drive(bench.plane.dump())
    bench.go()
    if how[0] == "delete":
        assert drive(bench.plane.dump()) == []
        drive(bench.plane.raise_tunnel(tunnel))
    bench.carries(tunnel)
    assert bench.plane.strays()[Refusal.UNKNOWN_ENDPOINT] == 1, "those of the old device are not forgotten"
    bench.lost.clear()
    for _ in range(10):
        bench.reactor.iterate(0.0)
    assert bench.lost == []
    bench.far.broker.run("ip", "link", "set", DEVICE, "down")
    bench.turn_until(lambda: bench.lost)


def test_a_device_of_another_kind_is_refused(bench: Bench) -> None:
    bench.far.broker.run("ip", "link", "add", "other0", "type", "veth", "peer", "other1")
    plane = UtunPlane(bench.reactor, SystemClock(), "other0", POOLS, DEVICE_MTU, [OWN])
    with bench.far.broker.inside(), pytest.raises(DataPlaneError, match="another kind: remove it, or configure"):
        drive(plane.start())


def test_a_socket_that_cannot_be_attached_is_a_sentence(bench: Bench) -> None:
    with bench.far.broker.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, pytest.raises(DataPlaneError, match="UDP"):
        drive(bench.plane.attach([tcp.fileno()]))
    drive(bench.plane.attach([bench.near.outer.fileno()]))
    assert bench.utun.device()["sockets"] == 1


def test_a_dump_that_changes_under_way_is_whole_all_the_same(bench: Bench) -> None:
    wanted = [spec(number, prefix=None) for number in range(1, 6001)]
    for start in range(0, len(wanted), 100):
        assert bench.run(bench.plane.raise_tunnels(wanted[start : start + 100])) == {}
    found: list[Any] = []
    Deferred.fromCoroutine(bench.plane.dump()).addBoth(found.append)
    assert found == [], "it is in the middle of it"
    # Requests are answered meanwhile.
    assert drive(bench.plane.lower_tunnel(TunnelId(6000))) == Counters()
    assert drive(bench.plane.lower_tunnel(TunnelId(1))) == Counters()
    bench.turn_until(lambda: found)
    assert {each.spec for each in found[0]} == set(wanted[1:-1])
    chosen = [TunnelId(number) for number in range(1, 400)]
    assert {each.spec.id for each in bench.run(bench.plane.dump(chosen))} == set(range(2, 400))
    with bench.far.broker.inside(), contextlib.closing(Netlink()) as netlink:
        assert len(Utun(netlink, socket.if_nametoindex(DEVICE)).dump()) == 5998


def test_protocol_41_and_udp_in_one_device(bench: Bench) -> None:
    """The client's end is the kernel's own sit."""
    ends = Endpoint(OWN, 0), Endpoint(CLIENT, 0)
    bare = spec(1, encapsulation=Encapsulation.V6V4, local=ends[0], remote=ends[1], prefix=None)
    tunnel = spec(2)
    for each in (bare, tunnel):
        drive(bench.plane.raise_tunnel(each))
    with pytest.raises(DataPlaneError, match="tunnel 1 has the endpoint"):
        drive(bench.plane.raise_tunnel(spec(3, encapsulation=bare.encapsulation, local=ends[0], remote=ends[1])))
    client = bench.near.client
    client.run("ip", "link", "add", "six", "type", "sit", "local", CLIENT, "remote", OWN, "ttl", "64")
    client.run("ip", "link", "set", "six", "up")
    client.address("six", f"{bare.address}/128")
    client.route("::/0", "dev", "six")
    assert ping(client, HOST, wait=10) is not None
    bench.carries(tunnel)
    found = {each.spec.id: each for each in drive(bench.plane.dump())}
    assert found[TunnelId(1)].spec == bare
    counted = found[TunnelId(1)].counters
    assert (counted.packets_in, counted.packets_out, counted.octets_out) == (1, 1, 104)
    drive(bench.plane.stop())
    bench.start()
    assert {each.spec for each in drive(bench.plane.dump())} == {bare, tunnel}


def test_ipv6_outside_is_refused_with_a_sentence(bench: Bench) -> None:
    with pytest.raises(DataPlaneError, match="over IPv4"):
        drive(bench.plane.raise_tunnel(spec(1, remote=Endpoint("2001:db8:f::7", 1))))
