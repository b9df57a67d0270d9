# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in `guest` runs where the module is loaded: in the virtual machine that `test_utun` boots."""

from __future__ import annotations

from pathlib import Path

collect_ignore = [] if Path("/sys/module/utun").exists() else ["guest"]
