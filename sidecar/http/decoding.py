"""From what a caller sent to a struct, or to one error that names every fault and says what to change."""

from __future__ import annotations

import functools
import math
import re
import reprlib
import types
import typing
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from multidict import MultiMapping

from sidecar.domain import durations, untrusted
from sidecar.domain import json_size as members
from sidecar.domain.errors import InvalidRequest
from sidecar.http import faults, hints

S = TypeVar("S", bound=msgspec.Struct)

_NAMED = 5  # faults of one kind that are named
_QUOTED = 80  # characters of a value that an error quotes
_DEEPEST = 100  # levels of arrays and objects
_INT64 = range(-(2**63), 2**63)
_repr = reprlib.Repr()
_repr.maxlevel = 3
_BOOLEANS = {"on": "true", "yes": "true", "off": "false", "no": "false"}
_INFINITE = frozenset({"inf", "infinity", "nan"})
_WHOLE = re.compile(r"(-?\d+)\.0+")
_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,40}")
_MOST_NAMES = 1000  # as of a form's fields
_SHORTEST = 3  # bytes of JSON that has a member: [0]
_SPLIT = msgspec.json.Decoder(dict[str, msgspec.Raw])
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
    errors = [] if loose else _unknowns([name for name in values if name not in fields], fields)
    found: dict[str, Any] = {}
    faulty: set[str] = set()
    for name, type_ in fields.items():
        value = values.get(name)
        if value is None or (form and name in text and value == "" and _is_left_out(type_)):
            continue
        if isinstance(value, dict | list) and not _is_flat(value, _DEEPEST):
            errors.append(f"{name}: it is nested more than {_DEEPEST} levels deep.")
            faulty.add(name)
            continue
        if fault := _unusable(value):
            errors.append(f"{name}: {fault}.")
            faulty.add(name)
            continue
        try:
            found[name] = _convert(value, type_, as_text=name in text)
        except msgspec.ValidationError as exc:
            where, fault, wrong = faults.member(name, value, exc)
            if choices := _choices(type_):
                fault = f"expected one of {', '.join(choices)}"
            errors.append(f"{where}: {fault}; got {shown(wrong)}.")
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
    return found if all(map(_sound, msgspec.structs.astuple(found))) else None


def count_members(cls: type[msgspec.Struct], raw: bytes, message: str) -> int:
    """Return how many members a JSON body has, about, before objects are made of them.

    Args:
        cls: its fields are the parameters; where one may have another number than :data:`sidecar.members.MOST`, the
            ``extra`` of its annotation says so.
        raw: the body.
        message: what the predecessor's clients show for a fault.

    Raises:
        InvalidRequest: with each parameter that has too many.
    """
    if (found := members.at_most(raw)) <= members.MOST:
        return found
    try:
        values = _SPLIT.decode(raw)
    except msgspec.ValidationError:
        raise InvalidRequest("The body must be a JSON object.", message=message) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return found  # which is what is wrong with it, and is said when it is decoded
    if len(values) > _MOST_NAMES:
        raise InvalidRequest(f"The body has more than {_MOST_NAMES:,} parameters.", message=message)
    errors, found, bounds = [], len(values), _most_members(cls)
    for name, value in values.items():
        if len(value) < _SHORTEST:
            continue
        most = bounds.get(name, members.MOST)
        found += (own := members.count(bytes(value), most))
        if own > most:
            errors.append(members.too_many(named(name), most))
    if errors:
        raise InvalidRequest(" ".join(errors), errors=errors, message=message)
    return found


@functools.cache
def _most_members(cls: type[msgspec.Struct]) -> dict[str, int]:
    """Return how many members each parameter may have that may not have the usual number."""
    found = {}
    for name, type_ in _fields(cls).items():
        for meta in getattr(type_, "__metadata__", ()):
            if meta.extra and "members" in meta.extra:
                found[name] = int(meta.extra["members"])
    return found


