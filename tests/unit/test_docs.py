# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documentation names exists: commands with their options, keys, make targets, files, headings."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddtb6.cli.main import COMMANDS, _parser
from ddtb6.config import ConfigError, Problem, describe, parse
from ddtb6.config.sections import SECTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
HAND_WRITTEN = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
GUIDES = [page for page in PAGES if page.name != "ARCHITECTURE.md" and page.parent.name != "decisions"]
FENCE = re.compile(r"(?ms)^```(\w*)\n(.*?)^```")
KEYS = {f"{key.section}.{key.name}" for key in describe()}


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def spans(page: Path) -> list[str]:
    """What stands between backticks in running text."""
    return [" ".join(each.split()) for each in re.findall(r"(?s)`([^`]+)`", FENCE.sub("", page.read_text()))]


def problems(text: str) -> tuple[Problem, ...]:
    """What is wrong with a configuration."""
    try:
        parse(text)
    except ConfigError as error:
        return error.problems
    return ()


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of the tool as words, without sudo and prompt, and without what is piped behind."""
    lines = [line for text in [*blocks(page, "sh"), *blocks(page, "")] for line in text.splitlines()]
    for line in [*lines, *spans(page)]:
        found = re.match(r"\s*(?:\$ )?(?:sudo )?(?:\S*/)?ddtb6(?: +(?P<words>[a-z-][^|;&]*))?$", line)
        if found and found["words"]:
            yield shlex.split(found["words"], comments=True)


def branches(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


@HAND_WRITTEN
def test_commands_and_options_exist(page: Path) -> None:
    for words in commands(page):
        parser = _parser(words)
        known = set(parser._option_string_actions)
        for word in words:
            below = branches(parser)
            if word in below:
                parser = below[word]
                known |= set(parser._option_string_actions)
            elif word.startswith("-"):
                assert word.partition("=")[0] in known, f"ddtb6 {' '.join(words)}: {word}"
            elif below:
                assert word in ("...", "COMMAND"), f"ddtb6 {' '.join(words)}: {word} is not one of {', '.join(below)}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_keys_exist(page: Path) -> None:
    """Such as `tunnel.keepalive`; and what is shown as a configuration has no key that the reader does not know."""
    for span in spans(page):
        if re.fullmatch(r"[a-z]+(\.[a-z_]+)+", span) and span.partition(".")[0] in SECTIONS:
            assert span in KEYS or span in SECTIONS, span
    for text in blocks(page, "toml"):
        tables: dict[str, Any] = tomllib.loads(text)
        assert tables
        assert not [each for each in problems(text) if "no such" in each.sentence], text


@HAND_WRITTEN
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    lines = [line for text in blocks(page, "sh") for line in text.splitlines()]
    for each in [*lines, *spans(page)]:
        if found := re.match(r"(?:sudo )?make ([a-z-]+)$", each):
            assert found[1] in targets, each


def anchors(page: Path) -> set[str]:
    """As a forge makes them of headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@HAND_WRITTEN
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_every_command_is_in_the_guides() -> None:
    named = {words[0] for page in PAGES for words in commands(page)}
    assert set(COMMANDS) <= named
