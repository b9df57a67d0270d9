# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures about ddtb6, each beside a baseline of the same run: `python -m bench` prints them as one table.

They are reports, not tests: no figure makes it fail.
"""
