"""``docs/metrics.md``: every metric of the table, and an introduction."""

from __future__ import annotations

from sidecar.telemetry.metrics import TABLE, Metric

_HEAD = """# Metrics

<!-- Made from sidecar/telemetry/metrics.py by `make docs`; do not edit. -->

`GET /metrics` returns metrics in the Prometheus text format, or as OpenMetrics if the client asks for it. A scrape
reads only the server's memory: it sends Flux no request, and takes as long with 100,000 jobs as with none.

* **Access.** Metrics need the scope `read`: let Prometheus send a token (`authorization.credentials_file`), as in the
  example below. `--metrics-open` serves them without authentication. `--metrics-port` serves them (and the probes) on a
  separate port, so that scrapers need no access to the API's port.
* **Restarts.** `flux_job_*` are counted in the job store, in the transaction that stores the event: they continue after
  the server was restarted or killed. The server's own counters (`flux_sidecar_*`) start again at 0.
* **What they equal.** `flux_jobs` equals `flux jobs -aA -c0` by queue and state (including jobs that Flux has purged,
  if the store has kept them); `flux_job_results_total` the same by result; `flux_cores` and `flux_nodes` equal
  `flux resource list` (which also lists drained nodes as `down`); `flux_queue_*` equal `flux queue list`. Jobs are
  counted when their events arrive. Nodes and queues are read in the background: a second after an event of a job,
  otherwise every five seconds. An instance without named queues has one, called `default`.
* **Labels.** Labels never contain job ids, users or raw paths. Each value of a state or result exists from the start,
  at 0. Metrics by user are separate, at `/metrics/users`, with `--metrics-users`.
* **Stability.** `stable`: name, labels and meaning change only with an entry `API Breaking` in the changelog.

```yaml
scrape_configs:
  - job_name: flux
    authorization: {credentials_file: /etc/prometheus/flux-token}
    static_configs: [{targets: ["flux-api.lab.svc:5000"]}]
```

In Kubernetes the chart makes a PodMonitor or ServiceMonitor with a token of its own, the alert rules, and the
dashboard: [kubernetes.md](kubernetes.md#monitoring). A Prometheus in another namespace needs `metrics.from` in the
chart's NetworkPolicy. See also [runbooks.md](runbooks.md) for alerts, and
[autoscaling.md](autoscaling.md).

The server also exports the `process_*` and `python_*` metrics of prometheus-client.
"""

_PARTS = {
    "jobs": "Jobs",
    "waiting": "Pending jobs and queues",
    "nodes": "Nodes",
    "instance": "The instance and the service",
    "server": "The server itself",
    "users": "Users (`/metrics/users`)",
}


def page() -> str:
    """Return the whole page."""
    rows = [_HEAD]
    for part, title in _PARTS.items():
        rows.append(f"\n## {title}\n\n| metric | type | labels | meaning | stability |\n|---|---|---|---|---|\n")
        rows += [_row(metric) for metric in TABLE if metric.part == part]
    return "".join(rows)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    buckets = f" Up to {', '.join(f'{bound:g}' for bound in metric.buckets)} s." if metric.buckets else ""
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help}{buckets} | {metric.stability} |\n"
