# SPDX-License-Identifier: GPL-2.0-or-later
"""The tool: `ddtb6 COMMAND`. One module for each command or family of commands; `main` finds them."""
