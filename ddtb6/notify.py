# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon tells the service manager that started it: that it serves, is alive, or stops.

Source: sd_notify(3). A datagram of assignments to the unix socket that $NOTIFY_SOCKET names, by path or, after an @, in
the abstract space. Without the variable nobody wants to know.
Invariant: nothing raises. A service manager that does not listen is no reason to stop carrying packets.
Not here: when that is so (`app`).
"""

from __future__ import annotations

import contextlib
import os
import socket

PATIENCE = 2.0
"""Seconds to wait for room in the service manager's queue, for what is said only once."""


def ready() -> None:
    """Everything listens. A unit of Type=notify counts as started from here on."""
    _tell(b"READY=1", PATIENCE)


def stopping() -> None:
    """The end has begun, and is no failure."""
    _tell(b"STOPPING=1", PATIENCE)


def alive() -> None:
    """The reactor turns; to be repeated within WatchdogSec. Never waits: the next one will do."""
    _tell(b"WATCHDOG=1", 0.0)


def _tell(state: bytes, patience: float) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as handle:
        handle.settimeout(patience)
        handle.sendto(state, address)
