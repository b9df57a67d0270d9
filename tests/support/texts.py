# SPDX-License-Identifier: GPL-2.0-or-later
"""Strategies of text that hypothesis writes in the same way in all its releases."""

from __future__ import annotations

from hypothesis import strategies as st

CHARACTERS = st.one_of(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E),
    st.characters(min_codepoint=0xA0, max_codepoint=0xD7FF),
    st.characters(min_codepoint=0xE000),
)
"""Any but control characters and surrogates."""
