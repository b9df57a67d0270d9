# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from ddtb6.broker.ports import DataPlaneError
from ddtb6.dataplane.choose import choose, genl_family_exists
from ddtb6.dataplane.device import open_tun


def test_memory_always_works_and_says_that_it_carries_nothing() -> None:
    choice = choose("memory")
    assert choice.kind == "memory"
    assert "no packets" in choice.reason


def test_utun_is_refused_with_a_remedy() -> None:
    with pytest.raises(DataPlaneError, match=r'the utun module is .*: set dataplane\.kind to "tun" or "auto"'):
        choose("utun")


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataPlaneError, match=r'no data plane "wire".*"auto", "tun" or "memory"'):
        choose("wire")


def test_a_family_that_every_kernel_has_is_found() -> None:
    assert genl_family_exists("nlctrl")
    assert not genl_family_exists("ddtb6-none")


@pytest.mark.parametrize("name", ["", "sixteen-letters-", "a b", "a/b", "a%d", "tab\t"])
def test_what_cannot_name_a_device_is_refused_before_anything_is_opened(name: str) -> None:
    with pytest.raises(DataPlaneError, match="cannot name a device"):
        open_tun(name)
