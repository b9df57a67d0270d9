# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads kmod/utun/utun.yaml: names and numbers of the module's interface.

Only the YAML that netlink specifications are written in here: block mappings and lists by indentation, plain scalars,
lists in brackets. Anything else fails.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SPEC = Path(__file__).parents[2] / "kmod/utun/utun.yaml"


def load(path: Path = SPEC) -> Any:
    """The document as dictionaries, lists, strings and numbers."""
    lines = []
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        text = re.sub(r"(^|\s)#.*$", "", raw).rstrip()
        if text:
            lines.append((len(text) - len(text.lstrip()), text.strip(), number))
    value, rest = _block(lines)
    assert not rest, rest[0]
    return value


def _block(lines: list[tuple[int, str, int]]) -> tuple[Any, list[tuple[int, str, int]]]:
    """The block that begins here and what comes after it."""
    indent, text, _ = lines[0]
    if text.startswith("-"):
        found: list[Any] = []
        while lines and lines[0][0] == indent and lines[0][1].startswith("-"):
            inline = lines[0][1][1:].strip()
            lines = lines[1:]
            if inline:
                found.append(_scalar(inline))
            else:
                assert lines[0][0] > indent, lines[0]
                value, lines = _block(lines)
                found.append(value)
        return found, lines
    mapping: dict[str, Any] = {}
    while lines and lines[0][0] == indent:
        matched = re.fullmatch(r"([\w-]+):(?: (.*))?", lines[0][1])
        assert matched, lines[0]
        name, inline = matched[1], matched[2]
        assert name not in mapping, lines[0]
        lines = lines[1:]
        if inline:
            mapping[name] = _scalar(inline)
        else:
            assert lines[0][0] > indent, lines[0]
            mapping[name], lines = _block(lines)
    assert not lines or lines[0][0] < indent, lines[0]
    return mapping, lines


def _scalar(text: str) -> Any:
    if text.startswith("["):
        assert text.endswith("]"), text
        return [_scalar(each.strip()) for each in text[1:-1].split(",")]
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdigit() else text


def constants(spec: Any | None = None) -> dict[str, int]:
    """Every name that has a number, as the header writes it: ``UTUN_PEER_A_ID`` to 1."""
    spec = spec or load()
    found: dict[str, int] = {}

    def give(prefix: str, entry: Any, number: int) -> None:
        name = entry if isinstance(entry, str) else entry["name"]
        found[f"{prefix}{name}".replace("-", "_").upper()] = number

    for each in spec["definitions"]:
        if each["type"] == "const":
            give("utun-", each, each["value"])
        elif each["type"] in ("enum", "flags"):
            for place, entry in enumerate(each["entries"]):
                give(each["name-prefix"], entry, 1 << place if each["type"] == "flags" else place + each["value-start"])
    for each in spec["attribute-sets"]:
        for place, entry in enumerate(each["attributes"], 1):
            give(each["name-prefix"], entry, entry.get("value", place))
    for place, entry in enumerate(spec["operations"]["list"], 1):
        give(spec["operations"]["name-prefix"], entry, place)
    return found
