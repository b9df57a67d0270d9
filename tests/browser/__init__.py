# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that drive a Chromium; a package, so that they share one."""
