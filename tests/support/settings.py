"""Settings for tests, from options by name without their groups."""

from __future__ import annotations

import dataclasses
import typing

from sidecar.config.settings import Settings


def make_settings(**options: object) -> Settings:
    """Return settings with some options: ``make_settings(embedded=True, port=0)``."""
    groups = {}
    for name, kind in typing.get_type_hints(Settings).items():
        known = {field.name for field in dataclasses.fields(kind)}
        groups[name] = kind(**{option: options.pop(option) for option in known & options.keys()})
    assert not options, f"unknown options: {options}"
    return Settings(**groups)
