# SPDX-License-Identifier: GPL-2.0-or-later
"""Lease rules: which pools a request may draw from, and what TSP calls the domain's refusals.

Rules: an account keeps its address and prefix until they are released; anonymous clients get an address out of their
own pool and no prefix; prefix lengths are nibble-aligned, and exactly what was asked for or nothing.
Not here: which piece of a pool (`store`), the arithmetic (`addressing.pool`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Network

from ddtb6.addressing.pool import DELEGATED_LENGTHS, Pool, Use
from ddtb6.broker.planes import DataPlaneError
from ddtb6.broker.ports import HoldsOther, NotGrantable, PoolExhausted, Principal, UnknownPool
from ddtb6.tsp.messages import Create
from ddtb6.tsp.status import (
    NoMoreTunnels,
    PrefixForAnonymous,
    PrefixLengthUnavailable,
    ServerError,
    TspError,
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Names of the pools that a request may draw from, in the order to try them."""

    address: tuple[str, ...]
    prefix: tuple[str, ...]
    """Empty: no prefix was asked for."""

    def without(self, pool: str) -> Sources:
        """What is left when `pool` has nothing free. Raises NoMoreTunnels when nothing is."""
        left = Sources(
            tuple(each for each in self.address if each != pool), tuple(each for each in self.prefix if each != pool)
        )
        if not left.address or (self.prefix and not left.prefix):
            raise NoMoreTunnels
        return left


def sources(pools: Iterable[Pool], principal: Principal, create: Create) -> Sources:
    """Where a request draws from.

    What the authenticator named goes before what the client asked for. Raises PrefixForAnonymous,
    PrefixLengthUnavailable, NoMoreTunnels (no such pool), NotGrantable (the authenticator named what there is not).
    """
    pools = tuple(pools)
    terms = principal.terms
    length = create.prefix_length
    if length is not None and principal.anonymous:
        raise PrefixForAnonymous
    use = Use.ANONYMOUS if principal.anonymous else Use.ACCOUNTS
    address = _named(pools, use, terms.address_pool) or tuple(pool.name for pool in pools if pool.use is use)
    prefix: tuple[str, ...] = ()
    if length is not None:
        prefix = (
            _containing(pools, terms.prefix)
            or _named(pools, Use.PREFIXES, terms.prefix_pool)
            or tuple(pool.name for pool in pools if pool.use is Use.PREFIXES and pool.length == length)
        )
        if not prefix:
            raise PrefixLengthUnavailable(_offered_lengths(pools))
    if not address:
        raise NoMoreTunnels
    return Sources(address, prefix)


def _named(pools: Iterable[Pool], use: Use, name: str | None) -> tuple[str, ...]:
    if name is None:
        return ()
    if not any(pool.name == name and pool.use is use for pool in pools):
        raise NotGrantable(f'the authenticator named the pool "{name}", and no pool for {use.value} is called that')
    return (name,)


def _containing(pools: Iterable[Pool], prefix: IPv6Network | None) -> tuple[str, ...]:
    if prefix is None:
        return ()
    found = tuple(pool.name for pool in pools if pool.use is Use.PREFIXES and prefix.subnet_of(pool.block))
    if not found:
        raise NotGrantable(f"the authenticator named {prefix}, which is in no pool for prefixes")
    return found[:1]


def _offered_lengths(pools: Iterable[Pool]) -> str:
    lengths = sorted({pool.length for pool in pools if pool.use is Use.PREFIXES} & set(DELEGATED_LENGTHS))
    if not lengths:
        return "No prefixes are delegated here"
    return f"Prefix length not available, choose {', '.join(map(str, lengths))}"


def refusal(error: Exception) -> TspError | None:
    """What TSP says to a refusal of the domain; None: it is none, but a bug."""
    match error:
        case TspError():
            return error
        case PoolExhausted():
            return NoMoreTunnels()
        case HoldsOther():
            return PrefixLengthUnavailable(f"This account holds a /{error.lease.prefix.prefixlen}")
        case UnknownPool() | DataPlaneError() | NotGrantable():
            return ServerError()
    return None
