# SPDX-License-Identifier: GPL-2.0-or-later
"""Terms as text in the database: a JSON object of what is not left open.

Addresses and prefixes are text, octets hexadecimal. Names of a newer release are passed over.
Not here: what terms mean (`broker.ports`), how they are obeyed (`leases`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from ddtb6.broker.ports import NO_TERMS, Terms


def _as_it_is(value: Any) -> Any:
    return value


_WRITERS: Mapping[str, Callable[[Any], Any]] = {
    "address": str,
    "prefix": str,
    "routes": lambda networks: [str(each) for each in networks],
    "resolver": str,
    "account_class": lambda values: [each.hex() for each in values],
}
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "address": IPv6Address,
    "prefix": IPv6Network,
    "routes": lambda networks: tuple(map(IPv6Network, networks)),
    "resolver": IPv6Address,
    "account_class": lambda values: tuple(map(bytes.fromhex, values)),
    "filter_ids": tuple,
}
_OPEN = [
    (each.name, getattr(NO_TERMS, each.name), _WRITERS.get(each.name, _as_it_is)) for each in dataclasses.fields(Terms)
]
_NAMES = frozenset(name for name, _, _ in _OPEN)


def write(terms: Terms) -> str | None:
    """The text of `terms`; None when they leave everything open."""
    if terms is NO_TERMS:
        return None
    said = {name: writer(value) for name, default, writer in _OPEN if (value := getattr(terms, name)) != default}
    return json.dumps(said) if said else None


def read(text: str | None) -> Terms:
    """The inverse of `write`."""
    return NO_TERMS if text is None else from_json(json.loads(text))


def from_json(said: Mapping[str, Any] | None) -> Terms:
    """`read`, of a text that was decoded as part of another."""
    if not said:
        return NO_TERMS
    return Terms(**{name: _READERS.get(name, _as_it_is)(value) for name, value in said.items() if name in _NAMES})
