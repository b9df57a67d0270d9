# SPDX-License-Identifier: GPL-2.0-or-later
"""Skip policy and hypothesis profiles. No fixtures with behaviour live here: see `support`."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from support.capabilities import PROBES, unavailable

# Machines that run this are shared and noisy: no example is failed for being slow.
settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", parent=settings.get_profile("dev"), max_examples=15)
settings.register_profile("ci", parent=settings.get_profile("dev"), max_examples=500)
settings.register_profile("night", parent=settings.get_profile("dev"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for capability, probe in PROBES.items():
        if item.get_closest_marker(capability) is not None and (why := probe()) is not None:
            unavailable(capability, why)
