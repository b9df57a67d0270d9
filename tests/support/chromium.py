# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's Chromium without a window, in the network namespace of the calling thread, and what every page must be.

    with Chromium(directory, "http://127.0.0.1:8653") as browser:
        browser.open("/login")
        browser.check("login")

Invariants: `check` fails for a violation that axe-core finds, in light or dark, for a page wider than a telephone, for
a line on the console and for a request to any other origin; nothing here waits for time to pass, but for facts.
Source of the rules: axe-core, which `make test` has npm install by tests/browser/package-lock.json.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
AXE = ROOT / "build/browser/node_modules/axe-core/axe.min.js"
SHOTS = ROOT / "build/browser/screenshots"
"""Where pictures of the pages are left."""
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
DESKTOP, PHONE = (1200, 900), (390, 844)
PATIENCE = 30.0
"""Seconds for a fact to come true on a machine that does other things besides."""


def missing() -> str | None:
    """Why no page can be opened here; None when one can."""
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if shutil.which(program) is None:
            return f"the program {program} is missing: install {package}"
    return None if AXE.exists() else f"{AXE} is missing: `make browser` installs it, with npm"


class Chromium:
    """One browser with a profile of its own."""

    def __init__(self, directory: Path, origin: str) -> None:
        """`directory` is for its profile; `origin` is where its pages come from, and nothing else may."""
        self.origin = origin
        self._directory = directory

    def __enter__(self) -> Chromium:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, f"--user-data-dir={self._directory}", f"--window-size={DESKTOP[0]},{DESKTOP[1]}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = Service(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(PATIENCE)
        self._command("Page.addScriptToEvaluateOnNewDocument", source=AXE.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()

    def _command(self, name: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    # --- doing ----------------------------------------------------------------------------------------------------

    def open(self, path: str) -> None:
        self.driver.get(path if "://" in path else self.origin + path)

    @property
    def path(self) -> str:
        return urlsplit(self.driver.current_url).path

    @property
    def text(self) -> str:
        """What a person reads."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def find(self, selector: str) -> WebElement:
        """The first element that is there, waited for."""
        return self.wait(lambda: self.driver.find_element(By.CSS_SELECTOR, selector), selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def fill(self, **fields: str) -> None:
        """Type into the named fields of the page's forms."""
        for name, value in fields.items():
            field = self.find(f"main input[name={name}]:not([type=hidden]):not([hidden])")
            field.clear()
            field.send_keys(value)

    def press(self, words: str) -> None:
        """Click on the button or link that is called so, and wait for the page that comes."""
        before = self.driver.find_element(By.TAG_NAME, "html")
        xpath = f"//*[self::button or self::a][normalize-space()='{words}']"
        self.wait(lambda: self.driver.find_element(By.XPATH, xpath), words).click()
        self.left(before)

    def left(self, before: WebElement) -> None:
        """Wait until the page that an element was of is gone, and the next is there."""

        def gone() -> bool:
            try:
                before.is_enabled()
            except (StaleElementReferenceException, WebDriverException):
                return bool(self.driver.execute_script("return document.readyState === 'complete'"))
            return False

        self.wait(gone, "the next page")

    def wait(self, condition: Callable[[], T], what: str) -> T:
        """Until `condition` gives something true without an element missing."""
        ignored = (NoSuchElementException, StaleElementReferenceException)
        waiting = WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05, ignored_exceptions=ignored)
        return waiting.until(lambda _: condition(), f"{what}, on {self.driver.current_url}")

    def log_in(self, role: str, name: str, password: str) -> None:
        self.open("/login")
        self.find(f"input[name=role][value={role}]").click()
        self.fill(name=name, password=password)
        self.press_in_main("Log in")

    def press_in_main(self, words: str) -> None:
        before = self.driver.find_element(By.TAG_NAME, "html")
        self.driver.find_element(By.XPATH, f"//main//button[normalize-space()='{words}']").click()
        self.left(before)

    def log_out(self) -> None:
        self.press("Log out")

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def grant(self, *permissions: str) -> None:
        self._command("Browser.grantPermissions", origin=self.origin, permissions=list(permissions))

    @contextlib.contextmanager
    def sending(self, **headers: str) -> Iterator[None]:
        """With further headers in every request, their names with _ for -."""
        self._command("Network.enable")
        self._command("Network.setExtraHTTPHeaders", headers={k.replace("_", "-"): v for k, v in headers.items()})
        try:
            yield
        finally:
            self._command("Network.setExtraHTTPHeaders", headers={})

    @contextlib.contextmanager
    def wide(self, size: tuple[int, int]) -> Iterator[None]:
        """With a screen of `size`."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        try:
            yield
        finally:
            self._command("Emulation.clearDeviceMetricsOverride")

    @contextlib.contextmanager
    def scheme(self, name: str) -> Iterator[None]:
        """With ``light`` or ``dark`` preferred."""
        self._command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])
        try:
            yield
        finally:
            self._command("Emulation.setEmulatedMedia", features=[])

    # --- judging --------------------------------------------------------------------------------------------------

    def check(self, name: str) -> list[str]:
        """What of all that a page must be it is not; leaves its pictures as `name`."""
        complaints = []
        for scheme in ("light", "dark"):
            with self.scheme(scheme):
                self.picture(f"{name}-{scheme}", DESKTOP)
                complaints += [f"{name}, {scheme}: {each}" for each in self.violations()]
        with self.wide(PHONE):
            self.picture(f"{name}-phone", PHONE)
            width = self.script("return document.documentElement.scrollWidth")
            if width > PHONE[0]:
                complaints.append(f"{name} is {width} wide on a telephone")
        return [*complaints, *self.noise()]

    def picture(self, name: str, size: tuple[int, int]) -> None:
        """The whole page, not only what is on the screen."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        height = int(self.script("return document.documentElement.scrollHeight"))
        with self.wide((size[0], max(size[1], min(height, 6000)))) if size != PHONE else contextlib.nullcontext():
            shot = self.driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"}
            )
        (SHOTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def violations(self) -> list[str]:
        """What axe-core finds, in words."""
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations),"
            " e => done([{id: String(e), nodes: []}]));"
        )
        return [f"{each['id']}: {[node['html'][:200] for node in each['nodes']]}" for each in found]

    def console(self) -> list[str]:
        """What was written on the console since the last time."""
        return [f"{each['level']}: {each['message']}" for each in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last time."""
        messages = (json.loads(each["message"])["message"] for each in self.driver.get_log("performance"))
        return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]

    def noise(self) -> list[str]:
        """Lines on the console, and requests to elsewhere, since the last time."""
        return self.console() + [url for url in self.requests() if not url.startswith((self.origin + "/", "data:"))]
