# SPDX-License-Identifier: GPL-2.0-or-later
"""One value as TOML gives it to one as a section wants it; ValueError with a sentence for what it is not.

Not here: ranges (`config.sections`), tables and what holds between keys (`config.reading`).
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Use
from ddtb6.config.sections import meant


def listed(values: typing.Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"must be text in quotes, not {_shown(raw)}")
    return raw


def _path(raw: object) -> Path:
    text = _text(raw)
    if not text or "\0" in text:
        raise ValueError("must be a path")
    return Path(text)


def _whole(raw: object) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise ValueError(f"must be a whole number, not {_shown(raw)}")
    return raw


def _number(raw: object) -> float:
    if not isinstance(raw, int | float) or isinstance(raw, bool) or not math.isfinite(raw):
        raise ValueError(f"must be a number, not {_shown(raw)}")
    return float(raw)


def _address(raw: object) -> IPv6Address:
    text = _text(raw)
    try:
        address = IPv6Address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IPv6 address') from None
    if address.scope_id:
        raise ValueError(f'"{text}" has a scope; give the address alone')
    return address


def _network(raw: object) -> IPv6Network:
    text = _text(raw)
    try:
        network = IPv6Network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is not an IPv6 prefix such as 2001:db8:1::/48') from None
    if "/" not in text:
        raise ValueError(f'"{text}" lacks its length, such as /48')
    if IPv6Address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f'"{text}" has bits set after its length; did you mean {network}?')
    return network


def _endpoint(raw: object) -> Endpoint:
    """Raises ValueError. ``192.0.2.1:3653`` or ``[2001:db8::1]:3653``."""
    text = _text(raw)
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f'"{text}" is not like "192.0.2.1:3653" or "[2001:db8::1]:3653"') from None
    if (address.version == 6) is not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f'"{text}": brackets go around an IPv6 address, and only there')
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(f'"{text}": the port must be 1 to 65535')
    return Endpoint(str(address), int(port))


def _use(raw: object) -> Use:
    choices = [use.value for use in Use]
    if raw not in choices:
        raise ValueError(f"{_shown(raw)} is not one of {listed(choices)}{meant(str(raw), choices)}")
    return Use(raw)


def _flag(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"must be true or false, not {_shown(raw)}")
    return raw


def _address4(raw: object) -> IPv4Address:
    text = _text(raw)
    try:
        return IPv4Address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IPv4 address') from None


def _optional(convert: Callable[[object], Any]) -> Callable[[object], Any]:
    """Empty text is None."""
    return lambda raw: None if raw == "" else convert(raw)


def _items(item: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    def convert(raw: object) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise ValueError(f"must be a list in brackets, not {_shown(raw)}")
        return tuple(item(each) for each in raw)

    return convert


def _shown(raw: object) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, str):
        return f'"{raw}"'
    return str(raw) if isinstance(raw, int | float) else f"a {type(raw).__name__}"


_CONVERTERS: Mapping[Any, Callable[[object], Any]] = {
    str: _text,
    bool: _flag,
    Path: _path,
    Path | None: _optional(_path),
    int: _whole,
    int | None: _whole,
    float: _number,
    float | None: _number,
    Use: _use,
    IPv6Network: _network,
    IPv4Address | None: _optional(_address4),
    IPv6Address | None: _optional(_address),
    tuple[str, ...]: _items(_text),
    tuple[Endpoint, ...]: _items(_endpoint),
}


def convert_value(kind: object, raw: object) -> Any:
    """`raw`, as TOML gave it, as a value of `kind`. Raises ValueError with a sentence."""
    return _CONVERTERS[kind](raw)
