# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 check`: reads the configuration and says what is wrong with it, or what the broker will do with it.

Not here: whether this machine can do that (`cli.doctor`).
"""

from __future__ import annotations

import argparse

from ddtb6.cli import output
from ddtb6.config import Config, ConfigError, cautions, load


def configure(parser: argparse.ArgumentParser) -> None:
    output.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        config = load(arguments.config)
    except ConfigError as error:
        if arguments.json:
            output.print_json({"fine": False, "errors": [each._asdict() for each in error.problems], "cautions": []})
            return 1
        for problem in error.problems:
            print(problem)
        count = len(error.problems)
        print(f"{arguments.config} has {count} {'error' if count == 1 else 'errors'}; the broker would not start.")
        return 1
    warnings = cautions(config)
    if arguments.json:
        output.print_json({"fine": True, "errors": [], "cautions": [each._asdict() for each in warnings]})
        return 0
    print(f"{arguments.config} is fine. The broker will do this:")
    output.print_facts(_plan(config))
    for caution in warnings:
        print(f"Caution: {caution}")
    print("Next: ddtb6 doctor says whether this machine can do that.")
    return 0


def _plan(config: Config) -> list[tuple[str, object]]:
    listen = [f"{carrier} {each}" for carrier in ("udp", "tcp") for each in getattr(config.listen, carrier)]
    pools = []
    for pool in config.pools.values():
        piece = "one address each" if pool.length == 128 else f"a /{pool.length} each"
        rest = f"rest {output.span(pool.quarantine)}" if pool.quarantine else "no rest"
        pools.append((f"  pool {pool.name}", f"{pool.block} for {pool.use.value}, {piece}, {rest}"))
    return [
        ("  listen on", ", ".join(listen)),
        ("  ask", f"{', then '.join(config.auth.chain)}; offer {', '.join(config.auth.mechanisms)} where judged"),
        ("  realm", config.server.realm),
        *_radius(config),
        *pools,
        ("  tunnels", f"MTU {config.tunnel.mtu}, keepalive {config.tunnel.keepalive} s, {_idle(config)}"),
        ("  data plane", f"{config.dataplane.kind}, device {config.dataplane.device}"),
        ("  firewall", config.firewall.backend),
        ("  status page", config.web.listen or "none"),
        ("  state", config.server.database),
        ("  control", config.server.control),
    ]


def _radius(config: Config) -> list[tuple[str, object]]:
    """The servers, without what is secret."""
    modes = f"; log-ins by {', '.join(config.radius.modes)}" if "radius" in config.auth.chain else "; not in auth.chain"
    facts: list[tuple[str, object]] = []
    for name, server in config.radius_servers.items():
        ports = f"port {server.auth_port or 'none'}, for accounting {server.acct_port or 'none'}"
        facts.append((f"  RADIUS server {name}", f"{server.address}, {ports}{modes}"))
    return facts


def _idle(config: Config) -> str:
    limit = config.tunnel.idle_limit
    return f"down after {output.span(max(limit, 5 * config.tunnel.keepalive))} of silence" if limit else "never idle"
