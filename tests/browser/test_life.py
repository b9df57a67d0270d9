# SPDX-License-Identifier: GPL-2.0-or-later
"""A user's life in the browser and on the wire at once: made, connected, seen, sent away, given another password."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from support.chromium import Chromium
from support.netns import wait_until
from support.scenario import PASSWORD, World

from .conftest import ROOT, Connect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FOCUS = """
const at = document.activeElement, style = getComputedStyle(at);
return [at.tagName, at.name || at.textContent.trim(), style.outlineStyle !== 'none' && style.outlineWidth !== '0px'];
"""


def shown(browser: Chromium, path: str, words: str) -> None:
    """Load a page until it says `words`."""

    def says() -> bool:
        browser.open(path)
        return words in browser.text

    browser.wait(says, f"{words} on {path}")


def keys(browser: Chromium, *pressed: str) -> None:
    ActionChains(browser.driver).send_keys(*pressed).perform()


def walk_to(browser: Chromium, wanted: str) -> None:
    """Press Tab until the control or link that is called so has the focus; each on the way can be seen to have it."""
    for _ in range(60):
        keys(browser, Keys.TAB)
        tag, name, seen = browser.script(FOCUS)
        if tag != "BODY":
            assert seen, f"{tag} {name} does not show that it has the focus"
        if name == wanted:
            return
    raise AssertionError(f"{wanted} is not reached by keyboard on {browser.driver.current_url}")


def test_from_the_first_log_in_to_a_new_password(browser: Chromium, world: World, connect: Connect) -> None:
    browser.log_in("administrator", ROOT, PASSWORD)
    browser.open("/manage/users")
    browser.fill(name="carol", password="first")
    browser.press("Add")
    assert "Added carol." in browser.text

    client = connect("carol", "first", "--prefix-length", "56")
    address = str(client.wait_up())
    shown(browser, "/manage/sessions?search=carol", address)
    (session,) = world.broker.sessions("carol")
    browser.press(str(session["id"]))
    for words in (session["remote"], session["prefix"], "established"):
        assert words in browser.text, words

    browser.press("End it…")
    browser.press("End it")
    assert f"Ended session {session['id']} of carol." in browser.text
    assert session["id"] not in [each["id"] for each in world.broker.sessions()]
    client.stop()

    browser.open("/manage/users/carol")
    browser.fill(password="second")
    browser.press("Change")
    assert "Changed the password of carol." in browser.text
    stale = connect("carol", "first", "--once")
    assert stale.process is not None
    assert stale.process.wait(30) == 1
    assert [each["code"] for each in stale.events() if each["event"] == "refused"] == [300]
    shown(browser, "/manage/users/carol", "log-in refused")
    assert str(connect("carol", "second", "--prefix-length", "56").wait_up()) == address
    assert browser.noise() == []


def test_the_owner_sees_it_and_chooses_a_password(browser: Chromium, world: World, connect: Connect) -> None:
    client = connect("bob", PASSWORD, "--prefix-length", "56")
    address = str(client.wait_up())
    (session,) = world.broker.sessions("bob")
    browser.log_in("owner", "bob", PASSWORD)
    assert browser.path == "/tunnel"
    for words in (address, session["prefix"], session["remote"], "There is one on the way"):
        assert words in browser.text, words

    browser.script("window.thisVisit = true")
    client.stop()
    world.broker.tool("session", "kill", str(session["id"]))

    def now_shown() -> str:
        browser.script("document.dispatchEvent(new Event('visibilitychange'))")
        return browser.find("#now .state").text

    browser.wait(lambda: now_shown() == "down", "the end of the session on the page")
    assert browser.script("return window.thisVisit"), "the page was never loaded again"

    browser.grant("clipboardReadWrite", "clipboardSanitizedWrite")
    assert copied(browser, "connect") == "sudo ddtb6 connect --server 192.0.2.1 --user bob --prefix-length 56"
    browser.script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    assert copied(browser, "gogoc").startswith("userid=bob passwd=PASSWORD server=192.0.2.1"), "as without TLS"

    for old, new, again, said in (
        ("wrong", "another", "another", "The old password is not right"),
        (PASSWORD, "another", "anoher", "are not the same"),
        (PASSWORD, "another", "another", "Changed the password."),
    ):
        browser.fill(old_password=old, password=new, again=again)
        browser.press("Change")
        assert said in browser.text
    assert str(connect("bob", "another").wait_up()) == address
    browser.log_out()
    browser.log_in("owner", "bob", "another")
    assert browser.path == "/tunnel"
    assert [each for each in browser.noise() if " 422 " not in each] == []


def copied(browser: Chromium, setup: str) -> str:
    """What a set-up's button puts into the clipboard, as it is pasted into a line."""
    browser.script("document.querySelector(`details:has(#setup-${arguments[0]})`).open = true", setup)
    button = browser.find(f"button[data-copy=setup-{setup}]")
    button.click()
    browser.wait(lambda: button.text == "Copied", "Copied")
    field = browser.find("input[name=old_password]")
    field.send_keys(Keys.CONTROL, "v")
    text = browser.wait(lambda: field.get_attribute("value"), "what was pasted")
    field.clear()
    return str(text)


