# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel module: that it builds, that it is what its interface says, and that it keeps its promises.

What runs inside is in `guest`, one boot for the lot. ``DDTB6_VM_KERNELS="cloud 6.12-cloud"`` names the kernels to boot.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.capabilities import need_program, unavailable
from support.vm import MODULE, TREE, build_utun, run
from support.vm_kernel import NoKernel, kernel

pytestmark = [pytest.mark.vm, pytest.mark.slow]

KERNELS = os.environ.get("DDTB6_VM_KERNELS", "cloud").split()
SUITE = [
    "-B",
    "-m",
    "pytest",
    "-p",
    "no:cacheprovider",
    "-s",
    "tests/conformance",
    "tests/vm/guest",
    "-k",
    "utun or guest",
]
"""The conformance suite of the data-plane port over utun, then all of `guest`, whose last file unloads the module."""


@pytest.mark.parametrize("name", KERNELS)
def test_all_promises_under_a_stock_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TREE)
    try:
        which = kernel(name)
        module = build_utun(which)
    except NoKernel as fault:
        unavailable("vm", str(fault))
    outcome = run(which, [sys.executable, *SUITE], utun=module, environment={"DDTB6_REQUIRE": "netns"}, time_limit=1500)
    assert outcome.status == 0, f"the suite failed under {which.version}; what it said stands above"
    assert outcome.faults == []


@pytest.mark.parametrize("what", ["style", "sparse"])
def test_the_source_is_clean(what: str) -> None:
    """As ``make -C kmod/utun check`` has it."""
    try:
        which = kernel(KERNELS[0])
    except NoKernel as fault:
        unavailable("vm", str(fault))
    if not which.headers.exists():
        unavailable("vm", f"there are no headers for {which.version}: install linux-headers-{which.version}")
    if what == "sparse":
        need_program("vm", "sparse")
    done = subprocess.run(
        ["make", "-C", MODULE, f"KDIR={which.headers}", what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr, done.stderr
