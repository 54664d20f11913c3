"""The README of the Helm chart: its table is made from values.schema.json and values.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm/flux-sidecar"

_HEAD = """# Helm chart flux-sidecar

<!-- Made from values.schema.json and values.yaml by `make docs`; do not edit. -->

A Flux cluster with the REST API beside its lead broker. How to install it, and what the workloads and modes are:
[docs/kubernetes.md](../../docs/kubernetes.md). A value that is not in this table is refused.

"""


def page() -> str:
    """Return the whole README."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    del schema["properties"]["global"]
    rows = [
        f"| `{'.'.join(path)}` | {_default(value)} | {text} |\n" for path, value, text in _rows(schema, defaults, ())
    ]
    return _HEAD + "| value | default | what it is |\n|---|---|---|\n" + "".join(rows)


def _rows(schema: dict[str, Any], values: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for name, each in schema["properties"].items():
        if "properties" in each:
            yield from _rows(each, values[name], (*path, name))
        else:
            yield (*path, name), values[name], _words(each)


def _words(each: dict[str, Any]) -> str:
    kinds = [f"`{value}`" for value in each.get("enum", ())]
    text = str(each["description"])
    return text if not kinds or all(kind in text for kind in kinds) else f"{text} {', '.join(kinds)}."


def _default(value: Any) -> str:
    return "" if value in ("", [], {}) else f"`{json.dumps(value).strip(chr(34))}`"


def main() -> None:
    """Write it."""
    (CHART / "README.md").write_text(page())
