# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages say what the parsers and the configuration say today."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from ddtb6.cli.main import COMMANDS
from ddtb6.config import describe

DOCS = Path(__file__).parents[2] / "docs"


def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("man", DOCS / "man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES: dict[str, str] = writer().pages()


def test_the_pages_that_are_committed_are_the_pages_there_are() -> None:
    assert {path.name for path in (DOCS / "man").iterdir()} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_fresh(name: str) -> None:
    assert (DOCS / "man" / name).read_text() == PAGES[name], "run `make docs`"


def test_every_command_and_every_key_is_in_them() -> None:
    for command in COMMANDS:
        assert rf"\fBddtb6 {command}" in PAGES["ddtb6.1"]
    for key in describe():
        assert rf"\fB{key.name}\fR" in PAGES["ddtb6.toml.5"]


@pytest.mark.parametrize("name", PAGES)
def test_no_paragraph_is_taken_for_a_request(name: str) -> None:
    """A line of text that begins with a dot would vanish."""
    requests = {line.split()[0] for line in PAGES[name].splitlines() if re.match(r"[.']", line)}
    assert requests <= {".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".nf", ".fi", '.\\"'}


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", PAGES)
def test_groff_has_nothing_to_say(name: str) -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-z", str(DOCS / "man" / name)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
