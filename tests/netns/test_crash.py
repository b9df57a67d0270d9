# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGKILL in the middle of 200 log-ins: what was announced before is true after, and nothing is given twice."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
import time
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from support.capabilities import need_tun
from support.netns import Lab, Namespace, internet, wait_until
from support.scenario import PASSWORD, SERVER, Broker, carries
from support.tsp_client import Client, Offer, Refused, Silence, Udp

pytestmark = pytest.mark.netns

CLIENTS = 200
DEADLINE = 90.0


class Crowd:
    """Clients that log in, each on a thread, until each has logged in after `restarted`."""

    def __init__(self, space: Namespace, users: list[str]) -> None:
        self.space = space
        self.restarted = threading.Event()
        self.offers: dict[str, list[Offer]] = {}
        """Every offer that reached a client, by user."""
        self.wires: dict[str, Udp] = {}
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._member, args=(user,), daemon=True) for user in users]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def join(self, deadline: float) -> None:
        end = time.monotonic() + deadline
        for each in self._threads:
            each.join(max(0.0, end - time.monotonic()))

    @property
    def served(self) -> int:
        return len(self.offers)

    def _member(self, user: str) -> None:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            again = self.restarted.is_set()
            wire = Udp(self.space.socket(socket.AF_INET, socket.SOCK_DGRAM), SERVER, patience=(1, 1, 1))
            try:
                client = Client(wire)
                client.log_in("DIGEST-MD5", user, PASSWORD)
                offer = client.create(prefix_length=56)
                self.offers.setdefault(user, []).append(offer)
                client.accept()
            except (Silence, Refused, ConnectionError):
                wire.close()
                time.sleep(0.1)
                continue
            except Exception as error:
                self.faults.append(f"{user}: {error!r}")
                return
            if again:
                self.wires[user] = wire
                return
            wire.close()
            self.restarted.wait(max(0.0, end - time.monotonic()))


@pytest.mark.parametrize("served", [20, 100])
def test_sigkill_in_the_middle_of_200_log_ins(tmp_path: Path, served: int) -> None:
    need_tun()
    users = [f"user{number}" for number in range(CLIENTS)]
    with Lab() as lab:
        net = internet(lab)
        broker = Broker(net.broker, tmp_path)
        broker.add_accounts(users, PASSWORD)
        broker.start()
        crowd = Crowd(net.client, users)
        crowd.start()
        wait_until(lambda: crowd.served >= served, "some of the log-ins", 60)
        broker.kill()
        assert crowd.served < CLIENTS, "all were served before the kill: this tests nothing"
        announced = {user: {offer.held for offer in offers} for user, offers in list(crowd.offers.items())}
        assert len(announced) >= served
        broker.start()
        crowd.restarted.set()
        crowd.join(DEADLINE)
        assert crowd.faults == []
        assert set(crowd.wires) == set(users), "some were never served again"

        for user, before in announced.items():
            assert {offer.held for offer in crowd.offers[user]} == before, f"{user} got something else"
        assert all(len({offer.held for offer in offers}) == 1 for offers in crowd.offers.values())
        held = [crowd.offers[user][-1] for user in users]
        assert len({offer.client_inner for offer in held}) == CLIENTS
        assert len({offer.prefix for offer in held}) == CLIENTS
        assert all(IPv6Network(str(offer.prefix)).prefixlen == 56 for offer in held)

        live = broker.sessions()
        assert len(live) == CLIENTS
        for user in users[:: CLIENTS // 10]:
            assert carries(crowd.wires[user], crowd.offers[user][-1]), f"{user} has no tunnel"
        broker.check_log()
        broker.stop()
        with contextlib.closing(sqlite3.connect(broker.database)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
