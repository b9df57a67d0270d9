# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's log as journald takes it: each entry with its severity, and with the session and the user it is about.

Source: systemd's "Native Journal Protocol". A datagram of fields for each entry; a value with a line feed in it, and
only that, goes with its length. `twistd --logger=ddtb6.journald.observer`, as the unit has it.
Invariants: nothing raises; a journald that does not keep up makes the daemon wait once for `PATIENCE` seconds and then
no more. What it had no room for is left out, and counted by the next entry that gets through.
Not here: what is logged, and what of it goes without saying (`logbook`).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, textFileLogObserver
from zope.interface import implementer

ADDRESS = "/run/systemd/journal/socket"
SEVERITIES = {LogLevel.debug: 7, LogLevel.info: 6, LogLevel.warn: 4, LogLevel.error: 3, LogLevel.critical: 2}
"""Those of syslog(3)."""
FIELDS = {"log_namespace": "DDTB6_LOGGER", "session": "DDTB6_SESSION", "user": "DDTB6_USER"}
"""Keys of a log event that become fields of the entry, where the event has them and they are not None."""
LONGEST = 32_768
"""Characters of a message; the rest is left out."""
PATIENCE = 0.1
ROOM = 1 << 20
"""Octets of entries that may be on their way; the kernel gives what it allows."""


def observer(address: str = ADDRESS) -> Callable[[LogEvent], None]:
    """What `twistd --logger` wants: into the journal where there is one, else lines of text to the standard output."""
    return Journal(address) if Path(address).is_socket() else textFileLogObserver(sys.stdout)


@implementer(ILogObserver)
class Journal:
    """Sends each event as an entry."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        self._socket.settimeout(PATIENCE)
        self._lost = 0

    def __call__(self, event: LogEvent) -> None:
        if self._lost:
            words = f"{self._lost} lines before this one were lost: journald did not take them"
            if not self._sent(_entry({"log_level": LogLevel.warn, "log_format": words})):
                self._lost += 1
                return
            self._lost = 0
            self._socket.settimeout(PATIENCE)
        if not self._sent(_entry(event)):
            self._lost = 1
            self._socket.settimeout(0)

    def _sent(self, entry: bytes) -> bool:
        try:
            self._socket.sendto(entry, self._address)
        except OSError:  # no room, or no journald just now
            return False
        return True


def _entry(event: LogEvent) -> bytes:
    message = formatEvent(event)
    if (failure := event.get("log_failure")) is not None:
        message = f"{message}\n{failure.getTraceback()}"
    severity = SEVERITIES.get(event.get("log_level"), SEVERITIES[LogLevel.info])
    parts = [_field("MESSAGE", message[:LONGEST].strip()), b"SYSLOG_IDENTIFIER=ddtb6\nPRIORITY=%d\n" % severity]
    for key, name in FIELDS.items():
        if (value := event.get(key)) is not None:
            parts.append(_field(name, str(value)))
    return b"".join(parts)


def _field(name: str, value: str) -> bytes:
    octets = value.encode(errors="backslashreplace")
    if b"\n" in octets:
        return b"%s\n%s%s\n" % (name.encode(), len(octets).to_bytes(8, "little"), octets)
    return b"%s=%s\n" % (name.encode(), octets)
