# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding live tunnels among very many, a page at a time.

Searching and sorting look at what the registry has anyway; views are made of the page alone. Newest or oldest first
without a search costs what lies before the page, anything else one look at each tunnel.
Not here: views (`tunnels`), past sessions (the store).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import islice
from typing import Any

from ddtb6.broker.registry import Live, Registry


class Sort(enum.Enum):
    """What a page is ordered by; of equals, the older first."""

    STARTED = "started"
    USER = "user"
    REMOTE = "remote"
    ADDRESS = "address"
    VERSION = "version"
    IN = "in"
    """Octets from the client, as of the last checkpoint."""
    OUT = "out"
    """The same to the client."""


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Which page of which tunnels in which order."""

    text: str = ""
    """Part of the user's name; an id; an inner address, also one inside the prefix; or how the outer endpoint begins.

    Empty: all.
    """
    user: str | None = None
    """Only that of this user."""
    sort: Sort = Sort.STARTED
    descending: bool = True
    offset: int = 0
    """How many of what was found come before the page."""
    limit: int = 100


_KEYS: Mapping[Sort, Callable[[Live], Any]] = {
    Sort.STARTED: lambda live: live.session.id,
    Sort.USER: lambda live: live.session.user or "",
    Sort.REMOTE: lambda live: live.session.spec.remote,
    Sort.ADDRESS: lambda live: int(live.session.spec.address),
    Sort.VERSION: lambda live: live.session.client_version,
    Sort.IN: lambda live: live.counted.octets_in,
    Sort.OUT: lambda live: live.counted.octets_out,
}


def find(registry: Registry, query: SessionQuery) -> tuple[int, list[Live]]:
    """How many there are, and those of the page."""
    first, beyond = query.offset, query.offset + query.limit
    text = query.text.strip()
    if query.user is not None:
        live = registry.of_owner(f"user:{query.user}")
        found = [live] if live is not None and (not text or _predicate(text)(live)) else []
    elif text:
        suits = _predicate(text)
        found = [live for live in registry if suits(live)]
    elif query.sort is Sort.STARTED:
        return len(registry), list(islice(registry.by_age(newest_first=query.descending), first, beyond))
    else:
        found = list(registry)
    found.sort(key=_KEYS[query.sort], reverse=query.descending)
    return len(found), found[first:beyond]


def _predicate(text: str) -> Callable[[Live], bool]:
    """Whether a tunnel is meant by `text`, which is not empty."""
    word = text.casefold()
    try:
        inner: int | None = int(IPv6Address(text.removesuffix("/128")))
    except ValueError:
        inner = None
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None
    # The outer endpoint as it is written, or its address alone; with a colon there may be a port behind it.
    outer, with_port = word, ":" in word and inner is None

    def suits(live: Live) -> bool:
        session = live.session
        if session.user is not None and word in session.user.casefold():
            return True
        spec = session.spec
        if inner is not None:
            if int(spec.address) == inner:
                return True
            prefix = spec.prefix
            if prefix is not None and inner & int(prefix.netmask) == int(prefix.network_address):
                return True
        remote = spec.remote
        if remote.address.startswith(outer) or (with_port and str(remote).startswith(outer)):
            return True
        return session.id == number

    return suits
