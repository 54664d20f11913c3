"""Decode parameters into a struct, or report every fault in one error that says what to change."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from multidict import MultiMapping

from sidecar.domain import durations, json_size, untrusted
from sidecar.domain.errors import InvalidRequest
from sidecar.http import faults, field_types, hints
from sidecar.http.faults import quote, quote_name

S = TypeVar("S", bound=msgspec.Struct)

_MAX_NAMED = 5  # faults of one kind that an error names
_MAX_DEPTH = 100  # levels of arrays and objects
_INT64 = range(-(2**63), 2**63)
_BOOLEANS = {"on": "true", "yes": "true", "off": "false", "no": "false"}
_INFINITE = frozenset({"inf", "infinity", "nan"})
_WHOLE = re.compile(r"(-?\d+)\.0+")
_MAX_PARAMETERS = 1000  # as in a form
_SHORTEST = 3  # bytes of the shortest JSON with a member: [0]
_SPLIT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_COMMAND = "A 'command' is minimally required."


class _FieldError(Exception):
    """A field cannot be decoded; the text names it."""


def decode(
    cls: type[S],
    values: Mapping[str, Any],
    *,
    text: frozenset[str],
    message: str,
    loose: bool = False,
    form: bool = False,
) -> S:
    """Decode named values into a struct.

    Args:
        cls: the struct; its fields are the known parameters.
        values: as received.
        text: names of values that were sent as text (form or query), which is converted to the field's type.
        message: what the predecessor's clients show for a fault.
        loose: ignore unknown names.
        form: an empty text is an absent field, as in a form.

    Raises:
        InvalidRequest: names every fault.
    """
    fields = field_types.fields(cls)
    errors = [] if loose else _unknown_parameters([name for name in values if name not in fields], fields)
    decoded: dict[str, Any] = {}
    faulty: set[str] = set()
    for name, type_ in fields.items():
        value = values.get(name)
        if value is None or (form and name in text and value == "" and field_types.empty_means_absent(type_)):
            continue
        try:
            decoded[name] = _decode_field(name, value, type_, as_text=name in text)
        except _FieldError as exc:
            errors.append(str(exc))
            faulty.add(name)
    missing = [name for name in field_types.required(cls) if name not in decoded and name not in faulty]
    errors += [_missing(name, fields[name]) for name in missing]
    if errors:
        own = {_NO_COMMAND, *map(_own_fault, fields.values())}
        raise InvalidRequest(
            " ".join(errors), errors=errors, message=errors[0] if len(errors) == 1 and errors[0] in own else message
        )
    return cls(**decoded)


def _own_fault(type_: Any) -> str:
    """Return the text for a value of the wrong type, from the annotation (``extra: fault``); empty if it has none."""
    return str(field_types.extras(type_).get("fault", ""))


def _missing(name: str, type_: Any) -> str:
    return _own_fault(type_) or (_NO_COMMAND if name == "command" else f"{name}: this is required.")


def decode_json(cls: type[S], raw: bytes) -> S | None:
    """Decode a JSON body in one step; None on any fault, which :func:`decode` then names."""
    if b"\\u" in raw:  # the only spelling of a NUL or a lone surrogate in JSON
        return None
    try:
        decoded = _decoder(cls).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return decoded if all(map(_is_usable, msgspec.structs.astuple(decoded))) else None


def count_members(cls: type[msgspec.Struct], raw: bytes, message: str) -> int:
    """Return an upper bound of the members of a JSON body, before they become objects.

    Args:
        cls: its fields are the parameters; ``extra: members`` of an annotation sets another limit than
            :data:`sidecar.domain.json_size.MOST`.
        raw: the body.
        message: what the predecessor's clients show for a fault.

    Raises:
        InvalidRequest: names each parameter that has too many members.
    """
    if (total := json_size.at_most(raw)) <= json_size.MOST:
        return total
    try:
        values = _SPLIT.decode(raw)
    except msgspec.ValidationError:
        raise InvalidRequest("The body must be a JSON object.", message=message) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return total  # decoding reports the fault
    if len(values) > _MAX_PARAMETERS:
        raise InvalidRequest(f"The body has more than {_MAX_PARAMETERS:,} parameters.", message=message)
    errors, total, limits = [], len(values), field_types.member_limits(cls)
    for name, value in values.items():
        if len(value) < _SHORTEST:
            continue
        limit = limits.get(name, json_size.MOST)
        total += (count := json_size.count(bytes(value), limit))
        if count > limit:
            errors.append(json_size.too_many(quote_name(name), limit))
    if errors:
        raise InvalidRequest(" ".join(errors), errors=errors, message=message)
    return total


def unique_values(values: MultiMapping[Any]) -> dict[str, Any]:
    """Return a query or form as a plain mapping.

    Raises:
        InvalidRequest: a name is given more than once.
    """
    counts = Counter(name for name, _ in values.items())
    if len(counts) < len(values):
        repeated = sorted(name for name, count in counts.items() if count > 1)
        errors = [f"{quote_name(name)}: given more than once." for name in repeated[:_MAX_NAMED]]
        if len(repeated) > _MAX_NAMED:
            errors.append(f"So are {len(repeated) - _MAX_NAMED} more.")
        raise InvalidRequest(" ".join(errors), errors=errors)
    return dict(values)


@functools.cache
def _decoder(cls: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(cls)


def _is_usable(value: Any) -> bool:
    """Whether a decoded field fits everywhere: numbers fit SQLite, and nesting is bounded."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value in _INT64
    return not untrusted.too_deep(value, _MAX_DEPTH)


