# SPDX-License-Identifier: GPL-2.0-or-later
"""TOML text to `Config`; what is wrong with it, all at once, each error with its key.

Invariants: the order of tables and keys never matters; a value that was refused causes no second error elsewhere.
Not here: what may be said (`config.sections`), whether the machine can do it (`cli.doctor`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
import typing
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import DELEGATED_LENGTHS, Pool, Use
from ddtb6.config.sections import SECTIONS, AuthConfig, Config, PoolConfig, meant

DAY = 86400.0
QUARANTINE = {Use.ACCOUNTS: 7 * DAY, Use.PREFIXES: 7 * DAY, Use.ANONYMOUS: 600.0}
"""Seconds of rest where a pool does not say."""

DOCUMENTATION = (IPv6Network("2001:db8::/32"), IPv6Network("3fff::/20"))
UNIQUE_LOCAL = IPv6Network("fc00::/7")
GLOBAL = IPv6Network("2000::/3")


class Problem(NamedTuple):
    """What is wrong with a key."""

    key: str
    """Such as ``pool.home56.length``; empty: the file as a whole."""
    sentence: str

    def __str__(self) -> str:
        return f"{self.key}: {self.sentence}" if self.key else self.sentence


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has every reason."""

    def __init__(self, problems: typing.Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def load(path: Path) -> Config:
    """The configuration in the file at `path`. Raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError([Problem("", f"{path} cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem("", f"{path} is not UTF-8 text")]) from None
    return parse(text)


def parse(text: str) -> Config:
    """The configuration that `text` says. Raises ConfigError with every error there is."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem("", f"not TOML: {error}")]) from None
    reader = _Reader()
    config = reader.config(tables)
    if reader.problems:
        raise ConfigError(sorted(reader.problems))
    return config


def cautions(config: Config) -> list[Problem]:
    """What works but is hardly meant. A state directory with a relative path marks a trial, where any space will do."""
    found = []
    if config.server.state.is_absolute():
        for pool in config.pools.values():
            key, block = f"pool.{pool.name}.block", pool.block
            if any(block.overlaps(each) for each in DOCUMENTATION):
                found.append(Problem(key, f"{block} is documentation space that nobody routes; use your own prefix"))
            elif block.overlaps(UNIQUE_LOCAL):
                found.append(Problem(key, f"{block} is unique local space (RFC 4193), not routed on the Internet"))
            elif not block.subnet_of(GLOBAL):
                found.append(Problem(key, f"{block} is not global unicast space (2000::/3)"))
    if config.tunnel.idle_limit and not config.tunnel.keepalive:
        found.append(
            Problem("tunnel.keepalive", "0 means no keepalives, so tunnels that are merely quiet will end as idle")
        )
    if config.dataplane.kind == "memory":
        found.append(Problem("dataplane.kind", "memory carries no packets; it is for tests"))
    if not any(pool.use is Use.PREFIXES for pool in config.pools.values()):
        found.append(Problem("pool", "there is no pool with use = prefixes, so every wish for a prefix gets 507"))
    return found


class _Reader:
    """Reads all it can and remembers what it could not."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, key: str, sentence: str) -> None:
        self.problems.append(Problem(key, sentence))

    def config(self, tables: Mapping[str, Any]) -> Config:
        sections = {name: self.section(name, kind, tables.get(name, {})) for name, kind in SECTIONS.items()}
        pools = self.pools(tables.get("pool", {}))
        for name in tables.keys() - {*SECTIONS, "pool"}:
            what = "section" if isinstance(tables[name], dict) else "key outside of the sections"
            self.wrong(name, f"there is no such {what}{self.home(name, [*SECTIONS, 'pool'])}")
        auth = sections["auth"]
        assert isinstance(auth, AuthConfig)
        self.relations(auth, pools)
        config = Config(**sections, pools=pools)
        if not config.listen.udp and not config.listen.tcp:
            self.wrong("listen", "neither udp nor tcp has an address; no client could reach the broker")
        return config

    def section(self, name: str, kind: type, table: object) -> Any:
        """An instance of the dataclass `kind`; with a default for what was refused."""
        given = self.values(name, kind, table)
        return kind(**given)

    def values(self, name: str, kind: type, table: object) -> dict[str, Any]:
        """The keys of `table` that are right, converted."""
        if not isinstance(table, dict):
            self.wrong(name, f"must be a table: [{name}]")
            return {}
        types = typing.get_type_hints(kind)
        fields = {each.name: each for each in dataclasses.fields(kind)}
        given = {}
        for key, raw in table.items():
            path = f"{name}.{key}"
            if key not in fields:
                self.wrong(path, "there is no such key" + self.home(key, fields))
                continue
            try:
                value = _convert(types[key], raw)
            except ValueError as error:
                self.wrong(path, str(error))
                continue
            check = fields[key].metadata.get("check")
            sentence = check(value) if check and value is not None else None
            if sentence:
                self.wrong(path, sentence)
            else:
                given[key] = value
        return given

    def home(self, key: str, near: typing.Iterable[str]) -> str:
        """Where an unknown key was probably meant to stand."""
        belongs = [name for name, kind in SECTIONS.items() if key in {each.name for each in dataclasses.fields(kind)}]
        return f"; it belongs in [{belongs[0]}]" if belongs else meant(key, near)

    # --- pools ---

    def pools(self, tables: object) -> dict[str, Pool]:
        if not isinstance(tables, dict):
            self.wrong("pool", "must be tables: [pool.NAME]")
            return {}
        found = (self.pool(name, tables[name]) for name in sorted(tables))
        return {pool.name: pool for pool in found if pool}

    def pool(self, name: str, table: object) -> Pool | None:
        key = f"pool.{name}"
        known = len(self.problems)
        if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 32):
            self.wrong(key, "the name of a pool has 1 to 32 letters, digits, - and _")
        given = self.values(key, PoolConfig, table)
        for missing in {"block", "use"} - {*given, *(table if isinstance(table, dict) else ())}:
            self.wrong(f"{key}.{missing}", "is missing")
        if len(self.problems) > known:
            return None
        raw = PoolConfig(**given)
        length = raw.length
        if raw.use is not Use.PREFIXES:
            if length not in (None, 128):
                self.wrong(f"{key}.length", f"{length} makes no sense here: {raw.use.value} get one address each")
            if not GLOBAL.prefixlen <= raw.block.prefixlen <= 126:
                self.wrong(f"{key}.block", f"{raw.block} must be a /3 to /126; a /64 is usual")
            length = 128
        elif length is None:
            self.wrong(f"{key}.length", f"is missing; one of {_listed(DELEGATED_LENGTHS)}")
        elif length not in DELEGATED_LENGTHS:
            self.wrong(f"{key}.length", f"{length} is not one of {_listed(DELEGATED_LENGTHS)}")
        elif raw.block.prefixlen > length:
            self.wrong(f"{key}.block", f"{raw.block} is smaller than one /{length}")
        if len(self.problems) > known:
            return None
        quarantine = QUARANTINE[raw.use] if raw.quarantine is None else raw.quarantine
        return Pool(name, raw.block, raw.use, length or 128, quarantine)

    def relations(self, auth: AuthConfig, pools: Mapping[str, Pool]) -> None:
        """What holds between keys."""
        for one, other in itertools.combinations(pools.values(), 2):
            if one.block.overlaps(other.block):
                self.wrong(f"pool.{other.name}.block", f"{other.block} overlaps {one.block} of pool.{one.name}")
        refused = {problem.key.partition(".")[0] for problem in self.problems}
        if refused & {"auth", "pool"}:
            return
        uses = {pool.use for pool in pools.values()}
        if not auth.chain:
            self.wrong("auth.chain", "is empty; nobody could log in")
        if not auth.mechanisms:
            self.wrong("auth.mechanisms", "is empty; nobody could log in")
        if auth.chain != ("anonymous",) and Use.ACCOUNTS not in uses:
            self.wrong("pool", "there is no pool with use = accounts, so nobody who logs in would get an address")
        if "anonymous" in auth.chain:
            if Use.ANONYMOUS not in uses:
                self.wrong("pool", "auth.chain has anonymous, but there is no pool with use = anonymous")
            if "ANONYMOUS" not in auth.mechanisms:
                self.wrong("auth.mechanisms", "auth.chain has anonymous, which needs the mechanism ANONYMOUS")
        if "local" in auth.chain and not {"DIGEST-MD5", "PLAIN"} & {*auth.mechanisms}:
            self.wrong("auth.mechanisms", "auth.chain has local, which needs DIGEST-MD5 or PLAIN")


# --- values -------------------------------------------------------------------------------------------------------


def _listed(values: typing.Iterable[object]) -> str:
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
        raise ValueError(f"{_shown(raw)} is not one of {_listed(choices)}{meant(str(raw), choices)}")
    return Use(raw)


def _optional_address(raw: object) -> IPv6Address | None:
    return None if raw == "" else _address(raw)


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
    Path: _path,
    int: _whole,
    int | None: _whole,
    float: _number,
    float | None: _number,
    Use: _use,
    IPv6Network: _network,
    IPv6Address | None: _optional_address,
    tuple[str, ...]: _items(_text),
    tuple[Endpoint, ...]: _items(_endpoint),
}


def _convert(kind: object, raw: object) -> Any:
    """`raw`, as TOML gave it, as a value of `kind`. Raises ValueError with a sentence."""
    return _CONVERTERS[kind](raw)
