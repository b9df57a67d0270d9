# SPDX-License-Identifier: GPL-2.0-or-later
"""The firewall by python-iptables: the kernel's older ("legacy") tables, changed through libiptc.

For machines whose rules are in those tables already, or that have no nft. Importing the library starts a dozen
processes and takes a quarter of a second, so `load` does that when this back end has been chosen and not before. It
needs CAP_NET_ADMIN and CAP_NET_RAW.
Invariants: a table is changed by one commit; nothing is left to the library's autocommit, which loses errors; rules of
ours are known by their comment; rules of others, and tables that we need not, are not touched.
Differences from nft: an IPv6 signalling datagram with extension headers is not counted, the match has no means to find
its payload; and while `SOURCES` sources are being counted, signalling of further ones is dropped.
Tables that libiptc made for us stay, empty, after `remove`: the kernel has no means to take them away.
Not here: what the rules are for (`rules`), whether these tables are the ones to use (`choose`).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ddtb6.firewall.rules import (
    BURST_SECONDS,
    IPV6_SOURCE_BITS,
    MARK,
    SOURCES,
    Clamp,
    FirewallError,
    Found,
    Limit,
    Plan,
    Rule,
    Untrack,
    compare,
    describe,
    rules_of,
)

_TABLES = (("raw", 4), ("raw", 6), ("mangle", 6))
_NAMES = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
_CHAINS = {"raw": ("PREROUTING", "OUTPUT"), "mangle": ("FORWARD",)}
_LOCK = "/run/xtables.lock"
_LOCK_TRIES, _LOCK_PAUSE = 8, 0.005  # seconds
# The octet whose high nibble says what a datagram is, as the last of the four that u32 reads: an index of 5 in the UDP
# header, after leaving out the IPv4 header by its length, or past an IPv6 header that UDP follows directly.
_NOT_SIX = "&0xF0=0:0x50,0x70:0xF0"
_SIGNALLING = {4: f"0>>22&0x3C@5{_NOT_SIX}", 6: f"4>>8&0xFF=17&&45{_NOT_SIX}"}
_SOURCE_BITS = {4: 32, 6: IPV6_SOURCE_BITS}

Parameters = Mapping[str, str | list[str]]
Match = tuple[str, Parameters]
_LOCAL: Match = ("addrtype", {"dst-type": "LOCAL"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One rule of one table, in the words of iptables(8) and iptables-extensions(8) without their leading dashes."""

    table: str
    family: int
    """4 or 6."""
    chain: str
    protocol: str
    matches: tuple[Match, ...]
    target: str
    label: str
    parameters: Parameters = field(default_factory=dict)
    """Of the target."""
    in_device: str = ""
    out_device: str = ""


def entries_of(rule: Rule) -> tuple[Entry, ...]:
    """The entries that `rule` takes, in both families where it concerns both."""
    match rule:
        case Clamp():
            device = {"out_device": rule.device} if rule.into_tunnel else {"in_device": rule.device}
            size: Parameters = {"clamp-mss-to-pmtu": ""} if rule.mss is None else {"set-mss": str(rule.mss)}
            syn: Parameters = {"tcp-flags": ["SYN,RST", "SYN"]}
            return (Entry("mangle", 6, "FORWARD", "tcp", (("tcp", syn),), "TCPMSS", rule.label, size, **device),)
        case Limit():
            return tuple(
                Entry("raw", family, "PREROUTING", rule.protocol, _limited(rule, family), "DROP", rule.label)
                for family in (4, 6)
            )
        case Untrack():
            chain = "PREROUTING" if rule.inbound else "OUTPUT"
            side = "destination-ports" if rule.inbound else "source-ports"
            matches = (_ports(side, rule.ports), _LOCAL) if rule.inbound else (_ports(side, rule.ports),)
            return tuple(
                Entry("raw", family, chain, "udp", matches, "CT", rule.label, {"notrack": ""}) for family in (4, 6)
            )


def _ports(side: str, ports: tuple[int, ...]) -> Match:
    return "multiport", {side: ",".join(map(str, ports))}


