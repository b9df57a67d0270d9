# SPDX-License-Identifier: GPL-2.0-or-later
"""What `ddtb6 setup` makes of a machine and of answers: an addressing plan, and the files to write.

Invariants: pools never overlap each other or a network that is on a device of this machine; nothing here looks at the
machine or changes it.
Not here: who is asked and what is written where (`cli.setup`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path
from typing import NamedTuple

from ddtb6.addressing.pool import DELEGATED_LENGTHS, Pool, Use
from ddtb6.config.sample import HEADING, Table, written

LINK = 64
"""Length of the blocks that single addresses come from, where there is room for that."""
SMALLEST = 124
"""Longest block of addresses that is of any use."""
SYSCTL_FILE = Path("/etc/sysctl.d/60-ddtb6.conf")
USERS = ("local", "radius", "both")


class PlanError(ValueError):
    """There is no plan for that; the message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found on it."""

    outer: tuple[str, ...] = ()
    """Its IPv4 addresses, the likeliest first."""
    on_link: tuple[tuple[IPv6Network, str], ...] = ()
    """IPv6 networks and the devices that are in them."""
    routed: tuple[IPv6Network, ...] = ()
    """Blocks that it answers with "unreachable", as one does with space that is routed to a machine."""
    uplink: str = ""
    """Device of the IPv6 default route; empty: there is none."""
    advertised: bool = False
    """The default route was learnt from router advertisements, to which a router does not listen."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the operator wants."""

    outer: str
    """IPv4 address at which clients reach the broker."""
    block: IPv6Network
    length: int
    """Of delegated prefixes; 0: clients get an address and no prefix."""
    anonymous: bool = False
    users: str = "local"
    """One of `USERS`."""
    radius_server: str = ""
    radius_secret_file: Path | None = None


class File(NamedTuple):
    """A file to be written."""

    path: Path
    text: str
    mode: int
    shared: bool
    """The daemon's group must be able to read it."""


def proposed_length(block: IPv6Network) -> int:
    """A prefix length of which half of `block` has 128 or more, or the longest; 0: it is too small to delegate from."""
    if block.prefixlen >= LINK:
        return 0
    return next((each for each in DELEGATED_LENGTHS[2:] if each - block.prefixlen >= 8), LINK)


def carve(block: IPv6Network, length: int, *, anonymous: bool, taken: Iterable[IPv6Network] = ()) -> list[Pool]:
    """Pools out of `block`: addresses from its beginning, prefixes from its end. Raises PlanError.

    Networks that are `taken` are left alone.
    """
    used = [each for each in taken if each.overlaps(block)]
    around = next((each for each in used if block.subnet_of(each)), None)
    if around is not None:
        raise PlanError(
            f"{block} is a network this machine is in, where its neighbours are; clients need a block of their own, "
            "routed to this machine: ask your provider for one"
        )
    if length and length not in DELEGATED_LENGTHS:
        raise PlanError(f"{length} is not one of {', '.join(map(str, DELEGATED_LENGTHS))}, or 0 for none")
    if length and length <= block.prefixlen:
        raise PlanError(f"{block} has no room for addresses and for prefixes of /{length}; choose longer ones, or 0")
    pools = []
    link = LINK if block.prefixlen < LINK else block.prefixlen + int(anonymous)
    if link > SMALLEST:
        raise PlanError(f"{block} is too small; a /48 is good, a /64 will do")
    uses = [("links", Use.ACCOUNTS), *([("guests", Use.ANONYMOUS)] if anonymous else [])]
    for name, use in uses:
        piece = _free(block, link, used)
        if piece is None:
            raise PlanError(f"{block} has no /{link} left for {name}")
        pools.append(Pool(name, piece, use, 128))
        used.append(piece)
    if length:
        sizes = range(block.prefixlen + 1, length + 1)
        homes = next(filter(None, (_free(block, size, used, backwards=True) for size in sizes)), None)
        if homes is None:
            raise PlanError(f"{block} has no room for prefixes of /{length}; choose longer ones, or 0 for none")
        pools.append(Pool("homes", homes, Use.PREFIXES, length))
    return pools


def _free(
    block: IPv6Network, length: int, used: Sequence[IPv6Network], *, backwards: bool = False
) -> IPv6Network | None:
    """The first piece of `block`, or the last, that overlaps nothing used."""
    step = 1 << (128 - length)
    low, high = int(block.network_address), int(block.broadcast_address) + 1
    at = high - step if backwards else low
    while low <= at < high:
        piece = IPv6Network((at, length))
        hit = next((each for each in used if each.overlaps(piece)), None)
        if hit is None:
            return piece
        if backwards:
            at = int(hit.network_address) // step * step - step
        else:
            at = (int(hit.broadcast_address) // step + 1) * step
    return None


def explained(pools: Iterable[Pool]) -> list[tuple[str, str, str]]:
    """Block, use and amount of each pool, in words."""
    words = {
        Use.ACCOUNTS: "an address for each account",
        Use.ANONYMOUS: "an address for each client without one",
        Use.PREFIXES: "prefixes for accounts",
    }
    return [
        (
            str(pool.block),
            words[pool.use],
            f"{pool.capacity} of /{pool.length}" if pool.use is Use.PREFIXES else "plenty",
        )
        for pool in pools
    ]


def files(answers: Answers, machine: Machine, pools: Iterable[Pool], config: Path) -> list[File]:
    """What to write: the configuration at `config`, and the sysctl that makes a router of the machine."""
    return [
        File(config, _configuration(answers, pools), 0o640, True),
        File(SYSCTL_FILE, _sysctl(machine), 0o644, False),
    ]


def settings(machine: Machine) -> list[tuple[str, str]]:
    """Sysctls in the order in which they must be set: advertisements are believed before forwarding is on."""
    found = [("net/ipv6/conf/all/forwarding", "1")]
    if machine.advertised:
        found.insert(0, (f"net/ipv6/conf/{machine.uplink}/accept_ra", "2"))
    return found


def _configuration(answers: Answers, pools: Iterable[Pool]) -> str:
    chain = ["local", "radius"] if answers.users == "both" else [answers.users]
    tables = [Table("auth", {"chain": [*chain, "anonymous"] if answers.anonymous else chain})]
    if answers.users != "local":
        server = {"address": answers.radius_server, "secret_file": answers.radius_secret_file}
        tables.append(Table("radius.server.one", server))
    for pool in pools:
        values = {"block": pool.block, "use": pool.use}
        tables.append(Table(f"pool.{pool.name}", values | ({"length": pool.length} if pool.length < 128 else {})))
    return written(tables, f"{HEADING} Written by `ddtb6 setup`; clients reach this broker at {answers.outer}.")


def _sysctl(machine: Machine) -> str:
    lines = ["# Written by `ddtb6 setup`: a tunnel broker is an IPv6 router."]
    if machine.advertised:
        lines.append(f"# {machine.uplink} has its default route by advertisement, to which a router does not listen.")
    return "\n".join(lines + [f"{key} = {value}" for key, value in settings(machine)]) + "\n"