def _decode_field(name: str, value: Any, type_: Any, *, as_text: bool) -> Any:
    if untrusted.too_deep(value, _MAX_DEPTH):
        raise _FieldError(f"{name}: it is nested more than {_MAX_DEPTH} levels deep.")
    if fault := _unusable(value):
        raise _FieldError(f"{name}: {fault}.")
    try:
        return _convert(value, type_, as_text=as_text)
    except msgspec.ValidationError as exc:
        where, fault, wrong = faults.member(name, value, exc)
        if choices := field_types.choices(type_):
            fault = f"expected one of {', '.join(choices)}"
        raise _FieldError(_own_fault(type_) or f"{where}: {fault}; got {quote(wrong)}.") from None


def _unusable(value: Any) -> str:
    """Return why a value cannot be passed to a program: too deep, a NUL in its text, not Unicode; empty if it can."""
    if untrusted.too_deep(value):
        return f"objects and lists are nested in it more than {untrusted.DEPTH} times"
    return untrusted.unusable(value)


def _convert(value: Any, type_: Any, *, as_text: bool) -> Any:
    if isinstance(value, str):
        value = _from_words(value, type_)
    if as_text and isinstance(value, str) and not field_types.is_text(type_):
        value = _normalize(value, type_)
    result = msgspec.convert(value, type_, strict=not as_text)
    if isinstance(result, float) and not math.isfinite(result):
        raise msgspec.ValidationError("Expected a finite number")
    if isinstance(result, int) and result not in _INT64:
        raise msgspec.ValidationError(f"Expected int <= {_INT64.stop - 1}")
    return result


def _normalize(value: str, type_: Any) -> str:
    """Return text of a form or query in the spelling that msgspec converts: ``on`` as true, ``3.0`` as 3."""
    value = _BOOLEANS.get(value.lower(), value)
    if value not in (choices := field_types.choices(type_)) and value.lower() in choices:
        value = value.lower()
    if value.lower() == "null":  # text cannot express null
        raise msgspec.ValidationError(f"Expected {field_types.plain_type(type_)}")
    if value.lower().lstrip("+-") in _INFINITE and field_types.plain_type(type_) == "float":
        raise msgspec.ValidationError("Expected a finite number")
    whole = _WHOLE.fullmatch(value)
    return whole[1] if whole else value


def _from_words(text: str, type_: Any) -> Any:
    """Return the number that a text stands for: ``1h30m`` for seconds, ``hold`` for an urgency."""
    extra = field_types.extras(type_)
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
    """Whether a text is a number of any kind, which may be wrong for another reason."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unknown_parameters(names: list[str], fields: Mapping[str, Any]) -> list[str]:
    """Name the first unknown parameters, with the known one that was probably meant.

    The search for a close name takes time in proportion to the names, and the client may be unauthenticated: few are
    compared.
    """
    errors = [f"{quote(name)} is not a parameter here; {hints.parameter(name, fields)}" for name in names[:_MAX_NAMED]]
    if len(names) > _MAX_NAMED:
        errors.append(f"So are {len(names) - _MAX_NAMED} more.")
    return errors
