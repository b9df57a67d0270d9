# SPDX-License-Identifier: GPL-2.0-or-later
"""What the broker says it carried, held against the kernel's own counting; and where packets went.

`Meter` has nftables count tunnelled packets as they pass the broker's outer device, `Tripwire` has the signalling
socket refuse them, so that the socket's drops are the packets that came as far as the daemon.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
from pathlib import Path

from support.netns import Namespace

SO_ATTACH_FILTER = 26
OUTER = 28
"""Octets of an IPv4 and a UDP header."""

# In a UDP datagram the header has 64 bits, then comes the inner packet: version, and the source from bit 64 on.
_RULES = """
table ip exact {
    counter n_up {}
    counter n_down {}
    counter n_quiet {}
    chain in {
        type filter hook input priority -400;
        udp dport PORT @th,64,4 6 @th,128,10 0x3fa counter name n_quiet return
        udp dport PORT @th,64,4 6 counter name n_up
    }
    chain out {
        type filter hook output priority 400;
        udp sport PORT @th,64,4 6 counter name n_down
    }
}
"""
_DROP_DATA = (
    (0x30, 0, 0, 8),  # A = the octet behind the UDP header
    (0x74, 0, 0, 4),  # its upper half
    (0x15, 0, 1, 6),
    (0x06, 0, 0, 0),  # 6: drop
    (0x06, 0, 0, 0xFFFFFFFF),
)


class Meter:
    """Counts in the broker's namespace."""

    def __init__(self, space: Namespace, port: int) -> None:
        self._space = space
        space.run("nft", "-f", "-", input=_RULES.replace("PORT", str(port)))

    def reset(self) -> None:
        self._space.run("nft", "reset", "counters", "table", "ip", "exact")

    def read(self) -> dict[str, int]:
        """Inner packets and octets, named as the broker names them; link-local ones of clients left out."""
        listed = json.loads(self._space.run("nft", "-j", "list", "counters", "table", "ip", "exact"))["nftables"]
        counters = {each["counter"]["name"]: each["counter"] for each in listed if "counter" in each}
        found = {}
        for way, name in (("in", "n_up"), ("out", "n_down")):
            packets = counters[name]["packets"]
            found[f"packets_{way}"] = packets
            found[f"octets_{way}"] = counters[name]["bytes"] - OUTER * packets
        return found


class Tripwire:
    """On one UDP socket."""

    def __init__(self, space: Namespace, watched: socket.socket) -> None:
        self._space = space
        self._port = watched.getsockname()[1]
        program = b"".join(struct.pack("=HBBI", *each) for each in _DROP_DATA)
        buffer = ctypes.create_string_buffer(program)
        described = struct.pack("HP", len(_DROP_DATA), ctypes.addressof(buffer))
        watched.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)

    def tripped(self) -> int:
        """Datagrams with packets that came to the socket, and anything else that it had no room for."""
        with self._space.inside():
            lines = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
        fields = [line.split() for line in lines]
        [drops] = [each[-1] for each in fields if int(each[1].rpartition(":")[2], 16) == self._port]
        return int(drops)
