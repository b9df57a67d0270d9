# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon tells of a real client: traffic now, latency, and what is left of it after a restart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.capabilities import need_tun
from support.netns import HOST, Lab, internet, wait_until
from support.scenario import PASSWORD, Broker, Connection, World
from support.traffic import ping, transfer

pytestmark = [pytest.mark.netns, pytest.mark.slow]


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One whose broker asks clients for echoes."""
    need_tun()
    with Lab() as lab:
        net = internet(lab)
        broker = Broker(net.broker, tmp_path_factory.mktemp("broker"), tunnel={"keepalive": 2})
        broker.start()
        broker.add_user("alice", PASSWORD)
        yield World(net, broker)
        broker.stop()
        broker.check_log()


@pytest.fixture
def tunnel(world: World, tmp_path: Path) -> Iterator[Connection]:
    connection = Connection(world.net.client, tmp_path, "alice", PASSWORD)
    connection.start()
    connection.wait_up()
    yield connection
    connection.stop()


def metric(world: World, name: str) -> float:
    """The sum of all samples of that name."""
    families = text_string_to_metric_families(world.broker.status("/metrics"))
    return sum(each.value for family in families for each in family.samples if each.name == name)


def test_latency_of_a_real_client(world: World, tunnel: Connection) -> None:
    wait_until(lambda: metric(world, "ddtb6_echo_seconds_count") >= 1, "an answer of the client", 30)
    assert metric(world, "ddtb6_echo_requests_total") >= 1
    assert 0 < metric(world, "ddtb6_echo_seconds_sum") < 10


def test_traffic_now_and_after_a_restart(world: World, tunnel: Connection) -> None:
    address = tunnel.address()
    assert address is not None
    transfer(world.net.host, world.net.client, str(address), 4_000_000)

    def most() -> float:
        """Highest rate to clients that the page's plot tells of in words, in Mbit/s."""
        words = re.search(
            r'id="traffic-now-words">.*?Out: .*? ([0-9.]+) Mbit/s at most', world.broker.status("/"), re.S
        )
        return float(words[1]) if words else 0.0

    wait_until(lambda: most() > 1, "the transfer on the page", 30)
    assert ping(world.net.client, HOST) is not None
    world.broker.stop()  # What was carried is written.
    world.broker.start()
    history = json.loads(world.broker.status("/api/v1/history"))
    carried = sum(each["octets_out"] * history["hour"]["step"] for each in history["hour"]["points"])
    assert carried > 100_000
    assert "nothing known yet" not in world.broker.status("/").partition('id="traffic-hour"')[2].partition("</svg>")[0]
