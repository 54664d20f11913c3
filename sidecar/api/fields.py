"""From what a caller sent to a struct, or to one error that names every fault and says what to change."""

from __future__ import annotations

import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from multidict import MultiMapping

from sidecar.errors import InvalidRequest

S = TypeVar("S", bound=msgspec.Struct)

_BOOLEANS = {"on": "true", "yes": "true", "off": "false", "no": "false"}
_WHOLE = re.compile(r"(-?\d+)\.0+")
_GOT = re.compile(r", got \w+")
_NO_COMMAND = "A 'command' is minimally required."


def decode(
    cls: type[S],
    values: Mapping[str, Any],
    *,
    text: frozenset[str],
    message: str,
    loose: bool = False,
    form: bool = False,
) -> S:
    """Make a ``cls`` of named values.

    Args:
        cls: the struct; its fields are the names that may be sent.
        values: what was sent.
        text: names whose value came as text (a form or a query) and is read as the field's type.
        message: what the predecessor's clients show for a fault.
        loose: pass over unknown names.
        form: an empty text is a field that was left empty, as in a form.

    Raises:
        InvalidRequest: with every fault there is.
    """
    fields = _fields(cls)
    errors = [] if loose else [_unknown(name, fields) for name in values if name not in fields]
    found: dict[str, Any] = {}
    faulty: set[str] = set()
    for name, type_ in fields.items():
        value = values.get(name)
        if value is None or (form and name in text and value == "" and not _is_text(type_)):
            continue
        if fault := _unusable(value):
            errors.append(f"{name}: {fault}.")
            faulty.add(name)
            continue
        try:
            found[name] = _convert(value, type_, as_text=name in text)
        except msgspec.ValidationError as exc:
            choices = _choices(type_)
            fault = f"expected one of {', '.join(choices)}" if choices else _plain(exc)
            errors.append(f"{name}: {fault}; got {_shown(value)}.")
            faulty.add(name)
    missing = [name for name in _required(cls) if name not in found and name not in faulty]
    errors += [_NO_COMMAND if name == "command" else f"{name}: this is required." for name in missing]
    if errors:
        only_command = errors == [_NO_COMMAND]
        raise InvalidRequest(" ".join(errors), errors=errors, message=_NO_COMMAND if only_command else message)
    return cls(**found)


def decode_json(cls: type[S], raw: bytes) -> S | None:
    """Make a ``cls`` of a JSON body in one step; None when anything is wrong, for :func:`decode` to name all of it."""
    if b"\\u" in raw:  # the only way to write a NUL or a lone surrogate in JSON
        return None
    try:
        found = _decoder(cls).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if all(map(_finite, msgspec.structs.astuple(found))) else None


@functools.cache
def _decoder(cls: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(cls)


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def single(values: MultiMapping[Any]) -> dict[str, Any]:
    """Return a query or form as a plain mapping.

    Raises:
        InvalidRequest: a name is given more than once.
    """
    twice = sorted({name for name in values if len(values.getall(name)) > 1})
    if twice:
        errors = [f"{name}: given more than once." for name in twice]
        raise InvalidRequest(" ".join(errors), errors=errors)
    return dict(values)


@functools.cache
def _fields(cls: type[msgspec.Struct]) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _required(cls: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(cls) if field.required]


def _convert(value: Any, type_: Any, *, as_text: bool) -> Any:
    if as_text and isinstance(value, str) and not _is_text(type_):
        value = _BOOLEANS.get(value.lower(), value)
        if value.lower() == "null":  # which is what no text can say
            raise msgspec.ValidationError(f"Expected {_plain_type(type_)}")
        if whole := _WHOLE.fullmatch(value):
            value = whole[1]
    result = msgspec.convert(value, type_, strict=not as_text)
    if not _finite(result):
        raise msgspec.ValidationError("Expected a finite number")
    return result


def _plain_type(type_: Any) -> str:
    """Name the kind of value that a field takes, as msgspec's messages do."""
    if typing.get_origin(type_) is typing.Annotated:
        return _plain_type(typing.get_args(type_)[0])
    kinds = [part for part in typing.get_args(type_) if part is not type(None)]
    return _plain_type(kinds[0]) if kinds else getattr(type_, "__name__", str(type_))


def _choices(type_: Any) -> list[str]:
    """Return the words that a field takes; none when it takes other values too."""
    origin, parts = typing.get_origin(type_), typing.get_args(type_)
    if origin is typing.Annotated:
        return _choices(parts[0])
    if origin is typing.Literal:
        return [str(part) for part in parts]
    kinds = [part for part in parts if part is not type(None)]
    return _choices(kinds[0]) if len(kinds) == 1 and origin in (types.UnionType, typing.Union) else []


def _is_text(type_: Any) -> bool:
    """Whether a field takes text as it is."""
    if typing.get_origin(type_) is typing.Annotated:
        return _is_text(typing.get_args(type_)[0])
    if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union:
        return any(_is_text(part) for part in typing.get_args(type_))
    return type_ is str


def _unusable(value: Any) -> str | None:
    """Say why a value can be passed to no program: its text holds a NUL, or is not Unicode."""
    if isinstance(value, str):
        if "\0" in value:
            return "a NUL byte cannot be part of it"
        try:
            value.encode()
        except UnicodeEncodeError:
            return "it is not valid Unicode (a lone surrogate)"
    elif isinstance(value, dict):
        return next(filter(None, (_unusable(part) for pair in value.items() for part in pair)), None)
    elif isinstance(value, list):
        return next(filter(None, map(_unusable, value)), None)
    return None


def _unknown(name: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(fields) or 'none'}."
    return f"{_shown(name)} is not a parameter here{hint}"


def _plain(exc: msgspec.ValidationError) -> str:
    text = _GOT.sub("", str(exc).replace("`", ""))
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
