"""What is wrong with a value, in words that do not depend on the language of the server."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sidecar.domain import untrusted

#: msgspec's names of types, and what they are to a caller.
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
_ITEM = re.compile(r" - at \$\[(\d+)\]")
_PLACE = re.compile(r" - at \$\.?")
_GOT = re.compile(r", got \w+")
_ANY_MEMBER = " - at $[...]"


def plain(exc: msgspec.ValidationError) -> str:
    """Return a fault that msgspec has found, in plain words.

    Args:
        exc: as ``Expected `int | null`, got `str` - at `$[0]```.

    Returns:
        As ``expected a whole number in item 1``.
    """
    text = _GOT.sub("", str(exc).replace("`", ""))
    if match := _EXPECTED.match(text):
        kinds = [_KINDS[each] for each in match[1].split(" | ") if each in _KINDS]
        unit = "items" if kinds == [_KINDS["array"]] else "characters"
        text = f"Expected {' or '.join(kinds)}{_LENGTH.sub(lambda found: _length(found, unit), match[2])}"
    text = _ITEM.sub(lambda found: f" in item {int(found[1]) + 1}", text)
    text = _PLACE.sub(" at ", text)
    return text[:1].lower() + text[1:]


def member(name: str, value: Any, exc: msgspec.ValidationError) -> tuple[str, str, Any]:
    """Return which member of an object is wrong: msgspec does not name it.

    Args:
        name: of the parameter.
        value: the parameter's.
        exc: what msgspec says of it.

    Returns:
        The name of what is wrong, as ``envars.OMP_NUM_THREADS``, the fault, and its value.
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
    """Return what a JSON value is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return next(text for type_, text in _JSON.items() if isinstance(value, type_))


_JSON = {list: "an array", dict: "an object", str: "a string", int: "a number", float: "a number"}


def _length(match: re.Match[str], unit: str) -> str:
    if match[1] == "<=":
        return f" of at most {match[2]} {unit}"
    return " that is not empty" if match[2] == "1" else f" of at least {match[2]} {unit}"
