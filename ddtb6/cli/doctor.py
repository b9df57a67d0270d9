# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 doctor`: what on this machine would stop the broker from working, and the remedy.

Each check looks at one thing, changes nothing, and gives a `Finding`. A fail means that the broker would not start, or
that its clients would reach nothing; a warning, that something is probably not as it was meant.
Not here: what is wrong with the configuration in itself (`config`, `cli.check`).
"""

from __future__ import annotations

import argparse
import enum
import errno
import importlib
import os
import re
import socket
import sqlite3
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from importlib import metadata
from ipaddress import IPv6Network
from pathlib import Path
from typing import NamedTuple

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Pool
from ddtb6.cli import output
from ddtb6.cli.radius import probe
from ddtb6.cli.reach import YOU, rights_of_daemon, start_command, way_to_own
from ddtb6.cli.status import reconciled
from ddtb6.config import Config, ConfigError, cautions, load, radius_secret
from ddtb6.web.control_client import ControlClient, NotPermitted, NotRunning
from ddtb6.web.verbs import ControlError

PYTHON = (3, 11)
LIBRARIES = {
    "twisted": (22, 4),
    "pyrad": (2, 1),
    "pyroute2": (0, 7, 2),
    "sqlite-utils": (3, 30),
    "lxml": (4, 9, 2),
    "jinja2": (3, 1, 2),
}
"""The oldest releases that the daemon is tested with: those of Debian 12."""
SANE_YEARS = range(2025, 2100)
CONNTRACK_FLOOR = 32768
"""Entries of the connection tracking table below which a storm of log-ins may fill it."""


class State(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """What a check found."""

    name: str
    state: State
    sentence: str
    remedy: str = ""
    """What to do; empty where all is well."""


def configure(parser: argparse.ArgumentParser) -> None:
    output.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    findings = list(examine(arguments.config))
    failed = any(each.state is State.FAIL for each in findings)
    if arguments.json:
        output.print_json([{**each._asdict(), "state": each.state.value} for each in findings])
        return int(failed)
    for finding in findings:
        print(f"{finding.state.value:<4}  {finding.name}: {output.safe(finding.sentence)}")
        if finding.remedy:
            print(f"      {output.safe(finding.remedy)}")
    warned = any(each.state is State.WARN for each in findings)
    print()
    if failed:
        print("The broker cannot work here before what is marked fail is mended.")
    else:
        print(f"The broker can work here{', with what is marked warn in mind' if warned else ''}.")
        running = any(each.name == "daemon" and each.sentence.startswith("It is running") for each in findings)
        look = f"ddtb6 --config {arguments.config} status"
        print(f"Next: {look if running else start_command(arguments.config)}")
    return int(failed)


def examine(path: Path, root: Path = Path("/")) -> Iterator[Finding]:
    """All checks, with the configuration at `path`; /proc is looked for below `root`."""
    yield python()
    yield from (library(name, floor) for name, floor in LIBRARIES.items())
    yield clock(datetime.now(UTC))
    config, findings = files(path)
    yield from findings
    if config is None:
        return
    for caution in cautions(config):
        yield Finding("configuration", State.WARN, str(caution), f"Edit {path}, if that is not meant.")
    yield from status_page(config.web.listen)
    running, finding = daemon(config.server.control)
    yield finding
    for carrier, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM)):
        for endpoint in getattr(config.listen, carrier):
            yield port(carrier, kind, endpoint, running, root=root)
    for endpoint in config.radius_dynamic.listen:
        yield port("udp", socket.SOCK_DGRAM, endpoint, running, "radius.dynamic.listen")
    yield from radius(config)
    yield data_plane(config.dataplane.kind)
    yield firewall(config.firewall.backend)
    yield forwarding(root)
    yield upstream(root)
    yield from neighbours(config.pools.values(), config.dataplane.device, root)
    yield from connection_tracking(root)


# --- software -----------------------------------------------------------------------------------------------------


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    text = ".".join(map(str, version))
    if version < PYTHON:
        return Finding("python", State.FAIL, f"Python {text} is too old.", "Install Python 3.11 or later.")
    return Finding("python", State.OK, f"Python {text}.")


def library(name: str, floor: tuple[int, ...]) -> Finding:
    needed = ".".join(map(str, floor))
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(
            name, State.FAIL, "It is not installed.", f"pip install '{name}>={needed}', or Debian's package."
        )
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
    if numbers < floor:
        return Finding(name, State.FAIL, f"Release {version} is too old.", f"Install {needed} or later.")
    return Finding(name, State.OK, f"Release {version}.")


def clock(now: datetime) -> Finding:
    if now.year not in SANE_YEARS:
        return Finding(
            "clock",
            State.FAIL,
            f"It is set to the year {now.year}; leases and sessions would be written down with false times.",
            "Set it, and keep it right: apt install systemd-timesyncd, or chrony.",
        )
    return Finding("clock", State.OK, f"{now:%Y-%m-%d %H:%M:%SZ}.")


# --- what the daemon opens ----------------------------------------------------------------------------------------


def files(path: Path) -> tuple[Config | None, list[Finding]]:
    """The configuration, if there is one to go on with, and what its files are to the user of the daemon."""
    importlib.import_module("ddtb6.store.database")  # perhaps from where root alone may read
    with rights_of_daemon(path) as who:
        try:
            config = load(path)
            for name, server in config.radius_servers.items():
                radius_secret(name, server)
        except ConfigError as error:
            remedy = f"Edit {path}; ddtb6 check reads it again."
            if os.strerror(errno.EACCES) in str(error):
                remedy = "Run this as root." if who == YOU else f"chgrp {who} FILE; chmod g+r FILE"
            elif not os.path.exists(path):
                remedy = "Run ddtb6 setup, as root."
            return None, [Finding("configuration", State.FAIL, str(each), remedy) for each in error.problems]
        state, store = state_directory(config.server.state, who), database(config.server.database, who)
    return config, [Finding("configuration", State.OK, f"{path} has no errors."), state, store]


def status_page(listen: str) -> Iterator[Finding]:
    if not listen:
        return
    from twisted.internet.endpoints import serverFromString

    try:
        serverFromString(None, listen)
    except Exception as error:  # each endpoint type raises what it likes
        yield Finding(
            "status page",
            State.FAIL,
            f'web.listen: "{listen}" is not an endpoint that Twisted understands ({error}).',
            'Write it like "tcp:port=8653:interface=127.0.0.1".',
        )
        return
    kind, _, rest = listen.partition(":")
    interface = re.search(r"interface=((?:[^:\\]|\\.)+)", rest)
    place = interface[1].replace("\\:", ":") if interface else ""
    if kind in ("tcp", "tcp6") and place not in ("::1", "localhost") and not place.startswith("127."):
        yield Finding(
            "status page",
            State.WARN,
            "web.listen serves others without TLS: whoever is on the way can read the passwords of who logs in.",
            'Listen on 127.0.0.1 behind a proxy that does TLS (and web.trusted_proxies), or use an "ssl:" endpoint.',
        )


def state_directory(path: Path, who: str = YOU) -> Finding:
    name = "state"
    remedy = f"install -d -m 700 -o {'USER-OF-THE-DAEMON' if who == YOU else who} {path}"
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return Finding(name, State.FAIL, f"The directory {path} cannot be used: {error.strerror}.", remedy)
    if not stat.S_ISDIR(mode):
        return Finding(name, State.FAIL, f"{path} is not a directory.", remedy)
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        return Finding(name, State.FAIL, f"The directory {path} is not writable for {who}.", way_to_own(path, who))
    if mode & stat.S_IWOTH:
        return Finding(name, State.WARN, f"Everybody may write to {path}.", f"chmod o-rwx {path}")
    return Finding(name, State.OK, f"{path} is writable.")


def database(path: Path, who: str = YOU) -> Finding:
    from ddtb6.store.database import APPLICATION_ID, STEPS

    name = "database"
    with suppress(PermissionError):
        if not path.exists():
            return Finding(name, State.OK, f"{path} does not exist yet; the daemon makes it.")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        return Finding(name, State.FAIL, f"{path} is not writable for {who}.", way_to_own(path, who))
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2)) as connection:
            application, version = (
                connection.execute(f"PRAGMA {each}").fetchone()[0] for each in ("application_id", "user_version")
            )
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        return Finding(
            name, State.FAIL, f"{path} cannot be read: {error}.", "If it is damaged, ddtb6 restore a backup."
        )
    if application != APPLICATION_ID:
        return Finding(name, State.FAIL, f"{path} is not a database of ddtb6.", "Move it away; the daemon makes one.")
    if version > len(STEPS):
        sentence = f"{path} was written by a newer ddtb6 (schema {version}, known here is {len(STEPS)})."
        return Finding(name, State.FAIL, sentence, f"Install that release again, or go back to {path}.backup-v*.")
    if damage != "ok":
        return Finding(name, State.FAIL, f"{path} is damaged: {damage}.", "ddtb6 restore FILE, with a backup.")
    return Finding(name, State.OK, f"{path} is readable, schema {version}.")


def daemon(path: Path) -> tuple[bool, Finding]:
    """Whether our daemon runs, and what there is to say."""
    name = "daemon"
    try:
        view = ControlClient(path, timeout=5).call("overview")
    except NotRunning:
        return False, Finding(name, State.OK, f"It is not running (nobody listens on {path}).")
    except NotPermitted as error:
        return False, Finding(name, State.WARN, f"It may be running: {error}.", "Run this as root.")
    except ControlError as error:
        remedy = "Look at its log, and whether server.control names the right socket."
        return False, Finding(name, State.FAIL, f"It does not answer as it should: {error}.", remedy)
    sentence = f"It is running, version {view['version']}; reconciled: {reconciled(view.get('reconciled'))}."
    return True, Finding(name, State.OK, sentence)


def radius(config: Config) -> Iterator[Finding]:
    """Does every RADIUS server answer, and how fast? One that knows no Status-Server may be well all the same."""
    if not config.radius_servers:
        return
    try:
        found = probe(config)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("radius", State.FAIL, str(problem), "Give the daemon's user the right to read it.")
        return
    for each in found:
        name = f"radius {each.name}"
        if each.seconds is not None:
            sentence = f"{each.endpoint} answers for {each.purpose}, after {each.seconds * 1000:.1f} ms."
            yield Finding(name, State.OK, sentence)
        elif each.fault == "wrong-authenticator":
            sentence = f"{each.endpoint} answers for {each.purpose}, but with another secret."
            yield Finding(name, State.FAIL, sentence, "Write the same shared secret on both sides.")
        else:
            why = f" ({each.fault})" if each.fault else ""
            yield Finding(
                name,
                State.WARN,
                f"{each.endpoint} does not answer Status-Server for {each.purpose}{why}.",
                "It is down, has status_server off, does not know this host as a client, or has another secret; "
                "ddtb6 radius test USER tries a log-in.",
            )


def port(
    carrier: str,
    kind: socket.SocketKind,
    endpoint: Endpoint,
    running: bool,
    key: str = "",
    root: Path = Path("/"),
) -> Finding:
    """`running`: our own daemon is, and may be the one that has the port. `key`: where it is configured."""
    key = key or f"listen.{carrier}"
    name = f"{carrier} {endpoint}"
    family = socket.AF_INET6 if endpoint.family == 6 else socket.AF_INET
    try:
        with socket.socket(family, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(tuple(endpoint))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and running:
            return Finding(name, State.OK, "Our daemon has it.")
        if error.errno == errno.EADDRINUSE and endpoint.port in _ports_of_service_manager(carrier, root):
            return Finding(name, State.OK, "systemd holds it for the daemon, with ddtb6.socket.")
        remedy = {
            errno.EADDRINUSE: f"See who has it with ss -lpn 'sport = :{endpoint.port}', or change {key}.",
            errno.EADDRNOTAVAIL: f"Give this machine the address, or change {key}.",
            errno.EAFNOSUPPORT: f"Turn IPv6 on, or take the address out of {key}.",
            errno.EACCES: "Ports below 1024 need root or CAP_NET_BIND_SERVICE.",
        }.get(error.errno or 0, f"Change listen.{carrier}.")
        return Finding(name, State.FAIL, f"It cannot be opened: {error.strerror}.", remedy)
    return Finding(name, State.OK, "It is free.")


def _ports_of_service_manager(carrier: str, root: Path) -> set[int]:
    """Ports that process 1 has open; none where we may not look. Each line of the table: number, address:port, ..."""
    held = set()
    with suppress(OSError):
        for descriptor in (root / "proc/1/fd").iterdir():
            with suppress(OSError):
                held.add(os.readlink(descriptor))
    ports = set()
    for table in (carrier, f"{carrier}6"):
        for line in (_read(root / "proc/net" / table) or "").splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in held:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def data_plane(kind: str) -> Finding:
    from ddtb6.broker.planes import DataPlaneError
    from ddtb6.dataplane.choose import choose

    try:
        choice = choose(kind)
    except DataPlaneError as error:
        return Finding("data plane", State.FAIL, f"None can be had: {error}.", "Mend that, or change dataplane.kind.")
    sentence = f"{choice.kind}: {choice.reason}."
    if "not loaded" in choice.reason:
        return Finding("data plane", State.OK, f"{sentence} For packets that stay in the kernel, {choice.better}.")
    if choice.better:  # A module that is there and cannot be used was meant to be.
        return Finding("data plane", State.WARN, sentence, f"{choice.better[:1].upper()}{choice.better[1:]}.")
    return Finding("data plane", State.OK, sentence)


def firewall(backend: str) -> Finding:
    from ddtb6.firewall.choose import choose

    choice = choose(backend)
    if choice.backend is None and backend != "none":
        return Finding("firewall", State.WARN, choice.why, "The broker works without, but less well.")
    return Finding("firewall", State.OK, choice.why)


# --- the network --------------------------------------------------------------------------------------------------


def forwarding(root: Path) -> Finding:
    name = "forwarding"
    value = _read(root / "proc/sys/net/ipv6/conf/all/forwarding")
    if value is None:
        return Finding(name, State.FAIL, "This kernel has no IPv6.", "Boot without ipv6.disable=1.")
    if _read(root / "proc/sys/net/ipv6/conf/all/disable_ipv6") == "1":
        return Finding(name, State.FAIL, "IPv6 is turned off.", "sysctl net.ipv6.conf.all.disable_ipv6=0")
    if value == "0":
        return Finding(
            name,
            State.FAIL,
            "IPv6 forwarding is off: clients would reach this machine and nothing else.",
            "sysctl net.ipv6.conf.all.forwarding=1 (and accept_ra=2 on an uplink that gets its route by advertisement)",
        )
    return Finding(name, State.OK, "IPv6 forwarding is on.")


def upstream(root: Path) -> Finding:
    """Is there a default route to somewhere? Each line: destination, its length, ..., device."""
    for line in (_read(root / "proc/net/ipv6_route") or "").splitlines():
        fields = line.split()
        if len(fields) >= 10 and fields[:2] == ["0" * 32, "00"] and fields[9] != "lo":
            return Finding("upstream", State.OK, f"The IPv6 default route leaves by {fields[9]}.")
    return Finding(
        "upstream",
        State.WARN,
        "There is no IPv6 default route: clients would not reach the Internet.",
        "Fine for a trial; else see to this machine's own IPv6 first.",
    )


def neighbours(pools: Iterable[Pool], device: str, root: Path) -> Iterator[Finding]:
    """Networks on other devices that lie inside of a pool."""
    taken = [(network, name) for network, name in networks(root) if name not in (device, "lo")]
    for pool in pools:
        for network, name in taken:
            if pool.block.overlaps(network):
                yield Finding(
                    f"pool {pool.name}",
                    State.FAIL,
                    f"{pool.block} overlaps {network}, which is on {name}; packets would go the wrong way.",
                    f"Give the pool a block of its own, or take the address off {name}.",
                )


def networks(root: Path) -> Iterator[tuple[IPv6Network, str]]:
    """IPv6 networks, and their devices. Each line: address, index, prefix length, ..., device."""
    for line in (_read(root / "proc/net/if_inet6") or "").splitlines():
        address, _, length, *_, name = line.split()
        yield IPv6Network((int(address, 16), int(length, 16)), strict=False), name


def connection_tracking(root: Path) -> Iterator[Finding]:
    """A table that is too small drops packets of strangers and clients alike."""
    folder = root / "proc/sys/net/netfilter"
    largest, count = _read(folder / "nf_conntrack_max"), _read(folder / "nf_conntrack_count")
    if not (largest and largest.isdecimal() and count and count.isdecimal()):
        return
    name = "connection tracking"
    remedy = "Let the firewall part of ddtb6 exempt the signalling port, or raise net.netfilter.nf_conntrack_max."
    if int(count) > 0.8 * int(largest):
        yield Finding(name, State.WARN, f"{count} of {largest} entries are in use; packets will be dropped.", remedy)
    elif int(largest) < CONNTRACK_FLOOR:
        yield Finding(name, State.WARN, f"The table holds only {largest} entries.", remedy)
    else:
        yield Finding(name, State.OK, f"{count} of {largest} entries are in use.")


def _read(path: Path) -> str | None:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return None
