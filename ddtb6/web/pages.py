# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages out of templates: the frame around all of them, how amounts and times are written, and refusals.

Invariant: every value in a page is escaped by the template engine; templates mark nothing as safe.
Not here: what the pages say (each handler's own).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from importlib import resources
from typing import Any
from urllib.parse import quote

import jinja2

from ddtb6 import __version__
from ddtb6.web.amounts import days_left, fullness, grouped, inner, octets, span, when
from ddtb6.web.exchange import Answer, Request, json_answer
from ddtb6.web.explained import ended, refused
from ddtb6.web.visitors import Visitor

STATIC: Mapping[str, str] = {
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Files that pages load, with their types."""
TITLES: Mapping[int, str] = {
    400: "That cannot be read",
    401: "Not without a token",
    403: "Not allowed",
    404: "Not here",
    405: "Not in this way",
    409: "Not possible now",
    413: "Too large",
    415: "Not in this form",
    429: "Too many requests",
    500: "That failed",
    503: "Not now",
}
PROBLEM = "application/problem+json"


def _load(name: str) -> bytes:
    return resources.files("ddtb6.web").joinpath("static", name).read_bytes()


_static = {name: _load(name) for name in STATIC}
_pages = jinja2.Environment(
    loader=jinja2.PackageLoader("ddtb6.web"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_pages.filters.update(grouped=grouped, fullness=fullness, octets=octets, span=span, when=when)
_pages.filters.update(ended=ended, refused=refused, days_left=days_left, segment=partial(quote, safe=""), inner=inner)
_pages.globals["version"] = __version__
_pages.globals["static"] = {name: f"/{name}?{sha256(body).hexdigest()[:12]}" for name, body in _static.items()}


def page(
    request: Request,
    visitor: Visitor,
    template: str,
    /,
    status: int = 200,
    headers: tuple[tuple[str, str], ...] = (),
    **context: Any,
) -> Answer:
    """A page in the frame. The template has `request`, `visitor`, `notice` and what is in `context`."""
    notice = visitor.session.take_notice() if visitor.session is not None else ""
    text = _pages.get_template(template).render(request=request, visitor=visitor, notice=notice, **context)
    return Answer(text.encode("utf-8", "replace"), status=status, headers=headers)


def fragment(template: str, /, **context: Any) -> str:
    """A template without the frame, such as a drawing or a piece of a page that is loaded again."""
    return _pages.get_template(template).render(**context)


def static_file(request: Request, visitor: Visitor) -> Answer:
    """A file of `STATIC`, by the path."""
    name = request.path[1:]
    return Answer(_static[name], STATIC[name], cache="max-age=3600")


def refusal(request: Request, visitor: Visitor, status: int, sentence: str, *headers: tuple[str, str]) -> Answer:
    """Why there is no answer: a page, or problem JSON (RFC 9457) below /api/."""
    title = TITLES.get(status, "That did not work")
    if request.path.startswith("/api/"):
        value = {"type": "about:blank", "title": title, "status": status, "detail": sentence}
        answer = json_answer(value, status, PROBLEM)
        return Answer(answer.body, answer.content_type, status, headers=headers)
    return page(request, visitor, "refusal.html", status, headers, title=title, sentence=sentence)
