# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that sends IPv6 in UDP from many outer endpoints, as fast as it can, until it is ended.

    python vm_flood.py PEERS [SEED]

Peer n (from 0) is 198.18.0.0 + n // 16, port 40000 + n % 16, with the inner address 2001:db8:9000:: + n; see `peer`.
Every sixteenth packet is a stranger's, another sixteenth a spoofer's.
"""

from __future__ import annotations

import random
import socket
import struct
import sys

BROKER, PORT = "192.0.2.1", 3653
_IPV4 = struct.Struct("!BBHHHBBH4s4sHHHH")
_IPV6 = struct.Struct("!IHBB8sQ16s")
HIGH = bytes.fromhex("20010db890000000")
HOST = bytes.fromhex("20010db8000f00000000000000000002")


def endpoint(number: int) -> tuple[bytes, int]:
    """Outer address and port of a peer."""
    return struct.pack("!I", 0xC6120000 + number // 16), 40000 + number % 16


def packet(number: int, low: int, payload: bytes = b"flood") -> bytes:
    """An outer IPv4 packet from peer `number` with inner address `low`; the kernel fills in the checksum."""
    address, port = endpoint(number)
    inner = _IPV6.pack(6 << 28, len(payload), 59, 64, HIGH, low, HOST) + payload
    size = len(inner) + 8
    head = _IPV4.pack(0x45, 0, 20 + size, 0, 0, 64, 17, 0, address, socket.inet_aton(BROKER), port, PORT, size, 0)
    return head + inner


def main(peers: int, seed: int) -> None:
    dice = random.Random(seed)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    batch = []
    for place in range(512):
        number = dice.randrange(peers)
        if place % 16 == 0:
            batch.append(packet(number + peers, number))
        elif place % 16 == 1:
            batch.append(packet(number, number + peers + 1))
        else:
            batch.append(packet(number, number))
    print("sending", flush=True)
    while True:
        for each in batch:
            try:
                raw.sendto(each, (BROKER, 0))
            except OSError:
                continue


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
