# SPDX-License-Identifier: GPL-2.0-or-later
"""Every page in a real browser: usable by everybody, in light, dark and on a telephone, asking nobody else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import virtual, website
from support.chromium import Chromium
from support.netns import HOST
from support.scenario import PASSWORD, World
from support.traffic import ping

from .conftest import ROOT, Connect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OF_NOBODY = {"status": "/", "login": "/login", "refusal": "/nothing"}
OF_OWNERS = {"tunnel": "/tunnel"}
OF_ADMINISTRATORS = {
    "manage": "/manage",
    "users": "/manage/users",
    "user": "/manage/users/alice",
    "elsewhere": "/manage/users/gone",
    "disable": "/manage/users/alice/disable",
    "delete": "/manage/users/alice/delete",
    "sessions": "/manage/sessions",
    "session": "/manage/sessions/{session}",
    "end": "/manage/sessions/{session}/end",
    "leases": "/manage/leases?address={address}",
    "release": "/manage/leases/alice/release",
    "events": "/manage/events",
    "journal": "/manage/journal",
    "audit": "/manage/audit",
    "tokens": "/manage/tokens",
    "revoke": "/manage/tokens/script/revoke",
}
"""Name of the pictures, and path."""
NO_PAGES = {"/style.css", "/app.js", "/icon.svg", "/status.json", "/metrics", "/healthz", "/readyz", "/events"}


@pytest.fixture
def session(world: World, connect: Connect) -> dict[str, str]:
    """The session of alice's that is up and has carried something."""
    tunnel = connect("alice", PASSWORD, "--prefix-length", "56")
    address = tunnel.wait_up()
    (found,) = world.broker.sessions("alice")
    assert ping(world.net.client, HOST) is not None
    return {"session": str(found["id"]), "address": str(address)}


@pytest.fixture
def gone(world: World, connect: Connect) -> None:
    """Who had a session, and has no account any more."""
    world.broker.add_user("gone", PASSWORD)
    tunnel = connect("gone", PASSWORD)
    tunnel.wait_up()
    tunnel.stop()
    world.broker.tool("user", "delete", "gone")


def test_of_administrators(browser: Chromium, world: World, gone: None, session: dict[str, str]) -> None:
    browser.log_in("administrator", ROOT, PASSWORD)
    browser.open("/manage/tokens")
    browser.fill(name="script")
    browser.press("Make")
    complaints = browser.check("token")
    for name, path in OF_ADMINISTRATORS.items():
        browser.open(path.format(**session))
        complaints += browser.check(name)
    assert complaints == []


def test_of_owners_and_of_nobody(browser: Chromium, session: dict[str, str]) -> None:
    complaints = []
    for name, path in OF_NOBODY.items():
        browser.open(path)
        complaints += browser.check(name)
    browser.log_in("owner", "alice", PASSWORD)
    browser.script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    complaints += browser.check("tunnel")
    browser.log_out()
    browser.log_in("owner", "idle", PASSWORD)
    complaints += browser.check("tunnel-down")
    assert [each for each in complaints if "/nothing - " not in each] == []


def test_of_who_comes_through_a_tunnel(browser: Chromium, session: dict[str, str]) -> None:
    with browser.sending(X_Forwarded_For=session["address"]):
        browser.open("/tunnel")
        assert "The tunnel you came through" in browser.text
        assert browser.check("through") == []


def test_no_page_is_left_out(tmp_path: Path) -> None:
    inside = virtual.World(tmp_path)
    try:
        table = website.web_of(inside, lambda: website.overview_of(inside)).routes()
    finally:
        inside.close()
    judged = [each.partition("?")[0] for each in (OF_NOBODY | OF_OWNERS | OF_ADMINISTRATORS).values()]
    for route in table:
        if route.method == "GET" and not route.path.startswith("/api/") and route.path not in NO_PAGES:
            pattern = re.sub(r"\{[^}]*\}", "[^/]+", route.path)
            assert any(re.fullmatch(pattern, path) for path in judged), f"{route.path} is judged by no test"
