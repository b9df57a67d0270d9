# SPDX-License-Identifier: GPL-2.0-or-later
"""Which back end of the firewall this machine gets.

``auto`` is iptables where legacy tables exist already (rules in both worlds are hard to keep track of) or nft is
absent, else nft. Whether the kernel then takes the rules is known only by `Backend.apply`.
Not here: the back ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ddtb6.firewall import iptables
from ddtb6.firewall.nft import NftFirewall, find_nft
from ddtb6.firewall.rules import Backend, FirewallError

_WITHOUT = "TCP MSS, signalling rate and connection tracking stay as they are"


class Choice(NamedTuple):
    """A back end, or None, and one sentence that says why."""

    backend: Backend | None
    why: str


def legacy_tables_exist() -> bool:
    """Whether a legacy table exists in this network namespace. False when that may not be known, which takes root."""
    return any(iptables.existing_tables(family) for family in (4, 6))


def choose(
    backend: str,
    *,
    nft_program: Callable[[], str | None] = find_nft,
    legacy: Callable[[], bool] = legacy_tables_exist,
    load_iptables: Callable[[], Backend] = iptables.load,
) -> Choice:
    """The back end for the setting `backend`: ``auto``, ``nft``, ``iptables`` or ``none``.

    Changes nothing. Importing python-iptables takes a quarter of a second: call it before there are packets to wait.
    The other arguments look at the machine. Raises ValueError for another setting.
    """
    match backend:
        case "none":
            return Choice(None, f"No firewall rules, because firewall.backend is none: {_WITHOUT}.")
        case "nft":
            return _nft(nft_program(), "firewall.backend says so")
        case "iptables":
            return _iptables(load_iptables, "firewall.backend says so")
        case "auto":
            pass
        case _:
            raise ValueError(f"{backend!r} is not a firewall back end: use auto, nft, iptables or none")
    program = nft_program()
    if program is None:
        found = _iptables(load_iptables, "nft is not installed")
        if found.backend is None:
            return Choice(
                None,
                f"No firewall rules: neither nft nor python-iptables can be used, so {_WITHOUT}. Install nftables "
                "(Debian: apt install nftables), or set firewall.backend to none to have it so.",
            )
        return found
    if legacy():
        found = _iptables(load_iptables, "the kernel has legacy tables already")
        if found.backend is not None:
            return found
        return _nft(program, "the kernel has legacy tables, but python-iptables cannot be used")
    return _nft(program, "the kernel has no legacy tables")


def _nft(program: str | None, why: str) -> Choice:
    if program is None:
        return Choice(
            None,
            f"No firewall rules: nft is not installed, so {_WITHOUT}. Install nftables (Debian: apt install nftables), "
            "or set firewall.backend to iptables or none.",
        )
    return Choice(NftFirewall(program), f"Firewall rules by nft ({program}): {why}.")


def _iptables(load: Callable[[], Backend], why: str) -> Choice:
    try:
        return Choice(load(), f"Firewall rules by python-iptables: {why}.")
    except FirewallError as error:
        return Choice(None, f"No firewall rules: {error}")
