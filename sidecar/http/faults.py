"""Describe faults of values in terms of JSON and HTTP, not of Python and msgspec."""

from __future__ import annotations

import re
import reprlib
from typing import Any

import msgspec

from sidecar.domain import untrusted

_MAX_QUOTED = 80  # characters of a value that an error quotes
_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,40}")
_repr = reprlib.Repr()
_repr.maxlevel = 3
#: Names of msgspec's types in errors.
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
}
_EXPECTED = re.compile(r"Expected ((?:int|float|str|bool|array|object|null)(?: \| (?:\w+))*)(.*)", re.DOTALL)
_LENGTH = re.compile(r" of length ([<>]=) (\d+)")
_JSON = {list: "an array", dict: "an object", str: "a string", int: "a number", float: "a number"}
_ITEM = re.compile(r" - at \$\[(\d+)\]")
_POSITION = re.compile(r" - at \$\.?")
_GOT = re.compile(r", got \w+")
_ANY_MEMBER = " - at $[...]"


def plain(exc: msgspec.ValidationError) -> str:
    """Translate a fault that msgspec found.

    Args:
        exc: such as ``Expected `int | null`, got `str` - at `$[0]```.

    Returns:
        Such as ``expected a whole number in item 1``.
    """
    text = _GOT.sub("", str(exc).replace("`", ""))
    if match := _EXPECTED.match(text):
        kinds = [_KINDS[name] for name in match[1].split(" | ") if name in _KINDS]
        unit = "items" if kinds == [_KINDS["array"]] else "characters"
        text = f"Expected {' or '.join(kinds)}{_LENGTH.sub(lambda length: _length(length, unit), match[2])}"
    text = _ITEM.sub(lambda item: f" in item {int(item[1]) + 1}", text)
    text = _POSITION.sub(" at ", text)
    return text[:1].lower() + text[1:]


def member(name: str, value: Any, exc: msgspec.ValidationError) -> tuple[str, str, Any]:
    """Locate the wrong member of an object, which msgspec does not name.

    Args:
        name: of the parameter.
        value: of the parameter.
        exc: the fault that msgspec found.

    Returns:
        The name of the wrong member, such as ``envars.OMP_NUM_THREADS``, the fault, and the member's value.
    """
    text = plain(exc)
    if _ANY_MEMBER not in str(exc).replace("`", "") or not isinstance(value, dict):
        return name, text, value
    text = plain(msgspec.ValidationError(str(exc).replace("`", "").replace(_ANY_MEMBER, "")))
    if text == "expected text":
        for key, each in value.items():
            if not isinstance(each, str):
                return f"{name}.{untrusted.shown(key)[1:-1]}", "expected text: put it in quotes", each
    return name, f"{text} as each of its members", value


def kind(value: Any) -> str:
    """Return the kind of a JSON value, such as ``an array``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return next(text for type_, text in _JSON.items() if isinstance(value, type_))


def quote_name(name: str) -> str:
    """Return a parameter's name for the start of an error; one with unusual characters is quoted."""
    return name if _NAME.fullmatch(name) else quote(name)


def quote(value: Any) -> str:
    """Quote a received value in an error, shortened, whatever its size and depth."""
    if isinstance(value, str):
        value = value[:_MAX_QUOTED]
    elif not isinstance(value, bytes | int | float | None):
        return _repr.repr(value)[: _MAX_QUOTED + 3]
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 3] + "..."


def _length(match: re.Match[str], unit: str) -> str:
    if match[1] == "<=":
        return f" of at most {match[2]} {unit}"
    return " that is not empty" if match[2] == "1" else f" of at least {match[2]} {unit}"
