# SPDX-License-Identifier: GPL-2.0-or-later
"""The difference between the tunnels that should be and those that are, as a computation on values.

Not here: carrying it out (`broker.broker`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ddtb6.tunnel.spec import TunnelId, TunnelSpec


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do, lowering first: a tunnel to be raised may need what a stale one still has."""

    lower: tuple[TunnelId, ...]
    raise_: tuple[TunnelSpec, ...]
    kept: int


def changes(desired: Iterable[TunnelSpec], actual: Iterable[TunnelSpec]) -> Changes:
    """What turns `actual` into `desired`; applying it once leaves nothing more to do."""
    wanted = {spec.id: spec for spec in desired}
    there = {spec.id: spec for spec in actual}
    return Changes(
        lower=tuple(each for each in there if each not in wanted),
        raise_=tuple(spec for each, spec in wanted.items() if there.get(each) != spec),
        kept=sum(1 for each, spec in wanted.items() if there.get(each) == spec),
    )
