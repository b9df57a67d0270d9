# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON API: verbs, and functions like them, as rows of the table of routes, and the document that describes it all.

A row's arguments come from the path, then from the query (GET, DELETE) or from a JSON object in the body (POST, PUT).
An error is problem JSON (RFC 9457). The OpenAPI document is made of the same rows: arguments from their schemas,
answers from the return types of the functions, words from their documentation.
Not here: what the verbs do (`control`), tokens and roles (`visitors`, `routes`).
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ddtb6 import __version__
from ddtb6.broker.views import plain
from ddtb6.web.control import VERBS, Control
from ddtb6.web.exchange import Answer, Refused, Request, json_answer
from ddtb6.web.pages import PROBLEM, TITLES
from ddtb6.web.routes import Route
from ddtb6.web.schema import Schemas
from ddtb6.web.verbs import ROWS as ROWS_AT_MOST
from ddtb6.web.verbs import STATUS, Actor, Argument, ControlError, Verb
from ddtb6.web.visitors import Role, Visitor

V1 = "/api/v1"
DOCUMENT = "/api/openapi.json"
WITH_BODY = ("POST", "PUT")
ROWS: Sequence[tuple[str, str, str, Role]] = (
    ("GET", "/overview", "overview", Role.NOBODY),
    ("GET", "/history", "history", Role.NOBODY),
    ("GET", "/sessions", "session.list", Role.ADMINISTRATOR),
    ("GET", "/sessions/{id}", "session.show", Role.ADMINISTRATOR),
    ("DELETE", "/sessions/{id}", "session.kill", Role.ADMINISTRATOR),
    ("GET", "/past-sessions", "session.past", Role.ADMINISTRATOR),
    ("GET", "/leases", "lease.list", Role.ADMINISTRATOR),
    ("DELETE", "/leases/{owner}", "lease.release", Role.ADMINISTRATOR),
    ("GET", "/whois", "whois", Role.ADMINISTRATOR),
    ("GET", "/users", "user.list", Role.ADMINISTRATOR),
    ("POST", "/users", "user.add", Role.ADMINISTRATOR),
    ("GET", "/users/{name}", "user.show", Role.ADMINISTRATOR),
    ("GET", "/users/{name}/history", "user.history", Role.ADMINISTRATOR),
    ("DELETE", "/users/{name}", "user.delete", Role.ADMINISTRATOR),
    ("PUT", "/users/{name}/password", "user.passwd", Role.ADMINISTRATOR),
    ("PUT", "/users/{name}/assigned", "user.assign", Role.ADMINISTRATOR),
    ("POST", "/users/{name}/disable", "user.disable", Role.ADMINISTRATOR),
    ("POST", "/users/{name}/enable", "user.enable", Role.ADMINISTRATOR),
    ("GET", "/events", "event.list", Role.ADMINISTRATOR),
    ("GET", "/journal", "journal.list", Role.ADMINISTRATOR),
    ("GET", "/audit", "audit.list", Role.ADMINISTRATOR),
    ("GET", "/tokens", "token.list", Role.ADMINISTRATOR),
    ("DELETE", "/tokens/{name}", "token.delete", Role.ADMINISTRATOR),
)
"""Method, path below `V1`, verb, role. Not here: `admin.*` and `token.add`, so that a stolen token cannot make more."""

ROWS_BY_DEFAULT: Mapping[str, int] = {"session.list": 100, "lease.list": 100, "user.list": 100}
"""`limit` where a request has none; the verbs themselves give more, or all, to the tool."""