def test_by_keyboard_alone(browser: Chromium, world: World) -> None:
    browser.open("/")
    keys(browser, Keys.TAB)
    assert browser.script(FOCUS)[1] == "To the content"
    before = browser.find("html")
    walk_to(browser, "Log in")
    keys(browser, Keys.ENTER)
    browser.left(before)
    walk_to(browser, "role")
    keys(browser, Keys.ARROW_DOWN)
    walk_to(browser, "name")
    keys(browser, ROOT, Keys.TAB, PASSWORD)
    before = browser.find("html")
    keys(browser, Keys.ENTER)
    browser.left(before)
    assert browser.path == "/manage"
    before = browser.find("html")
    walk_to(browser, "Users")
    keys(browser, Keys.ENTER)
    browser.left(before)
    walk_to(browser, "name")
    keys(browser, "dave", Keys.TAB, "secret")
    before = browser.find("html")
    keys(browser, Keys.ENTER)
    browser.left(before)
    assert "Added dave." in browser.text
    before = browser.find("html")
    walk_to(browser, "Delete…")
    keys(browser, Keys.ENTER)
    browser.left(before)
    before = browser.find("html")
    walk_to(browser, "Delete")
    keys(browser, Keys.SPACE)
    browser.left(before)
    wait_until(lambda: "Deleted dave" in browser.text, "the end of dave")
    before = browser.find("html")
    walk_to(browser, "Log out")
    keys(browser, Keys.SPACE)
    browser.left(before)
    assert browser.path == "/"
    assert browser.noise() == []


def test_without_its_script_everything_is_there(browser: Chromium) -> None:
    browser._command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.log_in("owner", "alice", PASSWORD)
        assert "ddtb6 connect" in browser.text
        assert not browser.driver.find_element("css selector", "button[data-copy]").is_displayed()
    finally:
        browser._command("Emulation.setScriptExecutionDisabled", value=False)


def test_the_status_page_keeps_itself_up_to_date(browser: Chromium, world: World, connect: Connect) -> None:
    browser.open("/")
    browser.script("window.thisVisit = true")
    browser.wait(lambda: browser.find("#alive").is_displayed(), "the stream")

    def tunnels() -> int:
        return int(browser.find("#now .figures strong").text)

    before = tunnels()
    client = connect("erin", PASSWORD, "--prefix-length", "56")
    client.wait_up()
    browser.wait(lambda: tunnels() == before + 1, "one tunnel more")
    client.stop()
    world.broker.tool("session", "kill", str(world.broker.sessions("erin")[0]["id"]))
    browser.wait(lambda: tunnels() == before, "one tunnel less")
    assert browser.script("return window.thisVisit"), "the page was never loaded again"
    assert browser.noise() == []
