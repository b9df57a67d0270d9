# SPDX-License-Identifier: GPL-2.0-or-later
"""What strangers write, other sites send, and thieves carry away, in a real browser: refused, or harmless."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from support.chromium import Chromium
from support.scenario import PASSWORD, SERVER, STATUS_PORT, World
from support.tsp_client import Client, Refused, Udp

from .conftest import NASTY, ORIGIN, ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

INTRUDERS = """
return [...document.querySelectorAll('main script, img, iframe, object, [onerror], [onload], [onclick], [style]')]
  .map(each => each.outerHTML);
"""


@contextlib.contextmanager
def other_site(page: str) -> Iterator[int]:
    """Serves a page on another port of this machine; gives the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def users(world: World) -> set[str]:
    return {each["name"] for each in world.broker.ask("user", "list")}


def refused(world: World, user: str, password: str, version: str = "2.0.2") -> str:
    """Log in on the wire as a stranger does; the status line that comes back."""
    client = Client(Udp(world.net.nat.socket(socket.AF_INET, socket.SOCK_DGRAM), SERVER), version=version)
    with pytest.raises(Refused) as caught:
        client.log_in("PLAIN", user, password)
    client.wire.close()
    return str(caught.value)


def test_what_strangers_write_is_text(browser: Chromium, world: World) -> None:
    assert NASTY in refused(world, NASTY, "x"), "the Reply-Message of the RADIUS server"
    assert refused(world, "x", "x", version=f"2.0.2{NASTY}")
    browser.log_in("administrator", ROOT, PASSWORD)
    browser.open("/manage/events")
    assert browser.text.count(NASTY) >= 2, "name and Reply-Message are shown as they came"
    said = quote(NASTY)
    for path in (
        "/manage",
        "/manage/events",
        f"/manage/events?user={said}",
        f"/manage/users?search={said}",
        f"/manage/users/{quote(NASTY, safe='')}",
        f"/manage/sessions?search={said}&sort={said}",
        f"/manage/leases?owner={said}",
        f"/manage/leases?address={said}&at={said}",
        f"/manage/leases/{quote(NASTY, safe='')}/release",
        f"/manage/tokens/{quote(NASTY, safe='')}/revoke",
        f"/login?next={said}",
        f"/{said}",
    ):
        browser.open(path)
        assert browser.script(INTRUDERS) == [], path
        assert browser.script("return window.gotIn") is None, path
    for page, fields in (("users", {"name": NASTY[:64], "password": "x"}), ("tokens", {"name": NASTY[:64]})):
        browser.open(f"/manage/{page}")
        browser.fill(**fields)
        browser.press_in_main("Add" if page == "users" else "Make")
        assert browser.script(INTRUDERS) == []
        assert browser.find("[role=alert]").text
    browser.open("/manage/audit")
    assert NASTY[:30] in browser.text
    assert browser.script(INTRUDERS) == []
    browser.log_out()
    browser.open("/login")
    browser.fill(name=NASTY[:64], password="x")
    browser.press_in_main("Log in")
    assert browser.find("input[name=name]").get_attribute("value") == NASTY[:64]
    assert browser.script(INTRUDERS) == []
    assert not any(" 5" in line for line in browser.console())


@pytest.mark.parametrize(("host", "said"), [("127.0.0.1", "came from another site"), ("localhost", "Log in")])
def test_another_site_changes_nothing(browser: Chromium, world: World, host: str, said: str) -> None:
    """From another port the cookie comes along, from another host not; the first site even knows the form's token."""
    browser.log_in("administrator", ROOT, PASSWORD)
    csrf = browser.find("input[name=csrf]").get_attribute("value")
    evil = f"""<form method="post" action="{ORIGIN}/manage/users"><input name="csrf" value="{csrf}">
        <input name="name" value="mallory"><input name="password" value="x"></form>
        <script>document.forms[0].submit()</script>"""
    with other_site(evil) as port:
        browser.open(f"http://{host}:{port}/")
        browser.wait(lambda: browser.path == "/manage/users" and said in browser.text, said)
    assert "mallory" not in users(world)
    browser.open("/manage/users")
    assert "mallory" not in browser.text, "and the administrator is still logged in"


def test_another_site_reads_nothing_and_frames_nothing(browser: Chromium, world: World) -> None:
    browser.log_in("administrator", ROOT, PASSWORD)
    evil = f"""<iframe src="{ORIGIN}/manage"></iframe><script>
        fetch("{ORIGIN}/api/v1/users", {{credentials: "include"}}).then(r => r.text(), e => "refused")
          .then(text => {{ document.title = "read: " + text; }});</script>"""
    with other_site(evil) as port:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait(lambda: browser.driver.title.startswith("read:"), "the end of the fetch")
        assert browser.driver.title == "read: refused"
        browser.driver.switch_to.frame(0)
        browser.wait(lambda: browser.script("return location.protocol") == "chrome-error:", "an error in its place")
        browser.driver.switch_to.default_content()


def test_a_token_of_another_session_is_worth_nothing(browser: Chromium, world: World) -> None:
    browser.log_in("administrator", ROOT, PASSWORD)
    stolen = browser.find("input[name=csrf]").get_attribute("value")
    browser.log_out()
    browser.log_in("administrator", ROOT, PASSWORD)
    browser.open("/manage/users")
    browser.script(
        "document.querySelectorAll('input[name=csrf]').forEach(each => { each.value = arguments[0]; })", stolen
    )
    browser.fill(name="mallory", password="x")
    browser.press("Add")
    assert "too old, and nothing was done" in browser.text
    assert "mallory" not in users(world)


def test_a_cookie_is_out_of_reach_and_ends_with_the_log_out(browser: Chromium) -> None:
    def ask(cookie: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", STATUS_PORT, timeout=10)
        connection.request("GET", "/manage", headers={"Cookie": cookie})
        status = connection.getresponse().status
        connection.close()
        return status

    browser.log_in("administrator", ROOT, PASSWORD)
    assert browser.script("return document.cookie") == ""
    (cookie,) = (each for each in browser.driver.get_cookies() if each["name"] == "ddtb6")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    stolen = f"ddtb6={cookie['value']}"
    assert ask(stolen) == 200
    browser.log_out()
    assert ask(stolen) == 303
    browser.driver.add_cookie({"name": "ddtb6", "value": cookie["value"]})
    browser.open("/manage")
    assert browser.path == "/login"
