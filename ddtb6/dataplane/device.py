# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening a TUN device: whole IP packets, one a read and one a write, nothing before them.

Source: Linux, Documentation/networking/tuntap.rst. The broker and the client program share this.
Not here: its MTU, addresses and routes (`dataplane.links`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from ddtb6.broker.planes import Carried, DataPlaneError

NODE = "/dev/net/tun"
LARGEST_PACKET = 65535
"""Octets; a read must offer this many, for the device's MTU may be raised behind our back."""

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_NAME_SIZE = 16
_CAP_NET_ADMIN = 12


def open_tun(name: str) -> int:
    """A non-blocking descriptor of the TUN device `name`, which is made if it is not there.

    A device that was made here goes with its descriptor. Raises DataPlaneError with the remedy.
    """
    encoded = name.encode()
    if not 0 < len(encoded) < _NAME_SIZE or b"/" in encoded or b"%" in encoded or encoded.split() != [encoded]:
        raise DataPlaneError(f"{name!r} cannot name a device: use 1 to 15 characters, no blanks, no / and no %")
    try:
        fd = os.open(NODE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DataPlaneError(_remedy(error)) from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", encoded, _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise DataPlaneError(_refusal(name, error)) from error
    return fd


def why_no_tun() -> str | None:
    """Why no TUN device can be made here, with the remedy; None when one can."""
    try:
        os.close(os.open(NODE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return _remedy(error)
    if not may_administer():
        return "making a TUN device needs CAP_NET_ADMIN: run as root, or give the service that capability"
    return None


def may_administer() -> bool:
    """Whether this process has CAP_NET_ADMIN; True where that cannot be known."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return True


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{NODE} is missing: load the tun module (modprobe tun), or give the container that device"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{NODE} may not be opened: run as root, or make it readable and writable for this user"
    return f"{NODE} cannot be opened: {error.strerror}"


def _refusal(name: str, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return f"the device {name} is in use by another process: stop that, or configure another name"
    if error.errno == errno.EPERM:
        return f"making the device {name} needs CAP_NET_ADMIN: run as root, or give the service that capability"
    if error.errno == errno.EINVAL:
        return f"{name} is a device of another kind: configure another name"
    return f"the device {name} cannot be made: {error.strerror}"


def carried(device: str) -> Carried | None:
    """What the kernel counts of a device whose packets go to tunnels; None where there is none of that name."""
    try:
        with open("/proc/net/dev", "rb", buffering=0) as table:
            text = table.read(1 << 20)
    except OSError:
        return None
    for line in text.split(b"\n"):
        name, found, numbers = line.partition(b":")
        if found and name.strip() == device.encode():
            columns = numbers.split()
            # Received is what came from clients: eight columns of that, then what was sent.
            return Carried(int(columns[0]), int(columns[8]), int(columns[1]), int(columns[9]))
    return None
