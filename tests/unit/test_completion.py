# SPDX-License-Identifier: GPL-2.0-or-later
"""The completion for bash knows the words that the tool's parsers know today."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from ddtb6.cli.main import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = DOCS / "completion" / "ddtb6"


def completed(*words: str) -> set[str]:
    """What bash offers for the last of `words`."""
    asking = (
        f"source {SCRIPT}; COMP_WORDS=(ddtb6 {' '.join(repr(word) for word in words)}); COMP_CWORD={len(words)}; "
        '_ddtb6; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asking], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_it_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("completion", DOCS / "completion.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert SCRIPT.read_text() == module.text(), "run `make docs`"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("use",), {"user"}),
        (("user", "dis"), {"disable"}),
        (("--config", "/dev/null", "user", "--"), {"--help"}),
        (("user", "add", "alice", "--pass"), {"--password-stdin"}),
        (("session", "list", "--js"), {"--json"}),
        (("no-such", "x"), set()),
    ],
)
def test_words(words: tuple[str, ...], offered: set[str]) -> None:
    assert completed(*words) == offered


def test_every_command_is_offered() -> None:
    assert set(COMMANDS) <= completed("")
