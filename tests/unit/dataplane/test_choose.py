# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Callable

import pytest

from ddtb6.broker.planes import DataPlaneError
from ddtb6.cli import doctor
from ddtb6.dataplane import choose as planes
from ddtb6.dataplane import utun
from ddtb6.dataplane.choose import choose
from ddtb6.dataplane.device import open_tun
from ddtb6.dataplane.genetlink import Family, find_family

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretends to have this version of the module, the capability, a TUN device."""

    def be(version: int | None, *, capable: bool = True, tun: str | None = None) -> None:
        monkeypatch.setattr(utun, "find_family", lambda name: None if version is None else Family(99, version))
        monkeypatch.setattr(planes, "may_administer", lambda: capable)
        monkeypatch.setattr(planes, "why_no_tun", lambda: tun)

    return be


def test_memory_always_works_and_says_that_it_carries_nothing() -> None:
    choice = choose("memory")
    assert choice.kind == "memory"
    assert "no packets" in choice.reason


def test_the_module_is_taken_where_it_is(machine: Machine) -> None:
    machine(1, tun="no tun here: mend it")
    assert choose("auto").kind == "utun"
    assert "kernel" in choose("auto").reason
    assert (choose("utun").kind, choose("utun").reason) == ("utun", "it is configured")
    assert doctor.data_plane("auto").state is doctor.State.OK


LACKING = {
    "module": ((None, True), "the utun module is not loaded", "modprobe utun", doctor.State.OK),
    "newer module": ((2, True), "the utun module speaks version 2", "from one release", doctor.State.WARN),
    "right": ((1, False), "the utun module needs CAP_NET_ADMIN", "run as root", doctor.State.WARN),
}


@pytest.mark.parametrize("what", LACKING)
def test_why_it_is_not_the_module_and_what_to_do(machine: Machine, what: str) -> None:
    (version, capable), why, remedy, state = LACKING[what]
    machine(version, capable=capable)
    choice = choose("auto")
    assert choice.kind == "tun"
    assert choice.reason.startswith(why)
    assert remedy in choice.better
    finding = doctor.data_plane("auto")
    assert (finding.state, why in finding.sentence) == (state, True)
    assert remedy in f"{finding.sentence} {finding.remedy}".lower()
    with pytest.raises(DataPlaneError, match=rf'{why}.*{remedy}.*; or set dataplane\.kind to "auto"'):
        choose("utun")
    machine(version, capable=capable, tun="/dev/net/tun is missing: load the tun module")
    with pytest.raises(DataPlaneError, match=rf"{why}.*; and /dev/net/tun is missing"):
        choose("auto")
    assert doctor.data_plane("auto").state is doctor.State.FAIL


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataPlaneError, match=r'no data plane "wire".*"auto", "utun", "tun" or "memory"'):
        choose("wire")


def test_a_family_that_every_kernel_has_is_found() -> None:
    found = find_family("nlctrl")
    assert found is not None
    assert (found.id, found.version) == (16, 2)
    assert find_family("ddtb6-none") is None


@pytest.mark.parametrize("name", ["", "sixteen-letters-", "a b", "a/b", "a%d", "tab\t"])
def test_what_cannot_name_a_device_is_refused_before_anything_is_opened(name: str) -> None:
    with pytest.raises(DataPlaneError, match="cannot name a device"):
        open_tun(name)
