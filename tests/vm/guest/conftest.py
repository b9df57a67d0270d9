# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures; see `support.vm_net`."""

from __future__ import annotations

from support.vm_net import net, network, peer

__all__ = ["net", "network", "peer"]
