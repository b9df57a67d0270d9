# SPDX-License-Identifier: GPL-2.0-or-later
"""ddtb6, an IPv6 tunnel broker in a box."""

__version__ = "0.1.0"
