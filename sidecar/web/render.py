"""Render the templates: the texts of scripts and messages, and the formats of times, durations and states."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from importlib import resources
from typing import Any

import jinja2
from aiohttp import web
from markupsafe import Markup

import sidecar
from sidecar.auth.guard import CALLER, NO_CALLER
from sidecar.domain import fluid
from sidecar.http import html
from sidecar.http.html import relative_root

_ROOT = resources.files("sidecar.web") / "templates"
_TEMPLATES = jinja2.Environment(
    # Read at import: a server that has no file descriptors left still shows its pages.
    loader=jinja2.DictLoader({file.name: file.read_text() for file in _ROOT.iterdir() if file.name.endswith(".html")}),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

_DIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

#: A symbol beside each state, so that color is never the only difference.
_SYMBOLS = {
    "NEW": "○", "DEPEND": "◔", "PRIORITY": "◔", "SCHED": "◔", "RUN": "▶", "CLEANUP": "▷", "INACTIVE": "■",
    "COMPLETED": "✓", "FAILED": "✗", "CANCELED": "⊘", "TIMEOUT": "◷",
    "allocated": "▶", "free": "○", "drained": "⏸", "down": "✗",
}  # fmt: skip

#: The texts of the scripts, which read them from the page.
_SCRIPT_TEXTS = {
    "lost": "The connection is lost; this page retries.",
    "gone": "The instance has ended. If it was a MiniCluster, its Job is complete.",
    "copied": "Copied",
    "copy": "Copy",
    "followed": "Following",
    "paused": "Paused",
    "ended": "The job has ended; this is all of its output.",
    "ended_here": "The job has ended; this is the end of its output.",
    "redirected": "{stream} of task {rank} goes to {path}",
    "nothing": "The job has written nothing yet.",
    "nothing_ever": "The job has written nothing.",
    "shortened": "Only the last {lines} lines are shown here; download the file for all of it.",
    "matches": "{count} lines match",
    "cancel_one": "Cancel this job?",
    "cancel_many": "Cancel {count} jobs?",
    "pending": "pending",
    "running": "running",
}

#: The message of a page after an action, by the word for it in the page's address.
_DONE_TEXTS = {
    "launched": "The launcher was started; the jobs that it submits appear in this table.",
    "cancelled": "The job was asked to end.",
    "signalled": "The signal was sent to the job.",
    "drained": "The node is drained: no more jobs start there.",
    "undrained": "Jobs start on the node again.",
}


async def compile_all() -> None:
    """Compile the templates now: the compiler's modules may not be readable later, without free file descriptors."""
    for name in _TEMPLATES.list_templates():
        await asyncio.to_thread(_TEMPLATES.get_template, name)


def template(name: str) -> jinja2.Template:
    """Return a template by its file name."""
    return _TEMPLATES.get_template(name)


def render_page(request: web.Request, name: str, *, status: int = 200, **values: Any) -> web.Response:
    """Return a page; all addresses in it are relative, so that it works behind a proxy that removes a path prefix."""
    caller = request.get(CALLER, NO_CALLER)
    text = template(name).render(
        root=relative_root(request.path),
        caller=caller,
        scopes=caller.scopes,
        version=sidecar.__version__,
        texts=_SCRIPT_TEXTS,
        **values,
    )
    return html.response(text, status=status)


def redirect(request: web.Request, path: str) -> web.Response:
    """Redirect to another page after a form was processed, by a relative address."""
    return web.Response(status=303, headers={"Location": relative_root(request.path) + path.lstrip("/")})


def done_text(word: str) -> str:
    """Return the message for an action; empty for an unknown word."""
    return _DONE_TEXTS.get(word, "")


def _duration(seconds: float) -> str:
    """Format a duration in at most two units."""
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


def _time(timestamp: float | None) -> Markup:
    """Format a time in UTC; scripts change it to the browser's time zone."""
    try:
        when = datetime.datetime.fromtimestamp(timestamp or 0, datetime.UTC)
    except (OverflowError, ValueError, OSError):  # a store of an earlier version may have such times
        return Markup("–")
    if not timestamp:
        return Markup("–")
    return Markup('<time datetime="{}">{}</time>').format(
        when.isoformat(timespec="milliseconds"), when.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def _badge(state: str) -> Markup:
    return Markup('<span class="badge" data-state="{}"><span aria-hidden="true">{}</span> {}</span>').format(
        state, _SYMBOLS.get(state, ""), state.lower()
    )


def _data(value: Any) -> Markup:
    """Encode a value as JSON for a script element; ``<`` is escaped, because it could end the element."""
    return Markup(json.dumps(value).replace("<", "\\u003c"))  # noqa: S704 - escaped


def _visible(text: object) -> str:
    """Show directional control characters (Unicode, UAX 9) as escapes: they would reorder the text around them."""
    return _DIRECTIONAL.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


_TEMPLATES.filters |= {
    "duration": _duration, "time": _time, "badge": _badge, "data": _data, "ascii": fluid.f58_ascii, "visible": _visible,
}  # fmt: skip
