# SPDX-License-Identifier: GPL-2.0-or-later
"""Every page in a real browser: usable by everybody, in light, dark and on a telephone, asking nobody else."""

from __future__ import annotations

import pytest
from support.chromium import Chromium
from support.netns import HOST
from support.scenario import PASSWORD, World
from support.traffic import ping

from .conftest import ROOT, Connect

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def session(world: World, connect: Connect) -> str:
    """The id of a session of alice's that is up and has carried something."""
    tunnel = connect("alice", PASSWORD, "--prefix-length", "56")
    tunnel.wait_up()
    (found,) = world.broker.sessions("alice")
    assert ping(world.net.client, HOST) is not None
    return str(found["id"])


def test_of_an_administrator(browser: Chromium, world: World, session: str) -> None:
    browser.log_in("administrator", ROOT, PASSWORD)
    complaints = []
    for name, path in (
        ("manage", "/manage"),
        ("users", "/manage/users"),
        ("user", "/manage/users/alice"),
        ("disable", "/manage/users/alice/disable"),
        ("delete", "/manage/users/alice/delete"),
        ("sessions", "/manage/sessions"),
        ("session", f"/manage/sessions/{session}"),
        ("end", f"/manage/sessions/{session}/end"),
        ("leases", "/manage/leases"),
        ("release", "/manage/leases/alice/release"),
        ("events", "/manage/events"),
        ("journal", "/manage/journal"),
        ("audit", "/manage/audit"),
        ("tokens", "/manage/tokens"),
    ):
        browser.open(path)
        complaints += browser.check(name)
    assert complaints == []


def test_of_an_owner_and_of_nobody(browser: Chromium, world: World, session: str) -> None:
    browser.open("/")
    complaints = browser.check("status")
    browser.open("/login")
    complaints += browser.check("login")
    browser.log_in("owner", "alice", PASSWORD)
    browser.script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    complaints += browser.check("tunnel")
    browser.log_out()
    browser.log_in("owner", "idle", PASSWORD)
    complaints += browser.check("tunnel-down")
    assert complaints == []
