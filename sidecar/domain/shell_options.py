"""Shell options as a request gives them, and which of them are refused before any instance sees them.

Most options mean something to a plugin of Flux's shell alone, and are passed on as they are. Refused is what no shell
takes, and what the figures of a job are made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sidecar.domain import json_size as members
from sidecar.domain import untrusted
from sidecar.domain.errors import InvalidRequest

#: The most parts of a dotted name.
LONGEST_PATH = 32

_INVALID = "Invalid submit request"
_DEEPEST = 16
_PER_RESOURCE = 'an object {"type": "node" or "core", "count": a whole number from 1 on}'
#: Options that are the path of a file, and nothing else.
_HEEDED = ("per-resource", "input")  # by the embedded engine
_NAMED, _LONGEST_NAME = 5, 40
_PATHS = ("input.stdin.path", "output.stdout.path", "output.stderr.path")


def parse(value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Read ``option_flags``: an object, or ``KEY=VALUE,KEY=VALUE``.

    Raises:
        InvalidRequest: a key with ``-o``, one without a value, or a value that no shell takes.
    """
    if not value:
        return {}
    if isinstance(value, str):
        members.check("option_flags", value.count(","), _INVALID)
        flags: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            key, equals, text = part.partition("=")
            if not equals:
                raise InvalidRequest(f"option_flags: {part!r} needs a value: KEY=VALUE.", message=_INVALID)
            flags[key] = text
        value = flags
    texts = [text.encode(errors="replace") for text in value.values() if isinstance(text, str)]
    parts = len(value) + sum(key.count(".") for key in value)  # each of them becomes an object
    members.check("option_flags", parts + sum(map(members.count, texts)), _INVALID)
    errors = [f"Please provide keys without -o, {key} is invalid." for key in value if key.startswith("-o")]
    errors += [
        f"option_flags: {untrusted.shown(key)} is not the name of a shell option." for key in value if not _is_path(key)
    ]
    flags = {key: _scalar(text) if isinstance(text, str) else text for key, text in value.items()}
    errors += [f"option_flags: {untrusted.shown(key)}: {why}" for key, each in flags.items() if (why := _no_json(each))]
    if errors:
        raise InvalidRequest(" ".join(errors), errors=errors, message=_INVALID)
    return flags


def check(options: Mapping[str, Any]) -> None:
    """Let the options of a job through, all those of the server and of its request together.

    Raises:
        InvalidRequest: one of those that have a known shape has another.
    """
    errors = []
    for path in _PATHS:
        found = _at(options, path)
        if found is not None and not (isinstance(found, str) and found):
            errors.append(f"option_flags: {path}: expected the path of a file; got {untrusted.shown(found)}.")
    for path in ("input", "input.stdin", "output", "output.stdout", "output.stderr"):
        found = _at(options, path)
        if found is not None and not isinstance(found, dict):
            errors.append(
                f"option_flags: {path}: expected an object, or KEY=VALUE with {path}.… for a key; "
                f"got {untrusted.shown(found)}."
            )
    if (per := options.get("per-resource")) is not None and wrong_per_resource(per):
        errors.append(f"option_flags: per-resource: expected {_PER_RESOURCE}; {wrong_per_resource(per)}.")
    if errors:
        raise InvalidRequest(" ".join(errors), errors=errors, message=_INVALID)


def ignored(value: dict[str, Any] | str | None) -> str:
    """Return which options of a request the embedded engine passes over, as a warning; nothing where it heeds all."""
    names = [key for key in parse(value) if key.partition(".")[0] not in _HEEDED]
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = ", ".join(untrusted.text(name, _LONGEST_NAME) for name in names[:_NAMED])
    return f"option_flags: the embedded engine has no shell of Flux, and passes over {shown}{more}."


def wrong_per_resource(value: Any) -> str:
    """Say what is wrong with a value of the option ``per-resource``; nothing when the shell takes it."""
    if not isinstance(value, dict):
        return f"got {untrusted.shown(value)}"
    kind, count = value.get("type"), value.get("count", 1)
    if not isinstance(kind, str) or kind not in ("node", "core"):
        return f"the type is {untrusted.shown(kind)}"
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= untrusted.COUNT:
        return f"the count is {untrusted.shown(count)}"
    return ""


def _is_path(key: str) -> bool:
    return key.count(".") < LONGEST_PATH and all(key.split("."))


def _scalar(text: str) -> Any:
    """Read an option's value as flux-submit(1) does: JSON where it is JSON, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _no_json(value: Any) -> str:
    """Say why Flux could not read a value; nothing when it can."""
    if untrusted.too_deep(value, _DEEPEST):
        return f"objects and lists may be nested {_DEEPEST} times."
    if fault := untrusted.unusable(value):
        return f"{fault}."
    if not untrusted.is_plain(value):
        return "whole numbers have 64 bits, and others are finite."
    return ""


def _at(options: Mapping[str, Any], path: str) -> Any:
    node: Any = options
    for name in path.split("."):
        if not isinstance(node, dict):
            return None
        node = node.get(name)
    return node
