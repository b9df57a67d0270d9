# SPDX-License-Identifier: GPL-2.0-or-later
"""TOML text to `Config`; what is wrong with it, all at once, each error with its key.

Invariants: the order of tables and keys never matters; a value that was refused causes no second error elsewhere.
Not here: what may be said (`config.sections`), whether the machine can do it (`cli.doctor`).
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
import typing
from collections.abc import Mapping
from ipaddress import IPv6Network, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from ddtb6.addressing.pool import DELEGATED_LENGTHS, Pool, Use
from ddtb6.config.sections import (
    MECHANISMS,
    RADIUS_MODES,
    SECTIONS,
    AuthConfig,
    Config,
    PoolConfig,
    RadiusConfig,
    RadiusDynamicClientConfig,
    RadiusServerConfig,
    meant,
)
from ddtb6.config.values import convert_value, listed

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
    except FileNotFoundError:
        raise ConfigError([Problem("", f"{path} does not exist; `ddtb6 setup` writes it")]) from None
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


def radius_secret(name: str, server: RadiusServerConfig) -> bytes:
    """The shared secret of the server called `name`, read from its file where it stands there. Raises ConfigError."""
    return _secret(f"radius.server.{name}", server)


def radius_client_secret(name: str, client: RadiusDynamicClientConfig) -> bytes:
    """As `radius_secret`, of who may send requests for dynamic authorization. Raises ConfigError."""
    return _secret(f"radius.dynamic.client.{name}", client)


def _secret(key: str, table: RadiusServerConfig | RadiusDynamicClientConfig) -> bytes:
    path = table.secret_file
    if path is None:
        return table.secret.encode()
    try:
        line = path.read_bytes().partition(b"\n")[0].strip()
    except OSError as error:
        raise ConfigError([Problem(f"{key}.secret_file", f"{path} cannot be read: {error.strerror}")]) from None
    if not line:
        raise ConfigError([Problem(f"{key}.secret_file", f"{path} has an empty first line")])
    return line


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
    chain = config.auth.chain
    if {"local", "radius"} <= {*chain} and chain.index("radius") < chain.index("local"):
        words = "radius answers for every account: those of local cannot log in by what radius.modes judge"
        found.append(Problem("auth.chain", f"{words}; put local first"))
    if "radius" in chain and "ha1" in config.radius.modes:
        found.append(
            Problem("radius.modes", "ha1 lets the servers hand out what is as good as passwords; protect that path")
        )
    for name, server in config.radius_servers.items():
        if server.secret and len(server.secret) < 16:
            found.append(
                Problem(f"radius.server.{name}.secret", "is shorter than the 16 characters that RFC 2865 asks for")
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
        tables = dict(tables)
        servers = _take_out(tables, "radius", "server")
        tables["radius.dynamic"] = _take_out(tables, "radius", "dynamic")
        clients = _take_out(tables, "radius.dynamic", "client")
        sections = {name: self.section(name, kind, tables.get(name, {})) for name, kind in SECTIONS.items()}
        pools = self.pools(tables.get("pool", {}))
        radius_servers = self.radius_servers(servers, sections["radius"])
        radius_clients = self.radius_clients(clients)
        for name in tables.keys() - {*SECTIONS, "pool"}:
            what = "section" if isinstance(tables[name], dict) else "key outside of the sections"
            self.wrong(name, f"there is no such {what}{self.home(name, [*SECTIONS, 'pool'])}")
        auth = sections["auth"]
        assert isinstance(auth, AuthConfig)
        self.relations(auth, pools)
        self.radius(auth, sections["radius"], radius_servers)
        config = Config(
            **{name.replace(".", "_"): section for name, section in sections.items()},
            pools=pools,
            radius_servers=radius_servers,
            radius_dynamic_clients=radius_clients,
        )
        if config.radius_dynamic.listen and not servers and not clients:
            self.wrong("radius.dynamic.listen", "there is no [radius.server.NAME] and no [radius.dynamic.client.NAME]")
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
                value = convert_value(types[key], raw)
            except ValueError as error:
                self.wrong(path, "must be text in quotes" if fields[key].metadata.get("secret") else str(error))
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
            self.wrong(f"{key}.length", f"is missing; one of {listed(DELEGATED_LENGTHS)}")
        elif length not in DELEGATED_LENGTHS:
            self.wrong(f"{key}.length", f"{length} is not one of {listed(DELEGATED_LENGTHS)}")
        elif raw.block.prefixlen > length:
            self.wrong(f"{key}.block", f"{raw.block} is smaller than one /{length}")
        if len(self.problems) > known:
            return None
        quarantine = QUARANTINE[raw.use] if raw.quarantine is None else raw.quarantine
        return Pool(name, raw.block, raw.use, length or 128, quarantine)

    # --- RADIUS ---

    def radius_servers(self, tables: object, radius: RadiusConfig) -> dict[str, RadiusServerConfig]:
        if not isinstance(tables, dict):
            self.wrong("radius.server", "must be tables: [radius.server.NAME]")
            return {}
        known = len(self.problems)
        found = {name: server for name in sorted(tables) if (server := self.radius_server(name, tables[name]))}
        for name in radius.order:
            if name not in tables:
                self.wrong("radius.order", f'there is no server "{name}"{meant(name, tables)}')
        if radius.order:
            for name in tables.keys() - {*radius.order}:
                self.wrong("radius.order", f'leaves out "{name}"')
        if len(self.problems) > known:
            return found
        return {name: found[name] for name in radius.order or found}

    def radius_server(self, name: str, table: object) -> RadiusServerConfig | None:
        given = self.keeper_of_secret(f"radius.server.{name}", RadiusServerConfig, table)
        return None if given is None else RadiusServerConfig(**given)

    def radius_clients(self, tables: object) -> dict[str, RadiusDynamicClientConfig]:
        if not isinstance(tables, dict):
            self.wrong("radius.dynamic.client", "must be tables: [radius.dynamic.client.NAME]")
            return {}
        found: dict[str, RadiusDynamicClientConfig] = {}
        for name in sorted(tables):
            key = f"radius.dynamic.client.{name}"
            given = self.keeper_of_secret(key, RadiusDynamicClientConfig, tables[name])
            if given is None:
                continue
            if any(ip_address(each.address) == ip_address(given["address"]) for each in found.values()):
                self.wrong(f"{key}.address", f"{given['address']} is listed twice")
            else:
                found[name] = RadiusDynamicClientConfig(**given)
        return found

    def keeper_of_secret(self, key: str, kind: type, table: object) -> dict[str, Any] | None:
        """The keys of a table that has an address and a secret."""
        known = len(self.problems)
        given = self.values(key, kind, table)
        if "address" not in {*given, *(table if isinstance(table, dict) else ())}:
            self.wrong(f"{key}.address", "is missing")
        if len(self.problems) > known:
            return None
        if bool(given.get("secret")) is (given.get("secret_file") is not None):
            self.wrong(f"{key}.secret", "give either secret or secret_file")
            return None
        return given

    def radius(self, auth: AuthConfig, radius: RadiusConfig, servers: Mapping[str, RadiusServerConfig]) -> None:
        """What holds between the chain, the mechanisms and RADIUS."""
        refused = {problem.key.partition(".")[0] for problem in self.problems}
        if refused & {"auth", "radius"}:
            return
        judged = {RADIUS_MODES[mode] for mode in radius.modes}
        if "radius" in auth.chain:
            if not any(server.auth_port for server in servers.values()):
                self.wrong("radius.server", "auth.chain has radius, but there is no [radius.server.NAME] to ask")
            if not judged & {*auth.mechanisms}:
                modes = listed(radius.modes) or "nothing"
                self.wrong("radius.modes", f"auth.chain has radius, but {modes} judges none of auth.mechanisms")
        able = {
            "local": {"DIGEST-MD5", "PLAIN"},
            "radius": judged,
            "anonymous": {"ANONYMOUS"},
        }
        if auth.mechanisms != MECHANISMS:  # The default says what may be offered; a list of one's own is a promise.
            for mechanism in auth.mechanisms:
                if not any(mechanism in able[each] for each in auth.chain):
                    self.wrong("auth.mechanisms", f"nobody in auth.chain can judge {mechanism}")

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


def _take_out(tables: dict[str, Any], name: str, key: str) -> Any:
    """What `tables` has under `name` and `key`, which then is not there any more."""
    table = tables.get(name, {})
    if not isinstance(table, dict):
        return {}
    tables[name] = {each: value for each, value in table.items() if each != key}
    return table.get(key, {})
