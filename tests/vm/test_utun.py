# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel module: that it builds, that it is what its interface says, and that it keeps its promises.

What runs inside is in `guest`, one boot of each kernel for the lot. ``DDTB6_VM_KERNELS="cloud 6.12-cloud"`` names the
kernels to boot.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.capabilities import need_program, unavailable
from support.vm import MODULE, TREE, Outcome, build_utun, run
from support.vm_kernel import NoKernel, kernel

pytestmark = [pytest.mark.vm, pytest.mark.slow]

KERNELS = os.environ.get("DDTB6_VM_KERNELS", "cloud").split()
PYTEST = ["-B", "-m", "pytest", "-p", "no:cacheprovider", "-s", "--durations=8"]
WHOLE = ["tests/conformance", "tests/vm/guest", "-k", "utun or guest"]
"""The conformance suite of the data-plane port over utun, then all of `guest`, whose last file unloads the module."""
MODULE_ALONE = ["tests/vm/guest", *(f"--ignore=tests/vm/guest/test_{each}.py" for each in ("plane", "service"))]
"""Under the kernels behind the first; the daemon's side is the same on all."""


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[tuple[Outcome, Path]]]]:
    """All machines, started together: none of them uses much more than one processor."""

    def boot(name: str) -> tuple[Outcome, Path]:
        which = kernel(name)
        module = build_utun(which)
        said = tmp_path_factory.mktemp(name) / "said"
        with said.open("wb", buffering=0) as out:
            outcome = run(
                which,
                [sys.executable, *PYTEST, *(WHOLE if name == KERNELS[0] else MODULE_ALONE)],
                utun=module,
                environment={"DDTB6_REQUIRE": "netns"},
                time_limit=1500,
                out=out,
                err=out,
            )
        return outcome, said

    with contextlib.chdir(TREE), ThreadPoolExecutor(len(KERNELS)) as pool:
        yield {name: pool.submit(boot, name) for name in KERNELS}


@pytest.mark.parametrize("name", KERNELS)
def test_all_promises_under_a_stock_kernel(name: str, guests: dict[str, Future[tuple[Outcome, Path]]]) -> None:
    try:
        outcome, said = guests[name].result()
    except NoKernel as fault:
        unavailable("vm", str(fault))
    print(said.read_text(errors="replace"))
    assert outcome.status == 0, f"the suite failed under {name}; what it said stands below"
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
