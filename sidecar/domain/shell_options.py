"""Shell options of a request, and those that are rejected before an instance gets them.

Most options are for plugins of Flux's shell, and are passed on unchanged. Options are rejected if no shell accepts
them, or if the resources of a job could not be counted with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sidecar.domain import json_size, untrusted
from sidecar.domain.errors import InvalidRequest

LONGEST_PATH = 32
"""Maximum number of parts of a dotted name."""

_INVALID = "Invalid submit request"
_DEEPEST = 16
_PER_RESOURCE = 'an object {"type": "node" or "core", "count": a whole number from 1 on}'
_SUPPORTED = ("per-resource", "input")  # by the embedded engine
_NAMED, _LONGEST_NAME = 5, 40
#: Options that require the path of a file as their value.
_PATHS = ("input.stdin.path", "output.stdout.path", "output.stderr.path")


def parse(value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Return the options of ``option_flags``: an object, or ``KEY=VALUE,KEY=VALUE``.

    Raises:
        InvalidRequest: a key begins with ``-o`` or has no value, or no shell accepts the value.
    """
    if not value:
        return {}
    if isinstance(value, str):
        value = _split(value)
    texts = [text.encode(errors="replace") for text in value.values() if isinstance(text, str)]
    parts = len(value) + sum(key.count(".") for key in value)  # each becomes an object
    json_size.check("option_flags", parts + sum(map(json_size.count, texts)), _INVALID)
    errors = [f"Please provide keys without -o, {key} is invalid." for key in value if key.startswith("-o")]
    errors += [
        f"option_flags: {untrusted.shown(key)} is not the name of a shell option." for key in value if not _is_path(key)
    ]
    flags = {key: _scalar(text) if isinstance(text, str) else text for key, text in value.items()}
    errors += [
        f"option_flags: {untrusted.shown(key)}: {why}" for key, each in flags.items() if (why := _not_json(each))
    ]
    if errors:
        raise InvalidRequest(" ".join(errors), errors=errors, message=_INVALID)
    return flags


def _split(text: str) -> dict[str, str]:
    json_size.check("option_flags", text.count(","), _INVALID)
    flags: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidRequest(f"option_flags: {part!r} needs a value: KEY=VALUE.", message=_INVALID)
        flags[key] = value
    return flags


def check(options: Mapping[str, Any]) -> None:
    """Check the types of a job's options, those of the server and of the request together.

    Raises:
        InvalidRequest: an option has the wrong type.
    """
    errors = []
    for path in _PATHS:
        value = _at(options, path)
        if value is not None and not (isinstance(value, str) and value):
            errors.append(f"option_flags: {path}: expected the path of a file; got {untrusted.shown(value)}.")
    for path in ("input", "input.stdin", "output", "output.stdout", "output.stderr"):
        value = _at(options, path)
        if value is not None and not isinstance(value, dict):
            errors.append(
                f"option_flags: {path}: expected an object, or KEY=VALUE with {path}.… for a key; "
                f"got {untrusted.shown(value)}."
            )
    if (per := options.get("per-resource")) is not None and wrong_per_resource(per):
        errors.append(f"option_flags: per-resource: expected {_PER_RESOURCE}; {wrong_per_resource(per)}.")
    if errors:
        raise InvalidRequest(" ".join(errors), errors=errors, message=_INVALID)


def ignored(value: dict[str, Any] | str | None) -> str:
    """Return a warning with the options that the embedded engine ignores; empty if it supports all of them."""
    names = [key for key in parse(value) if key.partition(".")[0] not in _SUPPORTED]
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = ", ".join(untrusted.text(name, _LONGEST_NAME) for name in names[:_NAMED])
    return f"option_flags: the embedded engine does not have Flux's shell, and ignores {shown}{more}."


def wrong_per_resource(value: Any) -> str:
    """Return what is wrong with a value of the option ``per-resource``; empty if the shell accepts it."""
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
    """Return an option's value as flux-submit(1) reads it: as JSON if it is valid, otherwise as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _not_json(value: Any) -> str:
    """Return why Flux could not read a value; empty if it can."""
    if untrusted.too_deep(value, _DEEPEST):
        return f"objects and lists may be nested {_DEEPEST} times."
    if fault := untrusted.unusable(value):
        return f"{fault}."
    if not untrusted.is_plain(value):
        return "whole numbers must fit in 64 bits, and other numbers must be finite."
    return ""


def _at(options: Mapping[str, Any], path: str) -> Any:
    node: Any = options
    for name in path.split("."):
        if not isinstance(node, dict):
            return None
        node = node.get(name)
    return node
