# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of a tunnel as who is behind it sees it, with curl through the real client, without a log-in.

The LAN behind the client is looked after by systemd-networkd, with the set-up that the owner's page gives.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from support.capabilities import need_program, need_tun, unavailable
from support.netns import HOST, Lab, Namespace, internet, wait_until
from support.scenario import BROKER_ADDRESS, PASSWORD, STATUS_PORT, Broker, Connection, World

from ddtb6.web.setups import LAN, Setup, Values, setups

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PAGES = f"http://[{BROKER_ADDRESS}]:{STATUS_PORT}"
HERE = f"{PAGES}/tunnel"
NETWORKD = Path("/lib/systemd/systemd-networkd")
IN_ITS_OWN_FILES = """
mount --make-rprivate /
mount --bind "$0/run" /run
mount --bind "$0/network" /etc/systemd/network
mount -t sysfs -o ro sysfs /sys
exec "$@"
"""


def setup(id: str, prefix: IPv6Network) -> Setup:
    made = setups(Values("192.0.2.1", "alice", prefix, prefix.prefixlen))
    return next(each for each in made if each.id == id)


class Reached:
    """The client with its LAN, and its tunnel."""

    def __init__(self, world: World, tunnel: Connection, station: Namespace, directory: Path) -> None:
        self.world, self.tunnel, self.station = world, tunnel, station
        self._directory = directory

    def curl(self, space: Namespace, *words: str) -> tuple[int, str]:
        """Status and body."""
        out = space.run("curl", "-g", "-s", "-m", "5", "-w", "\n%{http_code}", *words)
        body, _, status = out.rpartition("\n")
        return int(status), body


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reached]:
    need_tun()
    need_program("netns", "curl")
    if not NETWORKD.exists():
        unavailable("netns", "systemd-networkd is not installed")
    directory = tmp_path_factory.mktemp("own")
    with Lab() as lab:
        net = internet(lab)
        station = lab.namespace("station")
        near, far = lab.wire(net.client, station)
        net.client.run("ip", "link", "set", near, "down")
        net.client.run("ip", "link", "set", near, "name", LAN)
        net.client.sysctl("net/ipv6/conf/all/forwarding", 1)
        station.sysctl(f"net/ipv6/conf/{far}/accept_ra", 2)
        web = {"listen": f"tcp6:port={STATUS_PORT}:interface=\\:\\:"}
        broker = Broker(net.broker, directory, web=web)
        broker.start()
        broker.add_user("alice", PASSWORD)
        tunnel = Connection(net.client, directory, "alice", PASSWORD, "--prefix-length", "56")
        tunnel.start()
        tunnel.wait_up()
        (session,) = broker.sessions("alice")
        manage_lan(net.client, setup("networkd", IPv6Network(session["prefix"])), directory)
        wait_until(
            lambda: "2001:db8:" in station.run("ip", "-6", "address", "show", "dev", far), "the LAN's prefix", 30
        )
        yield Reached(World(net, broker), tunnel, station, directory)
        broker.check_log()


def manage_lan(space: Namespace, made: Setup, directory: Path) -> None:
    """Start a systemd-networkd in `space` that has this file alone; the lab ends it."""
    for each in ("run/systemd/netif", "run/systemd/network", "network"):
        (directory / each).mkdir(parents=True)
    (directory / "network" / Path(made.place).name).write_text(made.text)
    with (directory / "networkd.log").open("wb") as log:
        space.spawn(
            "unshare", "-m", "sh", "-euc", IN_ITS_OWN_FILES, directory, NETWORKD,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def test_networkd_takes_the_setup_as_it_stands(reached: Reached) -> None:
    log = (reached._directory / "networkd.log").read_text()
    assert "50-lan.network" in log
    assert "Unknown" not in log
    assert "ignoring" not in "".join(line for line in log.splitlines() if "50-lan.network" in line)


def test_the_client_and_its_lan_see_their_tunnel(reached: Reached) -> None:
    (session,) = reached.world.broker.sessions("alice")
    for space in (reached.world.net.client, reached.station):
        status, page = reached.curl(space, HERE)
        assert status == 200
        for shown in (session["address"], session["prefix"], session["remote"], "The tunnel you came through"):
            assert shown in page
        assert "alice" not in page
        status, body = reached.curl(space, f"{PAGES}/api/v1/tunnel/through")
        assert (status, json.loads(body)["id"]) == (200, session["id"])


def test_it_is_read_only(reached: Reached) -> None:
    for method, path, expected in (
        ("POST", "/tunnel/password", 403),
        ("PUT", "/api/v1/tunnel/password", 401),
        ("GET", "/api/v1/tunnel", 401),
        ("DELETE", "/api/v1/sessions/1", 401),
        ("GET", "/manage", 303),
    ):
        status, _ = reached.curl(reached.station, "-X", method, f"{PAGES}{path}")
        assert status == expected, path


def test_from_elsewhere_there_is_nothing_whatever_headers_say(reached: Reached) -> None:
    (session,) = reached.world.broker.sessions("alice")
    address = session["address"]
    url = f"http://[2001:db8:f::1]:{STATUS_PORT}/tunnel"
    for header in (
        "X-Nothing: 1",
        f"X-Forwarded-For: {address}",
        f'Forwarded: for="[{address}]"',
        f"X-Real-IP: {address}",
        f"Host: [{address}]",
    ):
        status, page = reached.curl(reached.world.net.host, "-H", header, url)
        assert status == 303, header
        assert address not in page


def test_a_spoofed_source_gets_no_answer(reached: Reached) -> None:
    """Somebody on the IPv6 side takes the LAN's address; what the broker answers goes into the tunnel."""
    (session,) = reached.world.broker.sessions("alice")
    stolen = str(IPv6Network(session["prefix"])[0x77])
    host = reached.world.net.host
    device = next(line.split()[1] for line in host.run("ip", "-o", "-6", "address").splitlines() if HOST in line)
    host.address(device, f"{stolen}/128")
    try:
        out = host.run("curl", "-g", "-s", "-m", "2", "--interface", stolen, "-w", "%{http_code}", HERE, check=False)
    finally:
        host.run("ip", "address", "del", f"{stolen}/128", "dev", device)
    assert out == "000"
