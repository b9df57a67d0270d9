# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes configurations with every key there is: set, or commented out with its default, and documented.

The comments are the docstrings of `config.sections`, which also make the manual page. etc/ddtb6.toml is `sample()`, and
`ddtb6 setup` writes its file with `written`.
Not here: which values to set (`cli.setup`).
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Use
from ddtb6.config.documentation import Key, describe, headline
from ddtb6.config.reading import QUARANTINE
from ddtb6.config.sections import SECTIONS, SEVERAL

WIDTH = 120

HEADING = (
    "Configuration of ddtb6, the IPv6 tunnel broker. Every key there is stands here: commented out with its default, "
    "or set. `ddtb6 check` says what is wrong with it, `ddtb6 doctor` what this machine lacks. Restart the daemon "
    "after a change."
)


class Table(NamedTuple):
    """A table with what is set in it."""

    name: str
    """Such as ``auth`` or ``pool.links``."""
    values: Mapping[str, Any]
    remark: str = ""
    """Why it is there; a comment above it."""
    example: bool = False
    """Commented out as a whole."""


SECRET = "change me, and keep this file to yourself"  # noqa: S105 (it is none)

EXAMPLES = (
    Table(
        "radius.server.one",
        {"address": "192.0.2.10", "secret": SECRET},
        example=True,
    ),
    Table(
        "radius.dynamic.client.portal",
        {"address": "192.0.2.20", "secret": SECRET},
        example=True,
    ),
    Table("pool.links", {"block": "2001:db8:0:1::/64", "use": Use.ACCOUNTS}),
    Table(
        "pool.guests",
        {"block": "2001:db8:0:2::/64", "use": Use.ANONYMOUS},
        "For anonymous clients; add `anonymous` to auth.chain as well.",
        example=True,
    ),
    Table("pool.home56", {"block": "2001:db8:1000::/36", "use": Use.PREFIXES, "length": 56}),
)


def sample() -> str:
    """The text of etc/ddtb6.toml."""
    return written(EXAMPLES)


def written(tables: Sequence[Table], heading: str = HEADING) -> str:
    """A configuration with these tables set; of tables that there can be several of, only these."""
    given = {table.name: table for table in tables}
    keys: dict[str, list[Key]] = {}
    for key in describe():
        keys.setdefault(key.section, []).append(key)
    lines = [*_comment(heading)]
    for section, kind in SECTIONS.items():
        lines += ["", *_comment(headline(kind)[1]), f"[{section}]"]
        for key in keys[section]:
            lines += _comment(key.doc)
            lines += _assignment(key, given[section].values if section in given else {})
        lines += _several(f"{section}.", tables, keys)
    lines += _several("", tables, keys)
    return "\n".join(lines) + "\n"


def _several(parent: str, tables: Iterable[Table], keys: Mapping[str, Sequence[Key]]) -> Iterator[str]:
    """Tables there can be several of, right below `parent`; each kind is documented once, before the first."""
    for section, kind in SEVERAL.items():
        prefix = section.removesuffix("NAME")
        if prefix.rpartition(".")[0].rpartition(".")[0] != parent.rstrip("."):
            continue
        title, intro = headline(kind)
        yield ""
        yield from _comment(f"{title}. {intro}".strip())
        size = max(len(key.name) for key in keys[section])
        for key in keys[section]:
            yield from _comment(key.doc, f"  {key.name:<{size}}  ")
        for table in tables:
            if table.name.startswith(prefix) and "." not in table.name.removeprefix(prefix):
                yield ""
                yield from _comment(table.remark)
                hidden = "#" if table.example else ""
                yield f"{hidden}[{table.name}]"
                for key in keys[section]:
                    yield from (
                        each if each.startswith("#") else hidden + each for each in _assignment(key, table.values)
                    )


def _comment(text: str, label: str = "") -> Iterator[str]:
    """Comment lines; `label` stands before the first, and the others are as far in."""
    if text or label:
        lines = textwrap.wrap(
            " ".join(text.split()),
            WIDTH - 2,
            initial_indent=label,
            subsequent_indent=" " * len(label),
            break_on_hyphens=False,
        )
        yield from (f"# {line}" for line in lines)


def _assignment(key: Key, given: Mapping[str, Any]) -> Iterator[str]:
    if key.name in given:
        yield f"{key.name} = {_toml(given[key.name])}"
    elif key.name == "quarantine":
        yield f"#{key.name} = {_toml(int(QUARANTINE[Use(given['use'])]))}"
    elif key.default is not dataclasses.MISSING and not (key.name == "length" and given["use"] is not Use.PREFIXES):
        yield f"#{key.name} = {_toml(key.default)}"


def _toml(value: Any) -> str:
    """A value as TOML; a JSON string, number, boolean or list of these is one."""
    match value:
        case None:
            return '""'
        case Use():
            return json.dumps(value.value)
        case bool() | int() | float() | str():
            return json.dumps(value)
        case Endpoint():
            return json.dumps(str(value))
        case tuple() | list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return json.dumps(str(value))
