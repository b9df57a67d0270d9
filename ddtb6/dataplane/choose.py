# SPDX-License-Identifier: GPL-2.0-or-later
"""Which data plane to use on this machine, and the sentence that says why.

Not here: making it (`app`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass

from ddtb6.broker.ports import DataPlaneError
from ddtb6.dataplane.device import why_no_tun

_NETLINK_GENERIC = 16
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_NAME = 0x10, 3, 2
_PATIENCE = 2
"""Seconds; the kernel answers at once, or after it has loaded a module."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A data plane by name."""

    kind: str
    """``tun`` or ``memory``."""
    reason: str
    """Why this one, in one sentence."""


def choose(kind: str) -> Choice:
    """The data plane for the configured `kind`: ``auto``, ``utun``, ``tun`` or ``memory``.

    Raises DataPlaneError, with the remedy, when it cannot work here.
    """
    if kind == "memory":
        return Choice("memory", "it is configured; it carries no packets anywhere")
    if kind == "tun":
        if no_tun := why_no_tun():
            raise DataPlaneError(no_tun)
        return Choice("tun", "it is configured")
    if kind == "utun":
        raise DataPlaneError(f'{why_no_utun()}: set dataplane.kind to "tun" or "auto"')
    if kind != "auto":
        raise DataPlaneError(f'there is no data plane "{kind}": set dataplane.kind to "auto", "tun" or "memory"')
    no_utun = why_no_utun()
    if no_tun := why_no_tun():
        raise DataPlaneError(f"{no_utun}; and {no_tun}")
    return Choice("tun", no_utun)


def why_no_utun() -> str:
    """Why the utun kernel module is not used."""
    if not genl_family_exists("utun"):
        return "the utun module is not loaded"
    return "the utun module is loaded, but this version of ddtb6 cannot drive it"


def genl_family_exists(name: str) -> bool:
    """Whether the kernel has that generic netlink family. Asking lets it load a module that has the alias."""
    attribute = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(attribute), _CTRL_ATTR_FAMILY_NAME) + attribute
    body = struct.pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0) + attribute + bytes(-len(attribute) % 4)
    head = struct.pack("=IHHII", 16 + len(body), _GENL_ID_CTRL, _NLM_F_REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as netlink:
            netlink.settimeout(_PATIENCE)
            netlink.send(head + body)
            answer = netlink.recv(65536)
    except OSError:
        return False
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == _NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, 16)[0]
        if code != errno.ENOENT:
            raise DataPlaneError(f"generic netlink does not answer: {os.strerror(code)}")
        return False
    return True
