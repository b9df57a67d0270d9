# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures; see `support.vm_net`."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.vm_net import net, network, peer

__all__ = ["net", "network", "peer"]

UDP_ENCAP, UDP_ENCAP_L2TPINUDP = 100, 3


@pytest.fixture(scope="session", autouse=True)
def _encapsulation_is_on() -> Iterator[None]:
    """A socket with another encapsulation, as long as the tests last.

    Without, each first socket and each last one has the kernel patch its UDP code, which emulated processors do not
    bear while they run it (`support.vm.EMULATION`).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_L2TPINUDP)
        yield
