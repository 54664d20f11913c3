"""The Grafana dashboard of the chart: generated from the table of metrics, so that both have the same metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sidecar.telemetry import metrics
from sidecar.telemetry.metrics import Metric

FILE = Path(__file__).parents[1] / "helm/flux-sidecar/files/dashboard.json"

_WIDTH = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: The labels that narrow every expression; a label that Prometheus does not have matches `.*` too.
_WHERE = 'namespace=~"$namespace", job=~"$job"'
_QUEUE = f'{_WHERE}, queue=~"$queue"'


class Panel(NamedTuple):
    """One panel; ``queries`` are expressions and the legends of their series."""

    title: str
    metric: Metric
    """The metric whose help is shown."""
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "bargauge"] = "timeseries"
    width: int = 8
    stacked: bool = False
    thresholds: tuple[tuple[str, float | None], ...] = (("green", None),)


def _quantiles(metric: Metric, where: str, by: str) -> tuple[tuple[str, str], ...]:
    rate = f"sum by (le, {by}) (rate({metric.name}_bucket{{{where}}}[$__rate_interval]))"
    return tuple((f"histogram_quantile({share}, {rate})", f"p{share * 100:g} {{{{{by}}}}}") for share in (0.5, 0.95))


def _value(metric: Metric, where: str = _WHERE, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} ({metric.name}{{{where}}})"


def _rate(metric: Metric, where: str = _WHERE, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric.name}{{{where}}}[$__rate_interval]))"


_USED, _THERE = f'{_WHERE}, state="allocated"', f'{_WHERE}, state!="down"'
_CORES_IN_USE = f"{_value(metrics.CORES, _USED)} / {_value(metrics.CORES, _THERE)}"
_BAD_AT_0 = (("red", None), ("green", 1.0))
_BAD_AT_1 = (("green", None), ("orange", 1.0))

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Overview",
        (
            Panel("Instance", metrics.UP, ((f"min({metrics.UP.name}{{{_WHERE}}})", "up"),), "bool_yes_no", "stat", 3, thresholds=_BAD_AT_0),
            Panel("Ready", metrics.READY, ((f"min({metrics.READY.name}{{{_WHERE}}})", "ready"),), "bool_yes_no", "stat", 3, thresholds=_BAD_AT_0),
            Panel("Version", metrics.INFO, ((f"{metrics.INFO.name}{{{_WHERE}}}", "Flux {{version}}"),), "short", "stat", 3),
            Panel("Brokers", metrics.SIZE, ((_value(metrics.SIZE), "brokers"),), "short", "stat", 3),
            Panel("Running", metrics.JOBS, ((_value(metrics.JOBS, f'{_QUEUE}, state="run"'), "running"),), "short", "stat", 3),
            Panel("Pending", metrics.JOBS, ((_value(metrics.JOBS, f'{_QUEUE}, state=~"depend|priority|sched"'), "pending"),), "short", "stat", 3),
            Panel("Cores in use", metrics.CORES, ((_CORES_IN_USE, "in use"),), "percentunit", "stat", 3),
            Panel("Nodes down", metrics.NODES, ((_value(metrics.NODES, f'{_WHERE}, state="down"'), "down"),), "short", "stat", 3, thresholds=_BAD_AT_1),
            Panel("Jobs by state", metrics.JOBS, ((_value(metrics.JOBS, f'{_QUEUE}, state!="inactive"', "state"), "{{state}}"),), width=12, stacked=True),
            Panel("Nodes by state", metrics.NODES, ((_value(metrics.NODES, by="state"), "{{state}}"),), width=12, stacked=True),
        ),
    ),
    (
        "Jobs",
        (
            Panel("Submitted", metrics.SUBMITS, ((_rate(metrics.SUBMITS, _QUEUE, "queue"), "{{queue}}"),), "ops"),
            Panel("Ended, by result", metrics.RESULTS_OF_JOBS, ((_rate(metrics.RESULTS_OF_JOBS, _QUEUE, "result"), "{{result}}"),), "ops", stacked=True),
            Panel("Exceptions", metrics.EXCEPTIONS_OF_JOBS, ((f"{_rate(metrics.EXCEPTIONS_OF_JOBS, by='type, severity')}", "{{type}} ({{severity}})"),), "ops"),
            Panel("Run time", metrics.RUN, _quantiles(metrics.RUN, _QUEUE, "result"), "s", width=12),
            Panel("Clean-up", metrics.CLEANUP, _quantiles(metrics.CLEANUP, _QUEUE, "queue"), "s", width=12),
        ),
    ),
    (
        "Waiting",
        (
            Panel("From submit to start", metrics.WAIT, _quantiles(metrics.WAIT, _QUEUE, "queue"), "s", width=12),
            Panel("Waiting for resources", metrics.SCHEDULING, _quantiles(metrics.SCHEDULING, _QUEUE, "queue"), "s", width=12),
            Panel("Pending, by state", metrics.JOBS, ((_value(metrics.JOBS, f'{_QUEUE}, state=~"depend|priority|sched"', "queue, state"), "{{queue}} {{state}}"),), width=6, stacked=True),
            Panel("Held", metrics.HELD, ((_value(metrics.HELD, _QUEUE, "queue"), "{{queue}}"),), width=6),
            Panel("Nodes of the largest pending job", metrics.PENDING_NODES, ((f"max by (queue) ({metrics.PENDING_NODES.name}{{{_QUEUE}}})", "{{queue}}"),), width=6),
            Panel(
                "Queues", metrics.QUEUE_STARTED,
                (
                    (f"min by (queue) ({metrics.QUEUE_STARTED.name}{{{_QUEUE}}})", "{{queue}} started"),
                    (f"min by (queue) ({metrics.QUEUE_ENABLED.name}{{{_QUEUE}}})", "{{queue}} enabled"),
                ),
                "bool_yes_no", width=6,
            ),
        ),
    ),
    (
        "Nodes",
        (
            Panel("Cores", metrics.CORES, ((_value(metrics.CORES, by="state"), "{{state}}"),), stacked=True),
            Panel("GPUs", metrics.GPUS, ((_value(metrics.GPUS, by="state"), "{{state}}"),), stacked=True),
            Panel("Last rank with a job", metrics.LAST_RANK, ((f"max({metrics.LAST_RANK.name}{{{_WHERE}}})", "rank"),)),
        ),
    ),
    (
        "Server",
        (
            Panel("Requests", metrics.REQUESTS, ((_rate(metrics.REQUESTS, by="code"), "{{code}}"),), "reqps", stacked=True),
            Panel("Duration, p95 by route", metrics.DURATION, ((f"histogram_quantile(0.95, {_rate(metrics.DURATION, by='le, route').replace(metrics.DURATION.name, metrics.DURATION.name + '_bucket')})", "{{route}}"),), "s"),
            Panel("In flight, connections, streams", metrics.CONNECTIONS, ((_value(metrics.IN_FLIGHT), "requests"), (_value(metrics.CONNECTIONS), "connections"), (f"{_value(metrics.STREAMS)} or vector(0)", "streams")),),
            Panel("Refused requests", metrics.REFUSED, ((_rate(metrics.REFUSED, by="reason"), "{{reason}}"),), "ops"),
            Panel("Streams cut off", metrics.DROPPED, ((_rate(metrics.DROPPED, by="reason"), "{{reason}}"),), "ops"),
            Panel("Flux: duration, p95 by topic", metrics.RPC, ((f"histogram_quantile(0.95, sum by (le, topic) (rate({metrics.RPC.name}_bucket{{{_WHERE}}}[$__rate_interval])))", "{{topic}}"),), "s"),
            Panel("Flux: errors", metrics.RPC_ERRORS, ((f"{_rate(metrics.RPC_ERRORS, by='topic, errno')} or vector(0)", "{{topic}} {{errno}}"),), "ops"),
            Panel("Journal", metrics.LAG, ((f"max({metrics.LAG.name}{{{_WHERE}}})", "lag"), (f"max({metrics.LOOP_LAG.name}{{{_WHERE}}})", "event loop"), (f"max({metrics.RESOURCES_AGE.name}{{{_WHERE}}})", "age of nodes and queues")), "s"),
            Panel("Events stored", metrics.EVENTS, ((_rate(metrics.EVENTS), "events"), (_value(metrics.BACKLOG), "backlog"), (_rate(metrics.RECONNECTS), "journal reconnects"), (f"min({metrics.CAUGHT_UP.name}{{{_WHERE}}})", "caught up"))),
            Panel("Store: transactions", metrics.STORE_WRITE, ((f"histogram_quantile(0.95, sum by (le) (rate({metrics.STORE_WRITE.name}_bucket{{{_WHERE}}}[$__rate_interval])))", "p95"),), "s"),
            Panel("Store: size", metrics.STORE_SIZE, ((_value(metrics.STORE_SIZE), "file"),), "bytes"),
            Panel("History", metrics.HISTORY, ((_value(metrics.HISTORY, by="jobs"), "{{jobs}}"),)),
            Panel("Store: removed jobs", metrics.STORE_REMOVED, ((_rate(metrics.STORE_REMOVED, by="reason"), "{{reason}}"),), "ops"),
            Panel("Store: age of the last check of its limits", metrics.STORE_RETENTION, ((f"time() - max({metrics.STORE_RETENTION.name}{{{_WHERE}}})", "age"),), "s"),
            Panel("Store: failed transactions", metrics.STORE_ERRORS, ((_rate(metrics.STORE_ERRORS), "failed"),), "ops"),
            Panel("Background tasks that have died", metrics.TASK_DEATHS, ((_rate(metrics.TASK_DEATHS, by="task"), "{{task}}"),), "ops"),
            Panel("Checks", metrics.CHECK, ((f"min by (check) ({metrics.CHECK.name}{{{_WHERE}}})", "{{check}}"),), "bool_yes_no"),
            Panel("Service", metrics.STATE, ((f"max by (state) ({metrics.STATE.name}{{{_WHERE}}})", "{{state}}"), (_value(metrics.ACTIVE_LAUNCHERS), "launchers"))),
            Panel("Memory and processor", metrics.BUILD, ((f"sum(process_resident_memory_bytes{{{_WHERE}}} * on (namespace, job, instance) {metrics.BUILD.name}{{{_WHERE}}})", "memory"),), "bytes"),
        ),
    ),
)  # fmt: skip


def queries() -> Iterator[tuple[str, str]]:
    """Yield the title and expression of every query, with its variables replaced for all data and scrapes every minute."""
    for _, panels in ROWS:
        for panel in panels:
            for expression, _ in panel.queries:
                for variable in ("namespace", "job", "queue"):
                    expression = expression.replace(f"${variable}", ".*")
                yield panel.title, expression.replace("$__rate_interval", "1m")


def document() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _next_position(0, top, _WIDTH, 1)}
        )  # fmt: skip
        left, top, height = 0, top + 1, 0
        for panel in row:
            if left + panel.width > _WIDTH:
                left, top = 0, top + height
            height = 4 if panel.kind == "stat" else 8
            panels.append(_panel(panel, len(panels) + 1, _next_position(left, top, panel.width, height)))
            left += panel.width
        top += height
    return {
        "uid": "flux-sidecar",
        "title": "Flux",
        "description": "A Flux instance and the flux-sidecar beside it.",
        "tags": ["flux", "hpc"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("namespace", "Namespace", f"label_values({metrics.UP.name}, namespace)"),
                _variable("job", "Instance", f'label_values({metrics.UP.name}{{namespace=~"$namespace"}}, job)'),
                _variable("queue", "Queue", f"label_values({metrics.JOBS.name}{{{_WHERE}}}, queue)"),
            ]
        },
        "panels": panels,
    }


def _next_position(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": _SOURCE, "refresh": 2, "sort": 1,
        "query": {"query": query, "refId": name}, "includeAll": True, "allValue": ".*", "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if panel.kind == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 30 if panel.stacked else 5, "showPoints": "never"}
        custom["stacking"] = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}
        if "{{" in panel.queries[0][1]:
            options["textMode"] = "name"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.metric.help,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": _SOURCE, "expr": expression, "legendFormat": legend, "range": True}
            for n, (expression, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": custom,
                "thresholds": {
                    "mode": "absolute",
                    "steps": [{"color": color, "value": value} for color, value in panel.thresholds],
                },
            },
            "overrides": [],
        },
        "options": options,
    }  # fmt: skip


def page() -> str:
    """Return the file."""
    return json.dumps(document(), indent=1) + "\n"
