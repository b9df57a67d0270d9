# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 connect` behind a NAT, the daemon, a host on the IPv6 side: what a user has, in good times and bad."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from support.capabilities import need_tun
from support.netns import HOST, NAT_OUTER, Lab, internet, wait_until
from support.scenario import BROKER_ADDRESS, GUESTS, LINKS, PASSWORD, Broker, Connection, World, carries
from support.traffic import ping, transfer
from support.tsp_client import Client, Refused

pytestmark = pytest.mark.netns

BULK = 8_000_000
BLOCK_UDP = """
    table ip block {
        chain forward { type filter hook forward priority 0; udp dport 3653 drop; }
    }"""

Connect = Callable[..., Connection]


@pytest.fixture
def connect(world: World, tmp_path: Path) -> Iterator[Connect]:
    """Starts clients in the client's namespace, which are ended with the test."""
    started: list[Connection] = []

    def start(user: str | None, *options: str, **named: str) -> Connection:
        connection = Connection(world.net.client, tmp_path, user, PASSWORD, *options, **named)
        started.append(connection)
        connection.start()
        return connection

    yield start
    for each in started:
        each.stop()


def prefix_of(world: World, user: str) -> IPv6Network:
    (session,) = world.broker.sessions(user)
    return IPv6Network(session["prefix"])


def reaches(connection: Connection, destination: str = HOST) -> bool:
    return ping(connection.space, destination, wait=1) is not None


# --- what a user has ----------------------------------------------------------------------------------------------


def test_ping_and_bulk_transfer_both_ways(world: World, connect: Connect) -> None:
    tunnel = connect("alice")
    address = str(tunnel.wait_up())
    assert IPv6Address(address) in LINKS
    assert ping(world.net.client, BROKER_ADDRESS) is not None
    assert ping(world.net.client, HOST) is not None
    assert ping(world.net.host, address) is not None, "the host does not reach the client"
    assert ping(world.net.client, HOST, size=1232) is not None, "a packet of exactly the MTU does not pass"
    transfer(world.net.client, world.net.host, HOST, BULK)
    transfer(world.net.host, world.net.client, address, BULK)
    (session,) = world.broker.sessions("alice")
    assert session["established"] is True
    assert session["counters"]["octets_in"] > BULK
    assert session["counters"]["octets_out"] > BULK
    assert session["counters"]["refused"].get("spoofed-source", 0) == 0


@pytest.mark.parametrize(
    ("user", "options"), [("bob", ("--auth", "PLAIN")), ("bob", ("--type", "v6anyv4")), (None, ())]
)
def test_other_ways_to_log_in(world: World, connect: Connect, user: str | None, options: tuple[str, ...]) -> None:
    tunnel = connect(user, *options)
    assert tunnel.wait_up() in (LINKS if user else GUESTS)
    assert reaches(tunnel)


def test_a_packet_beyond_the_mtu_is_answered_with_packet_too_big(world: World, connect: Connect) -> None:
    address = str(connect("alice").wait_up())
    assert ping(world.net.host, address, size=1400, wait=1) is None
    wait_until(
        lambda: "mtu 1280" in world.net.host.run("ip", "-6", "route", "get", address), "the host's path MTU of 1280"
    )
    assert ping(world.net.host, address, size=1400) is not None, "fragments of the right size do not pass"