def _limited(rule: Limit, family: int) -> tuple[Match, ...]:
    kind: Match = (
        ("u32", {"u32": _SIGNALLING[family]})
        if rule.protocol == "udp"
        else ("tcp", {"tcp-flags": ["FIN,SYN,RST,ACK", "SYN"]})
    )
    hashlimit: Parameters = {
        "hashlimit-above": f"{rule.rate}/sec",
        "hashlimit-burst": str(rule.burst),
        "hashlimit-mode": "srcip",
        "hashlimit-srcmask": str(_SOURCE_BITS[family]),
        # Rules of one name share one allowance, with the figures of whichever came first: so they are in the name.
        "hashlimit-name": f"ddtb6-{rule.rate}",
        "hashlimit-htable-max": str(SOURCES),
        # Without it the kernel refuses the rule: iptables(8) has a default for it, the library has not.
        "hashlimit-htable-expire": str(BURST_SECONDS * 1000),
    }
    return _ports("destination-ports", rule.ports), kind, _LOCAL, ("hashlimit", hashlimit)


def existing_tables(family: int) -> frozenset[str] | None:
    """Names of the legacy tables of `family` (4 or 6) that exist in this namespace; None when one may not know."""
    try:
        with open(_NAMES[family]) as names:
            return frozenset(names.read().split())
    except FileNotFoundError:
        return frozenset()
    except OSError:
        return None


def load() -> IptablesFirewall:
    """Import the library. Raises FirewallError when it, libiptc or the iptables extensions are not there."""
    try:
        return IptablesFirewall(importlib.import_module("iptc"))
    except ImportError:
        raise FirewallError(
            "python-iptables is not installed: install it (Debian: python3-iptables; pip: ddtb6[iptables]), "
            "or set firewall.backend to nft or none."
        ) from None
    except Exception as error:  # OSError, XTablesError and others, as the library meets what is missing
        raise FirewallError(
            f"python-iptables does not work here ({_plain(error)}): install iptables, "
            "or set firewall.backend to nft or none."
        ) from None


