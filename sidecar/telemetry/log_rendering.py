"""Render log lines: as JSON or as text, on one line, without text that moves a terminal's cursor."""

from __future__ import annotations

import functools
import json
import re
import reprlib
import sys
import time
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

from sidecar.domain.untrusted import excerpt

Fields = MutableMapping[str, Any]
"""The fields of a line."""

_HIDDEN = re.compile(r"[^ -~]")
_UNCOMMON = frozenset({"exception", "exc_info", "stack", "logger", "logger_name"})
_quoted_in = re.compile("[ \\t\\r\\n=\"']").search
_LONGEST_TEXT = 1000  # characters of a value
_LONGEST_TRACEBACK = 8000


def renderers(log_format: str) -> list[Any]:
    """Return the last processors of structlog for a format, ``json`` or ``console``."""
    if log_format == "json":
        return [structlog.processors.JSONRenderer(serializer=as_json)]
    colors = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)
    return [_drop_empty, _on_one_line, renderer if colors else PlainRenderer(renderer)]


class PlainRenderer:
    """Render common lines as ConsoleRenderer does without colors, in a tenth of its time.

    Args:
        renderer: renders all other lines: those with a traceback, or of a library.
    """

    def __init__(self, renderer: structlog.dev.ConsoleRenderer) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, name: str, fields: Fields) -> str:
        """Return the text of a line."""
        if not _UNCOMMON.isdisjoint(fields):
            return self._renderer(logger, name, fields)
        head = f"{fields.pop('timestamp')} [{fields.pop('level'):<9}] {fields.pop('event'):<30}"
        parts = [
            f"{name}={value}" if isinstance(value, str) and not _quoted_in(value) else f"{name}={value!r}"
            for name, value in fields.items()
        ]
        return " ".join([head, *parts]).rstrip(" ")


def as_json(fields: Fields, **_: Any) -> str:
    """Return a line as JSON; values that have no JSON as their representation."""
    try:
        text = msgspec.json.encode(fields, enc_hook=repr).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):  # a lone surrogate, a key that is no text, depth
        text = json.dumps({n: v if isinstance(v, str | int | None) else reprlib.repr(v) for n, v in fields.items()})
    return text if text.isprintable() else _HIDDEN.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    r"""Return a character that moves a terminal's cursor, or reorders text, as ``\u`` escape."""
    return json.dumps(match[0])[1:-1] if not match[0].isprintable() else match[0]


def timestamp(now: float) -> str:
    """Return a Unix time in UTC, with microseconds."""
    second = int(now)
    return f"{_second(second)}.{int((now - second) * 1e6):06d}Z"


@functools.lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def add_timestamp(_: Any, __: str, fields: Fields) -> Fields:
    """Add the current time."""
    fields["timestamp"] = timestamp(time.time())
    return fields


def _drop_empty(_: Any, __: str, fields: Fields) -> Fields:
    """Drop empty fields from lines for people, such as ``caller=``."""
    return {name: value for name, value in fields.items() if value != "" or name == "event"}


def _on_one_line(_: Any, __: str, fields: Fields) -> Fields:
    """Escape text that would start a new line or move a terminal's cursor; indent a traceback."""
    for name, value in fields.items():
        if isinstance(value, str) and not value.isprintable():
            lines = value.split("\n") if name == "exception" else ()
            fields[name] = "\n".join(f"  | {_printable(line)}" for line in lines) if lines else repr(value)
    return fields


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


def shorten(_: Any, __: str, fields: Fields) -> Fields:
    """Shorten long values: clients choose paths and names."""
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > _LONGEST_TEXT:
            fields[name] = excerpt(value, _LONGEST_TRACEBACK if name == "exception" else _LONGEST_TEXT)
        elif isinstance(value, dict):
            fields[name] = {
                key: excerpt(part, _LONGEST_TEXT) if isinstance(part, str) else part for key, part in value.items()
            }
    return fields
