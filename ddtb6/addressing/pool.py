# SPDX-License-Identifier: GPL-2.0-or-later
"""Pools: a block of IPv6 space carved into equal pieces, each named by its index.

Allocation works on indices; prefixes exist only at the boundary.
Invariants: index and piece are inverse; reserved indices are never handed out.
Not here: which piece is free and who holds it (`store`), which pool a request may use (`broker.lease`).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network


class Use(enum.Enum):
    """What the pieces of a pool are for."""

    ACCOUNTS = "accounts"
    """Link addresses (/128) of logged-in clients."""
    ANONYMOUS = "anonymous"
    """Link addresses (/128) of anonymous clients."""
    PREFIXES = "prefixes"
    """Delegated prefixes."""


DELEGATED_LENGTHS = (48, 52, 56, 60, 64)
"""Nibble-aligned, so that each has exactly one reverse zone."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A block and how it is carved."""

    name: str
    block: IPv6Network
    use: Use
    length: int
    """Prefix length of a piece: 128 for addresses, one of `DELEGATED_LENGTHS` for prefixes."""
    quarantine: float = 0.0
    """Seconds that a released piece rests before another owner may get it."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be carved; sentences for people come from `config.reading`."""
        lengths = DELEGATED_LENGTHS if self.use is Use.PREFIXES else (128,)
        if not self.name or self.length not in lengths or self.capacity < 1 or not 0 <= self.quarantine < math.inf:
            raise ValueError(f"no such pool is possible: {self}")

    @property
    def capacity(self) -> int:
        """How many pieces may be handed out, reserved ones left out."""
        return (1 << self.length >> self.block.prefixlen) - self.first

    @property
    def first(self) -> int:
        """The lowest index handed out. Address pools keep 0 (subnet-router anycast) and 1 (the broker's own end)."""
        return 0 if self.use is Use.PREFIXES else 2

    @property
    def broker_address(self) -> IPv6Address:
        """Our inner address on the link of an address pool: the block's first after the anycast address."""
        return self.block.network_address + 1

    def piece(self, index: int) -> IPv6Network:
        """The piece at `index`. Raises IndexError outside of the handed-out range."""
        if not self.first <= index < self.first + self.capacity:
            raise IndexError(f"index {index} is outside of pool {self.name}")
        return IPv6Network((int(self.block.network_address) + (index << (128 - self.length)), self.length))

    def index(self, piece: IPv6Network) -> int:
        """The inverse of `piece`. Raises ValueError for what is not a piece of this pool."""
        offset = int(piece.network_address) - int(self.block.network_address)
        index = offset >> (128 - self.length)
        if piece.prefixlen != self.length or not self.first <= index < self.first + self.capacity or offset < 0:
            raise ValueError(f"{piece} is not a piece of pool {self.name} ({self.block} in /{self.length}s)")
        return index
