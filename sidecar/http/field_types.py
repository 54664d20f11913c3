"""Facts about the types of a struct's fields that decoding of text and error messages need."""

from __future__ import annotations

import functools
import types
import typing
from typing import Any

import msgspec


@functools.cache
def fields(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the annotated types of the fields by name."""
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def required(cls: type[msgspec.Struct]) -> list[str]:
    """Return the names of the fields without a default."""
    return [field.name for field in msgspec.structs.fields(cls) if field.required]


@functools.cache
def member_limits(cls: type[msgspec.Struct]) -> dict[str, int]:
    """Return the fields with a limit of members of their own, from their annotation (``extra: members``)."""
    limits = {}
    for name, type_ in fields(cls).items():
        for meta in getattr(type_, "__metadata__", ()):
            if meta.extra and "members" in meta.extra:
                limits[name] = int(meta.extra["members"])
    return limits


@functools.cache
def extras(type_: Any) -> dict[str, Any]:
    """Return the ``extra`` entries of a type's annotation, which msgspec ignores."""
    entries: dict[str, Any] = {}
    for part in (type_, *typing.get_args(type_)):
        for meta in getattr(part, "__metadata__", ()):
            entries |= getattr(meta, "extra", None) or {}
    return entries


def plain_type(type_: Any) -> str:
    """Return the name of a type without its annotation and None, as in the messages of msgspec."""
    if typing.get_origin(type_) is typing.Annotated:
        return plain_type(typing.get_args(type_)[0])
    kinds = _alternatives(type_)
    return plain_type(kinds[0]) if kinds else getattr(type_, "__name__", str(type_))


def choices(type_: Any) -> list[str]:
    """Return the words that a field accepts; empty if it accepts other values too."""
    origin, parts = typing.get_origin(type_), typing.get_args(type_)
    if origin is typing.Annotated:
        return choices(parts[0])
    if origin is typing.Literal:
        return [str(part) for part in parts]
    kinds = _alternatives(type_)
    return choices(kinds[0]) if len(kinds) == 1 and origin in (types.UnionType, typing.Union) else []


def is_text(type_: Any) -> bool:
    """Whether a field accepts text as it is."""
    if typing.get_origin(type_) is typing.Annotated:
        return is_text(typing.get_args(type_)[0])
    if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union:
        return any(is_text(part) for part in typing.get_args(type_))
    return type_ is str


def empty_means_absent(type_: Any) -> bool:
    """Whether an empty field of a form counts as absent: its type refuses an empty text."""
    return not is_text(type_) or extras(type_).get("not_empty", False)


def _alternatives(type_: Any) -> list[Any]:
    return [part for part in typing.get_args(type_) if part is not type(None)]
