# SPDX-License-Identifier: GPL-2.0-or-later
"""What this machine must have for a test, and what happens when it has not: a loud skip, or a failure.

``DDTB6_REQUIRE=netns,interop`` names the capabilities whose absence is a failure.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import NoReturn

import pytest

REQUIRE = "DDTB6_REQUIRE"


@functools.cache
def missing_netns() -> str | None:
    """Why network namespaces cannot be made here; None when they can."""
    if os.geteuid() != 0:
        return "not root: run the tests as root, or in a container that gives CAP_SYS_ADMIN and CAP_NET_ADMIN"
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            return f"the program {program} is missing: install iproute2 and util-linux"
    name = f"ddtb6-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"ip netns add: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


def missing_radius() -> str | None:
    """Why no FreeRADIUS can be started here; None when one can."""
    for program in ("freeradius", "radclient"):
        if shutil.which(program) is None:
            return f"the program {program} is missing: install freeradius and freeradius-utils"
    return None


def missing_vm() -> str | None:
    """Why no virtual machine can be started here; None when one can."""
    from support import vm

    return vm.missing()


def missing_deb() -> str | None:
    """Why packages cannot be built and installed in a root of their own here; None when they can."""
    from support import debian_root

    return missing_netns() or debian_root.missing()


def missing_browser() -> str | None:
    """Why no browser can be driven here; None when one can."""
    try:
        from support import chromium
    except ImportError as error:
        return f"{error}: pip install ddtb6[dev]"
    return missing_netns() or chromium.missing()


PROBES = {
    "browser": missing_browser,
    "deb": missing_deb,
    "netns": missing_netns,
    "radius": missing_radius,
    "vm": missing_vm,
}
"""Marker -> probe. Markers that are not here are judged by the test itself (`need_program`, `unavailable`)."""


def unavailable(capability: str, why: str) -> NoReturn:
    """End the running test: skipped, or failed when the capability is required."""
    if capability in os.environ.get(REQUIRE, "").replace(" ", "").split(","):
        pytest.fail(f"{REQUIRE} asks for {capability}, but {why}", pytrace=False)
    pytest.skip(f"{capability}: {why}")


def need_program(capability: str, program: str) -> str:
    """The path of `program`; ends the test as `unavailable` does when it is not installed."""
    path = shutil.which(program)
    if path is None:
        unavailable(capability, f"the program {program} is not installed")
    return path


def need_tun() -> None:
    """Ends the test as `unavailable` does when no TUN device can be opened."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        unavailable("netns", f"/dev/net/tun cannot be opened: {error.strerror}")
