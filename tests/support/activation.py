# SPDX-License-Identifier: GPL-2.0-or-later
"""A service manager as far as sockets go: opens what a socket unit says, and hands it to each life of the daemon.

Source: systemd.socket(5), sd_listen_fds(3). Used where no systemd runs, as in a network namespace.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from support.netns import Namespace

UNIT = Path(__file__).parents[2] / "debian" / "ddtb6.socket"
NAME = "ddtb6.socket"
IP_PKTINFO = 8

_EXEC = """
import fcntl, os, sys
split = sys.argv.index("--")
kept = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 200) for each in sys.argv[1:split]]
for place, each in enumerate(kept):
    os.dup2(each, 3 + place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(kept))}
os.environ["LISTEN_FDNAMES"] = ":".join(["%s"] * len(kept))
os.execv(sys.argv[split + 1], sys.argv[split + 1:])
""".replace("%s", NAME)


def settings(unit: Path = UNIT) -> list[tuple[str, str]]:
    """The assignments of a unit file, in order."""
    lines = (line.partition("=") for line in unit.read_text().splitlines() if not line.startswith(("#", "[")))
    return [(key, value) for key, equals, value in lines if equals]


def open_sockets(space: Namespace, unit: Path = UNIT) -> list[socket.socket]:
    """What the unit lists, open in `space`."""
    said = settings(unit)
    opened = []
    for key, value in said:
        if key not in ("ListenDatagram", "ListenStream"):
            continue
        host, _, port = value.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        made = space.socket(family, socket.SOCK_DGRAM if key == "ListenDatagram" else socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(made.type is socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(("BindIPv6Only", "ipv6-only") in said))
        if ("PassPacketInfo", "yes") in said and family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        made.bind((host.strip("[]"), int(port)))
        if made.type is socket.SOCK_STREAM:
            made.listen(512)
        opened.append(made)
    return opened


def handing_over(sockets: Sequence[socket.socket], *command: str | Path) -> tuple[list[str], list[int]]:
    """`command` as it is started with the sockets, and the descriptors that have to be passed to it."""
    descriptors = [each.fileno() for each in sockets]
    return [sys.executable, "-c", _EXEC, *map(str, descriptors), "--", *map(str, command)], descriptors