def test_router_mode_with_a_lan_behind_the_client(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    need_tun()
    with Lab() as lab:
        net = internet(lab, lan=True)
        assert net.lan is not None
        assert net.lan_device is not None
        broker = Broker(net.broker, tmp_path_factory.mktemp("broker"))
        broker.start()
        broker.add_user("alice", PASSWORD)
        tunnel = Connection(net.client, tmp_path, "alice", PASSWORD, "--prefix-length", "56", "--lan", net.lan_device)
        tunnel.start()
        tunnel.wait_up()
        (session,) = broker.sessions("alice")
        prefix = IPv6Network(session["prefix"])
        assert prefix.prefixlen == 56
        router, station = str(prefix[1]), str(prefix[2])
        (lan_device,) = (name for name in devices(net.lan.run("ip", "-o", "link")) if name != "lo")
        net.lan.address(lan_device, f"{station}/64")
        net.lan.route("default", "via", router)
        wait_until(lambda: ping(net.lan, router, wait=1) is not None, "the client's address on its LAN")
        wait_until(lambda: ping(net.lan, HOST) is not None, "the way out of the LAN")
        assert ping(net.host, station) is not None
        transfer(net.lan, net.host, HOST, BULK // 4)
        transfer(net.host, net.lan, station, BULK // 4)
        unassigned = str(prefix[-1])
        assert ping(net.host, unassigned, wait=0.5) is None
        # Killed, the program leaves its address on the LAN; the next one knows it for its own.
        tunnel.stop(signal.SIGKILL)
        wait_until(lambda: tunnel.address() is None, "the end of the device")
        shown = ("ip", "-6", "address", "show", "dev", net.lan_device)
        assert f"{router}/64" in net.client.run(*shown)
        tunnel.start()
        tunnel.wait_up()
        tunnel.stop()
        assert f"{router}/64" not in net.client.run(*shown)
        broker.check_log()


def devices(listing: str) -> list[str]:
    """Names out of ``ip -o link``."""
    return [line.split(":")[1].strip().split("@")[0] for line in listing.splitlines()]


def test_clients_reach_each_other(world: World, connect: Connect) -> None:
    address = str(connect("alice").wait_up())
    wire, offer = world.broker.log_in(world.net.nat, "bob")
    assert carries(wire, offer, address)
    wire.close()


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_the_nat_forgets_and_the_client_comes_back_with_the_same_addresses(world: World, connect: Connect) -> None:
    tunnel = connect("alice", "--prefix-length", "56")
    address = tunnel.wait_up()
    assert reaches(tunnel)
    (before,) = world.broker.sessions("alice")
    world.net.nat.forget_mappings()
    wait_until(
        lambda: any(each["remote"] != before["remote"] for each in world.broker.sessions("alice")),
        "the client's new log-in",
        45,
    )
    assert tunnel.wait_up() == address
    wait_until(lambda: reaches(tunnel), "the host's reply")
    assert prefix_of(world, "alice") == IPv6Network(before["prefix"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_client_restarts(world: World, connect: Connect, number: signal.Signals) -> None:
    tunnel = connect("alice", "--prefix-length", "56")
    address = tunnel.wait_up()
    prefix = prefix_of(world, "alice")
    tunnel.stop(number)
    wait_until(lambda: tunnel.address() is None, "the end of the device")
    tunnel.start()
    assert tunnel.wait_up() == address
    wait_until(lambda: reaches(tunnel), "the host's reply")
    assert prefix_of(world, "alice") == prefix


def test_where_udp_is_blocked_the_client_asks_over_tcp_and_says_what_comes_of_it(
    world: World, connect: Connect
) -> None:
    world.net.nat.run("nft", "-f", "-", input=BLOCK_UDP)
    try:
        tunnel = connect("alice", "--once")
        assert tunnel.process is not None
        assert tunnel.process.wait(30) == 1
    finally:
        world.net.nat.run("nft", "delete", "table", "ip", "block")
    told = tunnel.events()
    assert [each["carrier"] for each in told if each["event"] == "asking"] == ["udp", "tcp"]
    assert [each["code"] for each in told if each["event"] == "refused"] == [303]


def test_a_wrong_password_says_so(world: World, connect: Connect, tmp_path: Path) -> None:
    tunnel = Connection(world.net.client, tmp_path, "alice", "wrong")
    tunnel.start()
    wait_until(lambda: "300" in tunnel.log() or "password" in tunnel.log().lower(), "the client's complaint", 15)
    tunnel.stop()
    assert "Traceback" not in tunnel.log()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_broker_restarts_and_the_tunnel_goes_on_without_a_log_in(world: World, connect: Connect, end: str) -> None:
    tunnel = connect("alice", "--prefix-length", "56")
    tunnel.wait_up()
    assert reaches(tunnel)
    (before,) = world.broker.sessions("alice")
    getattr(world.broker, end)()
    world.broker.start()
    wait_until(lambda: reaches(tunnel), "the host's reply", 5)
    (after,) = world.broker.sessions("alice")
    assert (after["id"], after["remote"], after["prefix"]) == (before["id"], before["remote"], before["prefix"])


def test_two_clients_of_one_account_the_last_wins(world: World, connect: Connect) -> None:
    tunnel = connect("alice", "--prefix-length", "56")
    address = tunnel.wait_up()
    prefix = prefix_of(world, "alice")
    assert reaches(tunnel)
    wire, offer = world.broker.log_in(world.net.nat, "alice")
    assert IPv6Address(offer.client_inner) == address
    assert offer.prefix is not None
    assert IPv6Network(offer.prefix) == prefix
    assert carries(wire, offer)
    assert not reaches(tunnel)
    assert len(world.broker.sessions("alice")) == 1
    wire.close()


def test_the_status_page_counts_and_names_nobody(world: World) -> None:
    wire, _ = world.broker.log_in(world.net.client, "carol")
    page, overview = world.broker.status("/"), json.loads(world.broker.status())
    assert overview["activity"]["sessions"] == len(world.broker.sessions())
    assert overview["data_plane"] == "tun"
    assert "<html" in page
    for text in (page, json.dumps(overview)):
        assert "carol" not in text
        assert NAT_OUTER not in text
    wire.close()


def test_a_broker_that_stops_leaves_nothing_behind(tmp_path: Path) -> None:
    need_tun()
    with Lab() as lab:
        space = lab.namespace("broker")
        before = space.run("ip", "-o", "link"), space.run("nft", "list", "ruleset"), space.run("ip", "-6", "route")
        broker = Broker(space, tmp_path)
        broker.start()
        assert "ddtb6" in space.run("ip", "-o", "link")
        assert "3653" in space.run("nft", "list", "ruleset")
        broker.stop()
        after = space.run("ip", "-o", "link"), space.run("nft", "list", "ruleset"), space.run("ip", "-6", "route")
        assert after == before
        assert not (tmp_path / "control").exists()
        broker.check_log()


def test_an_administrator_ends_a_session_and_answers_who_it_was(world: World) -> None:
    wire, offer = world.broker.log_in(world.net.client, "carol")
    (session,) = world.broker.sessions("carol")
    assert "carol" in world.broker.tool("whois", offer.client_inner)
    assert "carol" in world.broker.tool("whois", str(IPv6Network(str(offer.prefix))[77]))
    world.broker.tool("session", "kill", str(session["id"]))
    assert world.broker.sessions("carol") == []
    assert not carries(wire, offer, tries=1)
    wire.close()


def test_pools_run_out_and_fill_again(tmp_path: Path) -> None:
    need_tun()
    with Lab() as lab:
        net = internet(lab)
        broker = Broker(
            net.broker,
            tmp_path,
            pool_links={"block": "2001:db8:0:1::/125", "use": "accounts", "quarantine": 0},
            pool_guests={"block": "2001:db8:0:2::/126", "use": "anonymous", "quarantine": 0},
            pool_home56={"block": "2001:db8:1000::/55", "use": "prefixes", "length": 56, "quarantine": 0},
            pool_home64=None,
        )
        broker.start()
        for name in ("alice", "bob", "carol"):
            broker.add_user(name, PASSWORD)
        prefixes = set()
        kept = []
        for name in ("alice", "bob"):
            kept.append(broker.log_in(net.client, name))
            prefixes.add(kept[-1][1].prefix)
        assert len(prefixes) == 2
        client = Client(World(net, broker).udp())
        client.log_in("DIGEST-MD5", "carol", PASSWORD)
        with pytest.raises(Refused) as caught:
            client.create(prefix_length=56)
        assert caught.value.code == 301
        assert all(carries(wire, offer) for wire, offer in kept), "those who have a prefix keep it"
        guests = [broker.log_in(net.client, "", mechanism="ANONYMOUS", prefix_length=None) for _ in range(2)]
        assert len({offer.client_inner for _, offer in guests}) == 2
        with pytest.raises(Refused) as caught:
            broker.log_in(net.client, "", mechanism="ANONYMOUS", prefix_length=None)
        assert caught.value.code == 301
        broker.tool("lease", "release", "alice")
        _, offer = broker.log_in(net.client, "carol")
        assert offer.prefix == kept[0][1].prefix
        broker.check_log()
