# SPDX-License-Identifier: GPL-2.0-or-later
"""The network and the running broker that tests of whole negotiations share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.capabilities import need_tun
from support.netns import Lab, internet
from support.scenario import PASSWORD, Broker, World


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for each module; ends with the broker ending well."""
    need_tun()
    with Lab() as lab:
        net = internet(lab)
        broker = Broker(net.broker, tmp_path_factory.mktemp("broker"))
        broker.start()
        for name in ("alice", "bob", "carol", "dave"):
            broker.add_user(name, PASSWORD)
        yield World(net, broker)
        broker.stop()
        broker.check_log()


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """The shared one; a test that leaves a trace of a bug in its log fails."""
    yield shared_world
    shared_world.broker.check_log()
