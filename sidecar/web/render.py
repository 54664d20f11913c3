"""Templates, and the words in which they show times, sizes and states."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2
from aiohttp import web
from markupsafe import Markup

import sidecar
from sidecar.auth.guard import CALLER, NO_CALLER
from sidecar.domain import fluid
from sidecar.domain.errors import Problem
from sidecar.http import html
from sidecar.http.html import relative_root
from sidecar.web import texts

_ROOT = resources.files("sidecar.web") / "templates"
_TEMPLATES = jinja2.Environment(
    # Read at once: a server that may open no more files goes on to show its pages.
    loader=jinja2.DictLoader({file.name: file.read_text() for file in _ROOT.iterdir() if file.name.endswith(".html")}),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

_DIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

#: A sign beside each word: nothing is told by colour alone.
SIGNS = {
    "NEW": "○", "DEPEND": "◔", "PRIORITY": "◔", "SCHED": "◔", "RUN": "▶", "CLEANUP": "▷", "INACTIVE": "■",
    "COMPLETED": "✓", "FAILED": "✗", "CANCELED": "⊘", "TIMEOUT": "◷",
    "allocated": "▶", "free": "○", "drained": "⏸", "down": "✗",
}  # fmt: skip


async def compile_all() -> None:
    """Compile the templates, and so import what only jinja2's compiler needs: later there may be no file for it."""
    for name in _TEMPLATES.list_templates():
        await asyncio.to_thread(_TEMPLATES.get_template, name)


def page(request: web.Request, name: str, *, status: int = 200, **values: Any) -> web.Response:
    """Answer with a page; every address in it is relative, so that it works behind a prefix that a proxy takes away."""
    caller = request.get(CALLER, NO_CALLER)
    text = _TEMPLATES.get_template(name).render(
        root=relative_root(request.path),
        here=request.path,
        caller=caller,
        scopes=caller.scopes,
        version=sidecar.__version__,
        texts=texts.SCRIPTS,
        **values,
    )
    return html.response(text, status=status)


def error(
    around: Callable[[web.Request, str], dict[str, Any]],
) -> Callable[[web.Request, Problem], web.Response]:
    """Return what shows an error, of the same status and words as programs get it.

    Args:
        around: gives what is around every page.
    """

    def show(request: web.Request, problem: Problem) -> web.Response:
        answer = page(request, "error.html", status=problem.status, **around(request, ""), problem=problem)
        answer.headers.update(problem.headers)
        return answer

    return show


def redirect(request: web.Request, path: str) -> web.Response:
    """Go on with another page after a form was taken, by a relative address."""
    return web.Response(status=303, headers={"Location": relative_root(request.path) + path.lstrip("/")})


def _ago(seconds: float) -> str:
    """Tell a duration in two units at most."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _time(stamp: float | None) -> Markup:
    """Show a time; scripts put it into the reader's own time zone."""
    try:
        when = datetime.datetime.fromtimestamp(stamp or 0, datetime.UTC)
    except (OverflowError, ValueError, OSError):  # what a store of an earlier version may hold
        return Markup("–")
    if not stamp:
        return Markup("–")
    return Markup('<time datetime="{}">{}</time>').format(
        when.isoformat(timespec="milliseconds"), when.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def _badge(word: str) -> Markup:
    return Markup('<span class="badge" data-state="{}"><span aria-hidden="true">{}</span> {}</span>').format(
        word, SIGNS.get(word, ""), word.lower()
    )


def _data(value: Any) -> Markup:
    """JSON for a script to read; what would end its element is escaped."""
    return Markup(json.dumps(value).replace("<", "\\u003c"))  # noqa: S704 - escaped


def _visible(text: object) -> str:
    """Show directional control characters (Unicode, UAX 9) as escapes: they would reorder the text around them."""
    return _DIRECTIONAL.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


_TEMPLATES.filters |= {
    "ago": _ago, "time": _time, "badge": _badge, "data": _data, "plain": fluid.f58_ascii, "visible": _visible,
}  # fmt: skip