class IptablesFirewall:
    """The legacy tables' back end, see `rules.Backend`."""

    name = "iptables"

    def __init__(self, iptc: Any) -> None:
        """`iptc`: the imported library."""
        self._iptc = iptc
        # To find out whether a target is a chain, the library's own rules open, and thereby make, every table there is.
        own_table = {"tables": property(lambda rule: [rule.chain.table])}
        self._rule = {4: type("Rule4", (iptc.Rule,), own_table), 6: type("Rule6", (iptc.Rule6,), own_table)}

    def apply(self, plan: Plan) -> None:
        wanted = [entry for rule in rules_of(plan) for entry in entries_of(rule)]
        with _lock():
            try:
                for name, family in _TABLES:
                    with self._errors(name, family):
                        entries = [entry for entry in wanted if (entry.table, entry.family) == (name, family)]
                        self._replace(self._open(name, family), family, entries)
            except FirewallError:
                with contextlib.suppress(FirewallError):
                    self._remove()
                raise

    def remove(self) -> None:
        with _lock():
            self._remove()

    def status(self) -> str:
        places: dict[str, list[Found]] = {"IPv4": [], "IPv6": []}
        for name, family in self._made():
            with self._errors(name, family):
                table = self._open(name, family)
                for chain in _CHAINS[name]:
                    places[f"IPv{family}"] += [_found(rule) for rule in self._ours(table, family, chain)]
        return describe(self.name, places)

    def _made(self) -> Iterator[tuple[str, int]]:
        for name, family in _TABLES:
            existing = existing_tables(family)
            if existing is None or name in existing:
                yield name, family

    def _remove(self) -> None:
        for name, family in self._made():
            with self._errors(name, family):
                self._replace(self._open(name, family), family, ())

    def _open(self, name: str, family: int) -> Any:
        kind = self._iptc.Table if family == 4 else self._iptc.Table6
        table = kind(name, autocommit=False)
        table.refresh()  # the library keeps one object per table, with the rules as they were when it was last read
        return table

    def _replace(self, table: Any, family: int, entries: Iterable[Entry]) -> None:
        entries = list(entries)
        changed = bool(entries)
        for name in _CHAINS[table.name]:
            chain = self._iptc.Chain(table, name)
            for rule in list(self._ours(table, family, name)):
                chain.delete_rule(rule)
                changed = True
            for position, entry in enumerate(each for each in entries if each.chain == name):
                chain.insert_rule(self._build(chain, entry), position)
        if not changed:
            return
        table.commit()
        table.refresh()
        there = (_comment(rule) for name in _CHAINS[table.name] for rule in self._ours(table, family, name))
        compare((entry.label for entry in entries), there)

    def _ours(self, table: Any, family: int, chain_name: str) -> Iterator[Any]:
        chain = self._iptc.Chain(table, chain_name)
        raw = table.first_rule(chain_name)
        while raw:
            rule = self._rule[family](raw, chain)
            if _comment(rule).startswith(MARK):
                yield rule
            raw = table.next_rule(raw)

    def _build(self, chain: Any, entry: Entry) -> Any:
        rule = self._rule[entry.family](chain=chain)
        rule.protocol = entry.protocol
        if entry.in_device:
            rule.in_interface = entry.in_device
        if entry.out_device:
            rule.out_interface = entry.out_device
        for name, parameters in (*entry.matches, ("comment", {"comment": entry.label})):
            match = rule.create_match(name)
            for key, value in parameters.items():
                match.set_parameter(key, value)
        target = rule.create_target(entry.target)
        for key, value in entry.parameters.items():
            target.set_parameter(key, value)
        return rule

    @contextlib.contextmanager
    def _errors(self, table: str, family: int) -> Iterator[None]:
        """What the library raises, in sentences."""
        where = f"the {'IPv4' if family == 4 else 'IPv6'} table {table}"
        try:
            yield
        except FirewallError:
            raise
        except self._iptc.IPTCError as error:
            said = _plain(error)
            if "Permission denied" in said:
                raise FirewallError(
                    f"iptables may not open {where} ({said}): run ddtb6 with the capabilities CAP_NET_ADMIN and "
                    "CAP_NET_RAW, or set firewall.backend to nft (which needs the first only) or none."
                ) from None
            if "can't initialize" in said:
                raise FirewallError(
                    f"The kernel does not have {where} ({said}): load the module "
                    f"ip{'' if family == 4 else '6'}table_{table}, or set firewall.backend to nft or none."
                ) from None
            raise FirewallError(
                f"The kernel refused the rules for {where} ({said}): it may lack one of xt_hashlimit, xt_u32, "
                "xt_addrtype, xt_multiport, xt_TCPMSS and xt_CT; load them, or set firewall.backend to nft or none."
            ) from None
        except Exception as error:  # XTablesError, ValueError, AttributeError: the extensions do not fit the library
            raise FirewallError(
                f"python-iptables cannot write the rules for {where} ({_plain(error)}): install the iptables that "
                "belongs to it, or set firewall.backend to nft or none."
            ) from None


def _comment(rule: Any) -> str:
    for match in rule.matches:
        if match.name == "comment":
            return str(match.comment)
    return ""


def _found(rule: Any) -> Found:
    return Found(_comment(rule), rule.get_counters()[0] if rule.target.name == "DROP" else None)


def _plain(error: Exception) -> str:
    """The library formats the C library's octet strings as Python writes them."""
    return str(error).replace("b'", "").replace("'", "").strip()[:200] or type(error).__name__


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock of the iptables programs: who writes a table writes all of it, also rules it did not mean.

    The lock file belongs to root: a daemon under its own account works without, as the library always does.
    """
    try:
        fd = os.open(_LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
        else:
            raise FirewallError(
                f"Another program is changing iptables rules ({_LOCK} is held): restart ddtb6 after it."
            )
        yield
    finally:
        os.close(fd)