@functools.cache
def _decoder(cls: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(cls)


def _sound(value: Any) -> bool:
    """Whether a value of a field can be used everywhere: numbers in SQLite, and nothing is nested without end."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value in _INT64
    return not isinstance(value, dict | list) or _is_flat(value, _DEEPEST)


def _is_flat(value: Any, levels: int) -> bool:
    """Whether a value has no more than so many levels."""
    parts = [value]
    while parts and levels:
        levels -= 1
        parts = [
            part
            for each in parts
            for part in (each.values() if isinstance(each, dict) else each)
            if isinstance(part, dict | list)
        ]
    return not parts


def single(values: MultiMapping[Any]) -> dict[str, Any]:
    """Return a query or form as a plain mapping.

    Raises:
        InvalidRequest: a name is given more than once.
    """
    counts = Counter(name for name, _ in values.items())
    if len(counts) < len(values):
        twice = sorted(name for name, count in counts.items() if count > 1)
        errors = [f"{named(name)}: given more than once." for name in twice[:_NAMED]]
        if len(twice) > _NAMED:
            errors.append(f"So are {len(twice) - _NAMED} more.")
        raise InvalidRequest(" ".join(errors), errors=errors)
    return dict(values)


@functools.cache
def _fields(cls: type[msgspec.Struct]) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _required(cls: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(cls) if field.required]


def _convert(value: Any, type_: Any, *, as_text: bool) -> Any:
    if isinstance(value, str):
        value = _from_words(value, type_)
    if as_text and isinstance(value, str) and not _is_text(type_):
        value = _BOOLEANS.get(value.lower(), value)
        if value not in (choices := _choices(type_)) and value.lower() in choices:
            value = value.lower()
        if value.lower() == "null":  # which is what no text can say
            raise msgspec.ValidationError(f"Expected {_plain_type(type_)}")
        if value.lower().lstrip("+-") in _INFINITE and _plain_type(type_) == "float":
            raise msgspec.ValidationError("Expected a finite number")
        if whole := _WHOLE.fullmatch(value):
            value = whole[1]
    result = msgspec.convert(value, type_, strict=not as_text)
    if isinstance(result, float) and not math.isfinite(result):
        raise msgspec.ValidationError("Expected a finite number")
    if isinstance(result, int) and result not in _INT64:
        raise msgspec.ValidationError(f"Expected int <= {_INT64.stop - 1}")
    return result


def _from_words(text: str, type_: Any) -> Any:
    """Return the number that a text stands for: ``1h30m`` where seconds are meant, ``hold`` where an urgency is."""
    extra = _extra(type_)
    if extra.get("duration"):
        try:
            return durations.parse(text)
        except ValueError:
            if not _is_number(text):
                raise msgspec.ValidationError("Expected seconds, or a duration such as 90s or 1h30m") from None
    if words := extra.get("words"):
        if (number := words.get(text.strip().lower(), untrusted.digits(text.strip()))) is None and not _is_number(text):
            known = ", ".join(f"{word} ({number})" for word, number in words.items())
            raise msgspec.ValidationError(f"Expected a number or {known}")
        return text if number is None else number
    return text


def _is_number(text: str) -> bool:
    """Whether a text is a number of any kind, of which something else may be wrong."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@functools.cache
def _extra(type_: Any) -> dict[str, Any]:
    """Return what is noted of a field's type, beside what msgspec looks at."""
    found: dict[str, Any] = {}
    for part in (type_, *typing.get_args(type_)):
        for meta in getattr(part, "__metadata__", ()):
            found |= getattr(meta, "extra", None) or {}
    return found


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


def _is_left_out(type_: Any) -> bool:
    """Whether an empty field of a form means that there is none: where an empty text would be refused."""
    return not _is_text(type_) or _extra(type_).get("not_empty", False)


def _unusable(value: Any) -> str | None:
    """Say why a value can be passed to no program: it is too deep, or its text holds a NUL, or is not Unicode."""
    if untrusted.too_deep(value):
        return f"objects and lists are nested in it more than {untrusted.DEPTH} times"
    return untrusted.unusable(value) or None


def _unknowns(names: list[str], fields: Mapping[str, Any]) -> list[str]:
    """Name the parameters that there are none of: a few of them, and what one of them was meant to be.

    The search for a close name takes as long as the names are long, and the caller may not be authenticated yet.
    """
    errors = [_unknown(name, fields) for name in names[:_NAMED]]
    if len(names) > _NAMED:
        errors.append(f"So are {len(names) - _NAMED} more.")
    return errors


def _unknown(name: str, fields: Mapping[str, Any]) -> str:
    return f"{shown(name)} is not a parameter here; {hints.parameter(name, fields)}"


def named(name: str) -> str:
    """Return the name of a parameter as an error begins with it."""
    return name if _NAME.fullmatch(name) else shown(name)


def shown(value: Any) -> str:
    """Return what was sent as an error quotes it: cut short, however large or deep it is."""
    if isinstance(value, str):
        value = value[:_QUOTED]
    elif isinstance(value, bytes | int | float | bool | None):
        pass
    else:
        return _repr.repr(value)[: _QUOTED + 3]
    text = repr(value)
    return text if len(text) <= _QUOTED else text[: _QUOTED - 3] + "..."
