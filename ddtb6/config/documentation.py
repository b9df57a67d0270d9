# SPDX-License-Identifier: GPL-2.0-or-later
"""What `config.sections` says of its keys, for whoever writes manuals and samples.

Not here: how that is laid out (docs/man.py, `config.sample`).
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from ddtb6.config import sections
from ddtb6.config.sections import SECTIONS, SEVERAL


class Key(NamedTuple):
    """A configuration key as a manual describes it."""

    section: str
    """Such as ``server``, ``pool.NAME``, or ``radius.server.NAME``."""
    name: str
    type: str
    """In words, such as ``whole number``."""
    default: Any
    """`dataclasses.MISSING` where the key must be given."""
    doc: str


_TYPE_WORDS = {
    "str": "text",
    "bool": "true or false",
    "Path": "path",
    "int": "whole number",
    "float": "number",
    "Use": "text",
    "IPv4Address": "IPv4 address",
    "IPv6Address": "IPv6 address",
    "IPv6Network": "IPv6 prefix",
    "tuple[str, ...]": "list of text",
    "tuple[Endpoint, ...]": "list of ADDRESS:PORT",
}


def describe() -> list[Key]:
    """Every key with its documentation, read from the docstrings in this file."""
    source = ast.parse(inspect.getsource(sections))
    classes = {node.name: node for node in source.body if isinstance(node, ast.ClassDef)}
    keys = []
    for section, kind in [*SECTIONS.items(), *SEVERAL.items()]:
        docs = dict(_field_docs(classes[kind.__name__]))
        for each in dataclasses.fields(kind):
            words = _TYPE_WORDS[str(each.type).removesuffix(" | None")]
            keys.append(Key(section, each.name, words, each.default, docs[each.name]))
    return keys


def _field_docs(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for declaration, following in zip(node.body, node.body[1:], strict=False):
        match declaration, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                yield name, inspect.cleandoc(doc)


def headline(kind: type) -> tuple[str, str]:
    """The title of a section, such as ``[listen]``, and what else there is to say of it as a whole."""
    title, _, rest = (kind.__doc__ or "").partition("\n\n")
    return " ".join(title.split()), " ".join(rest.split())
