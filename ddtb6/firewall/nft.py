# SPDX-License-Identifier: GPL-2.0-or-later
"""The firewall by nftables: one script into ``nft -f -``, which the kernel takes whole or not at all.

Everything lives in a table of our own, ``inet ddtb6``; no other is written. Needs CAP_NET_ADMIN only.
The one module that starts a process: pyroute2 does not speak enough of nftables, and libnftables has no bindings that
pip could install.
Invariants: the arguments of the process are constants, the script goes in by standard input, and what is put in it was
checked by `rules.Plan`.
Not here: what the rules are for (`rules`), whether nft is the one to use (`choose`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

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

# "delete" fails on a table that is not there, "add" is content with one that is: together they replace in one go.
_REMOVE = "add table inet ddtb6\ndelete table inet ddtb6\n"
# Terse leaves out the sources being counted, whose number strangers decide. Not "list table": up to nft 1.0.6 at least,
# that fetches them all from the kernel nevertheless, a third of a second for SOURCES of them.
_LIST = ("--terse", "list", "ruleset", "inet")
_TABLE = re.compile(r"^table inet ddtb6 \{\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_RULE = re.compile(rf'^(?:.* counter packets (?P<dropped>\d+) .*)?.*? comment "(?P<label>{MARK}[^"]*)"$')
_PATIENCE = 5.0
"""Seconds; nft takes a fiftieth of one."""
_FIRST_PATIENCE = 30.0
"""When rules are applied: the kernel may then load parts of nf_tables, which takes a small machine seconds."""
_IPV6_MASK = "ffff:" * (IPV6_SOURCE_BITS // 16) + ":"


def find_nft() -> str | None:
    """The path of the nft program; None when it is not installed. Users' PATHs often lack the sbin directories."""
    return shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def script(plan: Plan) -> str:
    """What ``nft -f -`` is given to replace all rules of ours by those of `plan`."""
    chains: dict[str, list[str]] = {"forward": [], "prerouting": [], "output": []}
    for rule in rules_of(plan):
        chain = _chain(rule)
        chains[chain] += [f'{text} comment "{rule.label}"' for text in _texts(rule)]
    lines = [
        f"set sources4 {{ type ipv4_addr; size {SOURCES}; flags dynamic,timeout; timeout {BURST_SECONDS}s; }}",
        f"set sources6 {{ type ipv6_addr; size {SOURCES}; flags dynamic,timeout; timeout {BURST_SECONDS}s; }}",
    ]
    for chain, priority in (("forward", "mangle"), ("prerouting", "raw"), ("output", "raw")):
        lines += [f"chain {chain} {{", f"type filter hook {chain} priority {priority}; policy accept;"]
        lines += [*chains[chain], "}"]
    return _REMOVE + "table inet ddtb6 {\n\t" + "\n\t".join(lines) + "\n}\n"


def _chain(rule: Rule) -> str:
    match rule:
        case Clamp():
            return "forward"
        case Untrack(inbound=False):
            return "output"
        case _:
            return "prerouting"


def _texts(rule: Rule) -> Iterator[str]:
    match rule:
        case Clamp():
            side = "oifname" if rule.into_tunnel else "iifname"
            size = "rt mtu" if rule.mss is None else rule.mss
            yield (
                f'meta nfproto ipv6 {side} "{rule.device}" tcp flags & (syn | rst) == syn '
                f"tcp option maxseg size set {size}"
            )
        case Limit():
            # Transport header offset 64 bits is the first nibble of a UDP payload.
            kind = "@th,64,4 != 6" if rule.protocol == "udp" else "tcp flags & (fin | syn | rst | ack) == syn"
            for family, source, key in (
                ("ipv4", "sources4", "ip saddr"),
                ("ipv6", "sources6", f"ip6 saddr & {_IPV6_MASK}"),
            ):
                yield (
                    f"meta nfproto {family} {rule.protocol} dport {_ports(rule.ports)} {kind} fib daddr type local "
                    f"update @{source} {{ {key} limit rate over {rule.rate}/second burst {rule.burst} packets }} "
                    "counter drop"
                )
        case Untrack(inbound=True):
            # Tested last: the look-up is the dearest part, and this is the path of every tunnelled packet.
            yield f"udp dport {_ports(rule.ports)} fib daddr type local notrack"
        case Untrack():
            yield f"udp sport {_ports(rule.ports)} notrack"


def _ports(ports: tuple[int, ...]) -> str:
    return f"{{ {', '.join(map(str, ports))} }}"


def found_in(listing: str) -> list[Found]:
    """The rules of our table in the output of ``nft list ruleset``, in order."""
    lines = (line.strip() for table in _TABLE.findall(listing) for line in table.splitlines())
    matches = map(_RULE.match, lines)
    return [Found(m["label"], None if m["dropped"] is None else int(m["dropped"])) for m in matches if m is not None]


class NftFirewall:
    """The nftables back end, see `rules.Backend`."""

    name = "nft"

    def __init__(self, program: str) -> None:
        """`program`: path of nft."""
        self._program = program

    def apply(self, plan: Plan) -> None:
        expected = [rule.label for rule in rules_of(plan) for _ in _texts(rule)]
        try:
            self._load(script(plan), _FIRST_PATIENCE)
            compare(expected, (each.label for each in self._found(_FIRST_PATIENCE)))
        except FirewallError:
            with contextlib.suppress(FirewallError):
                self.remove()
            raise

    def remove(self) -> None:
        self._load(_REMOVE, _PATIENCE)

    def status(self) -> str:
        return describe(self.name, {"": self._found(_PATIENCE)})

    def _found(self, patience: float) -> list[Found]:
        done = self._run(*_LIST, patience=patience)
        if done.returncode != 0:
            raise _refusal(done.stderr)
        return found_in(done.stdout)

    def _load(self, text: str, patience: float) -> None:
        done = self._run("-f", "-", stdin=text, patience=patience)
        if done.returncode != 0:
            raise _refusal(done.stderr)

    def _run(self, *arguments: str, patience: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self._program, *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=patience,
                check=False,
                env={"LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise FirewallError(
                f"{self._program} did not end within {patience:.0f} s: see what else is changing nftables rules."
            ) from None
        except OSError as error:
            raise FirewallError(
                f"{self._program} cannot be run ({error.strerror}): install nftables, or set firewall.backend to none."
            ) from None


def _refusal(stderr: str) -> FirewallError:
    said = next((line.strip() for line in stderr.splitlines() if line.strip()), "no reason given")[:200]
    if "Operation not permitted" in stderr:
        return FirewallError(
            f"nft may not change the firewall ({said}): run ddtb6 with the capability CAP_NET_ADMIN, "
            "or set firewall.backend to none."
        )
    return FirewallError(
        f"nft refused the rules ({said}): the kernel may lack a part of nf_tables; "
        "set firewall.backend to iptables or none."
    )
