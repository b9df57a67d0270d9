# SPDX-License-Identifier: GPL-2.0-or-later
"""Which back end is chosen on which machine, and what is said when there is none."""

from __future__ import annotations

import pytest

from ddtb6.firewall.choose import Choice, choose
from ddtb6.firewall.nft import NftFirewall
from ddtb6.firewall.rules import Backend, FirewallError, Plan


class Iptables:
    """Stands for a python-iptables that works."""

    name = "iptables"

    def apply(self, plan: Plan) -> None:
        raise AssertionError("choosing changes nothing")

    def remove(self) -> None:
        raise AssertionError("choosing changes nothing")

    def status(self) -> str:
        return ""


def on(setting: str, *, nft: bool, legacy: bool, library: bool) -> Choice:
    """The choice on a machine that has these."""

    def load() -> Backend:
        if library:
            return Iptables()
        raise FirewallError("python-iptables is not installed: install it.")

    return choose(
        setting, nft_program=lambda: "/usr/sbin/nft" if nft else None, legacy=lambda: legacy, load_iptables=load
    )


@pytest.mark.parametrize(
    ("setting", "nft", "legacy", "library", "name"),
    [
        ("auto", True, False, True, "nft"),
        ("auto", True, True, True, "iptables"),
        ("auto", True, True, False, "nft"),
        ("auto", False, False, True, "iptables"),
        ("auto", False, True, False, None),
        ("auto", False, False, False, None),
        ("nft", True, True, True, "nft"),
        ("nft", False, True, True, None),
        ("iptables", True, False, True, "iptables"),
        ("iptables", True, True, False, None),
        ("none", True, True, True, None),
    ],
)
def test_the_choice(setting: str, nft: bool, legacy: bool, library: bool, name: str | None) -> None:
    backend, why = on(setting, nft=nft, legacy=legacy, library=library)
    assert (None if backend is None else backend.name) == name
    assert why.endswith(".")
    assert why.count("\n") == 0
    assert why.startswith("No firewall rules") is (name is None)


def test_having_nothing_comes_with_a_hint() -> None:
    assert "apt install nftables" in on("auto", nft=False, legacy=False, library=False).why


def test_the_library_is_not_imported_where_nft_serves() -> None:
    def load() -> Backend:
        raise AssertionError("imported")

    found = choose("auto", nft_program=lambda: "/sbin/nft", legacy=lambda: False, load_iptables=load)
    assert isinstance(found.backend, NftFirewall)


def test_another_setting_is_an_error() -> None:
    with pytest.raises(ValueError, match="ufw"):
        on("ufw", nft=True, legacy=True, library=True)
