"""Write the README of the Helm chart and the comments of its values.yaml, from values.schema.json."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm/flux-sidecar"

_HEAD = """# Helm chart flux-sidecar

<!-- Made from values.schema.json and values.yaml by `make docs`; do not edit. -->

A Flux cluster with a REST API beside its lead broker: a MiniCluster of the Flux Operator, or a plain Indexed Job.

```sh cluster
helm install science helm/flux-sidecar --set image.repository=localhost/flux-sidecar --set size=3
```

`helm install` prints the next steps. [docs/kubernetes.md](../../docs/kubernetes.md) describes workloads and modes,
authentication, network, monitoring, upgrades and troubleshooting; the [tutorial](../../docs/tutorial.md) starts without
a cluster. The chart refuses values that are not in this table, contradict each other, or would have no effect.

"""
_VALUES_HEAD = (
    "# Values of the chart. `make docs` makes the comments, and the table in README.md, from values.schema.json.\n"
)
_WIDTH = 120


def page() -> str:
    """Return the whole README."""
    schema = _schema()
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = [
        f"| `{'.'.join(path)}` | {_default(value)} | {text} |\n" for path, value, text in _rows(schema, defaults, ())
    ]
    return _HEAD + "| value | default | meaning |\n|---|---|---|\n" + "".join(rows)


def values() -> str:
    """Return values.yaml with a comment for each value; the values stay unchanged."""
    lines = [line for line in (CHART / "values.yaml").read_text().splitlines() if not line.lstrip().startswith("#")]
    properties = _schema()["properties"]
    rows, group = [_VALUES_HEAD], ""
    for line in filter(None, lines):
        match = re.match(r"(  )?(\w+):", line)
        if match and not match[1]:
            group = match[2]
            rows.append(f"\n{_comment(properties[group], '')}{line}\n")
        elif match and match[2] in properties[group].get("properties", {}):
            rows.append(f"{_comment(properties[group]['properties'][match[2]], '  ')}{line}\n")
        else:
            rows.append(f"{line}\n")
    return "".join(rows)


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    del schema["properties"]["global"]
    return schema


def _comment(each: dict[str, Any], indent: str) -> str:
    start = f"{indent}# "
    lines = textwrap.wrap(_text(each), _WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)
    return "".join(f"{line}\n" for line in lines)


def _rows(schema: dict[str, Any], values: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for name, each in schema["properties"].items():
        if "properties" in each:
            yield from _rows(each, values[name], (*path, name))
        else:
            yield (*path, name), values[name], _text(each)


def _text(each: dict[str, Any]) -> str:
    """Return the description, with the choices unless it names them."""
    kinds = [f"`{value}`" if value else "empty" for value in each.get("enum", ())]
    text = str(each["description"])
    return text if not kinds or all(kind in text for kind in kinds) else f"{text} One of {', '.join(kinds)}."


def _default(value: Any) -> str:
    return "" if value in ("", [], {}) else f"`{json.dumps(value).strip(chr(34))}`"


def main() -> None:
    """Write both."""
    (CHART / "README.md").write_text(page())
    (CHART / "values.yaml").write_text(values())


if __name__ == "__main__":
    main()