Function = Callable[..., Awaitable[Any] | Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What the document says of a row."""

    name: str
    function: Function
    """Its documentation and its return type."""
    needed: Mapping[str, Argument] = field(default_factory=dict)
    optional: Mapping[str, Argument] = field(default_factory=dict)
    errors: Sequence[int] = (400, 404, 409, 500, 503)
    """Statuses besides those that any request can get."""


def endpoint(
    method: str,
    path: str,
    role: Role,
    function: Callable[..., Any],
    needed: Mapping[str, Argument] | None = None,
    optional: Mapping[str, Argument] | None = None,
) -> Route:
    """A row of `V1` for what is no verb, awaitable or not, with a return type: ``function(visitor, **arguments)``.

    With ``request`` before ``visitor`` where it has a parameter of that name.
    """
    whole = "request" in inspect.signature(function).parameters
    verb = Verb(lambda _: function, needed or {}, optional or {})
    name = f"{method.lower()}{re.sub('[^a-z]+', '.', path)}".rstrip(".")

    async def answer(request: Request, visitor: Visitor) -> Answer:
        first = (request, visitor) if whole else (visitor,)
        return await _answer(request, name, verb, lambda checked: function(*first, **checked))

    return Route(method, V1 + path, role, answer, operation=Operation(name, function, verb.needed, verb.optional))


def routes(control: Control) -> list[Route]:
    """The rows of the verbs."""
    return [_of_verb(control, *row) for row in ROWS]


def _of_verb(control: Control, method: str, path: str, name: str, role: Role) -> Route:
    verb = VERBS[name]
    if "limit" in verb.optional:
        verb = replace(verb, optional={**verb.optional, "limit": ROWS_AT_MOST})

    async def answer(request: Request, visitor: Visitor) -> Answer:
        async def run(checked: dict[str, Any]) -> Any:
            return await control.run_checked(name, checked, actor(request, visitor))

        return await _answer(request, name, verb, run)

    operation = Operation(name, verb.run(control), verb.needed, verb.optional)
    return Route(method, V1 + path, role, answer, operation=operation)


def actor(request: Request, visitor: Visitor) -> Actor:
    """Who calls a verb by this request."""
    kind, name = ("token", visitor.token) if visitor.token else (_ACTORS[visitor.role], visitor.name)
    return Actor(f"{kind}:{name}", request.source, visitor.session)


_ACTORS: Mapping[Role, str] = {Role.NOBODY: "nobody", Role.OWNER: "user", Role.ADMINISTRATOR: "administrator"}


async def _answer(request: Request, name: str, verb: Verb, run: Callable[[dict[str, Any]], Any]) -> Answer:
    """The arguments of a request checked, and what `run` makes of them as JSON. Raises Refused."""
    try:
        checked = verb.check(name, _arguments(request, verb))
        if "limit" not in checked and name in ROWS_BY_DEFAULT:
            checked["limit"] = ROWS_BY_DEFAULT[name]
        value = run(checked)
        return json_answer(plain(await value if inspect.isawaitable(value) else value))
    except ControlError as error:
        raise Refused(STATUS[error.kind], sentence(error)) from None


def sentence(error: ControlError) -> str:
    """The message as a sentence that stands for itself."""
    words = str(error)
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '?')) else '.'}"


def _arguments(request: Request, verb: Verb) -> dict[str, object]:
    """What a request brings, not checked yet."""
    given: dict[str, object] = {}
    if request.method in WITH_BODY:
        if request.body and request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refused(415, "The body must be JSON, with Content-Type: application/json.")
        body = request.json()
        if not isinstance(body, dict):
            raise Refused(400, "The body must be a JSON object.")
        given.update(body)
        texts = dict(request.values)
        if request.query:
            raise Refused(400, "Arguments of this request stand in its body, not in the query.")
    else:
        texts = {**request.query, **request.values}
    for name in request.values:
        if name in given or name in request.query:
            raise Refused(400, f"{name[:40]} stands in the path already.")
    for name, text in texts.items():
        known = verb.arguments.get(name)
        try:
            given[name] = text if known is None else known.read(text)
        except ValueError:
            given[name] = text
    return given


# --- the document -------------------------------------------------------------------------------------------------


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document of the rows that have an operation."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.operation is not None:
            paths.setdefault(route.path, {})[route.method.lower()] = _described(route, route.operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ddtb6",
            "version": __version__,
            "description": "An IPv6 tunnel broker. Times are seconds since 1970 UTC.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`ddtb6 token add NAME` makes one."}
            },
            "schemas": {**schemas.components, "Problem": _PROBLEM},
        },
    }


_PROBLEM: Mapping[str, Any] = {
    "type": "object",
    "description": "Why a request was not answered (RFC 9457).",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail"],
    "additionalProperties": False,
}


def _described(route: Route, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    in_path = re.findall(r"\{([^}]*)\}", route.path)
    known = {**operation.needed, **operation.optional}
    summary, _, rest = inspect.cleandoc(operation.function.__doc__ or "").partition("\n\n")
    errors = {413, 429, *operation.errors}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": " ".join(summary.split()),
        "description": " ".join(rest.split()),
        "parameters": [_parameter(name, "path", known[name], True) for name in in_path],
    }
    others = [name for name in known if name not in in_path]
    if route.method in WITH_BODY:
        errors.add(415)
        required = [name for name in others if name in operation.needed]
        body: dict[str, Any] = {
            "type": "object",
            "properties": {name: known[name].schema for name in others},
            "additionalProperties": False,
        }
        if required:
            body["required"] = required
        described["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": body}}}
    else:
        described["parameters"] += [_parameter(name, "query", known[name], name in operation.needed) for name in others]
    if route.role is not Role.NOBODY:
        errors |= {401, 403}
        described["security"] = [{"token": []}]
    returns = typing.get_type_hints(operation.function).get("return", object)
    answer = {"description": "Done.", "content": {"application/json": {"schema": schemas.of(returns)}}}
    problem = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    described["responses"] = {
        "200": answer,
        **{
            str(status): {"description": TITLES.get(status, "Not done"), "content": problem}
            for status in sorted(errors)
        },
    }
    return described


def _parameter(name: str, where: str, argument: Argument, required: bool) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": argument.schema}
