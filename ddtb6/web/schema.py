# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON schemas (draft 2020-12, as OpenAPI 3.1 has them) of what `broker.views.plain` makes of typed values.

Not here: the schemas of arguments (`verbs`).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from ddtb6.addressing.endpoint import Endpoint

_PLAIN: Mapping[Any, Mapping[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    object: {},
    Any: {},
    IPv6Address: {"type": "string", "format": "ipv6"},
    IPv6Network: {"type": "string", "description": "An IPv6 prefix, such as 2001:db8:1::/48."},
    Endpoint: {"type": "string", "description": "Address and port, such as 192.0.2.1:3653 or [2001:db8::1]:3653."},
}


class Schemas:
    """Collects the schemas of dataclasses, to be referred to by name."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type. Raises TypeError for one that has no JSON form."""
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        if isinstance(kind, typing.NewType):
            return self.of(kind.__supertype__)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._object(kind)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return {"enum": [each.value for each in kind]}
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(each) for each in arguments]}
        if origin in (tuple, list, frozenset, collections.abc.Sequence):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin in (dict, collections.abc.Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        raise TypeError(f"{kind} has no JSON form")

    def _object(self, kind: type) -> dict[str, Any]:
        name = kind.__name__
        if name not in self.components:
            self.components[name] = {}  # so that a type may hold itself
            hints = typing.get_type_hints(kind)
            properties = {each.name: self.of(hints[each.name]) for each in dataclasses.fields(kind)}
            self.components[name] = {
                "type": "object",
                "description": (kind.__doc__ or "").partition("\n")[0],
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        return {"$ref": f"#/components/schemas/{name}"}
