"""``docs/metrics.md``: every metric of the table, and what a person who scrapes them needs to know."""

from __future__ import annotations

from sidecar.metrics import TABLE, Metric

_HEAD = """# Metrics

<!-- Made from sidecar/metrics.py by `make docs`; do not edit. -->

`GET /metrics` gives what Prometheus reads, as OpenMetrics to who asks for that. A scrape reads the server's memory: it
asks Flux nothing, and takes as long with 100,000 jobs as with none.

* **Who may read them.** Whoever has the scope `read`: let Prometheus send a token (`authorization.credentials_file`),
  as in the example below. `--metrics-open` lets anybody read them who reaches the port; `--metrics-port` gives them
  (and the probes) a port of their own, so that the API's need not be reached.
* **What survives.** `flux_job_*` are counted in the job store, in the transaction that holds the event itself: they go
  on where they were after a restart, or a kill, of the server. Its own counters (`flux_sidecar_*`) begin anew.
* **What they equal.** `flux_jobs` is `flux jobs -aA -c0` by queue and state (what Flux has purged is still counted
  where the store has kept it), `flux_job_results_total` the same by result, `flux_cores` and `flux_nodes`
  `flux resource list` (which says `down` of drained nodes too), `flux_queue_*` `flux queue list`. Jobs are counted as
  they happen; nodes and queues are asked for in the background a second after something has happened to a job, and else
  every five seconds. An instance without named queues has one, called `default`.
* **Labels.** No job, user or path as it was asked for is ever one. Each value of a state or result is there from the
  start, at 0. Figures by user are a page of their own, `/metrics/users`, with `--metrics-users`.
* **Stability.** `stable`: its name, labels and meaning change with an entry `API Breaking` in the changelog alone.

```yaml
scrape_configs:
  - job_name: flux
    authorization: {credentials_file: /etc/prometheus/flux-token}
    static_configs: [{targets: ["flux-api.lab.svc:5000"]}]
```

In Kubernetes the chart makes a PodMonitor or ServiceMonitor with a token of its own, the alert rules, and the
dashboard: [kubernetes.md](kubernetes.md#monitoring). Its NetworkPolicy lets a Prometheus of another namespace in where
`metrics.from` names that. Alerts: [runbooks.md](runbooks.md). Scaling: [autoscaling.md](autoscaling.md).
Besides these there are prometheus-client's `process_*` and `python_*`.
"""

_PARTS = {
    "jobs": "Jobs",
    "waiting": "What waits",
    "nodes": "Nodes",
    "instance": "The instance and the service",
    "server": "The server itself",
    "users": "Users (`/metrics/users`)",
}


def page() -> str:
    """Return the whole page."""
    rows = [_HEAD]
    for part, title in _PARTS.items():
        rows.append(f"\n## {title}\n\n| metric | type | labels | what it is | stability |\n|---|---|---|---|---|\n")
        rows += [_row(metric) for metric in TABLE if metric.part == part]
    return "".join(rows)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    buckets = f" Up to {', '.join(f'{bound:g}' for bound in metric.buckets)} s." if metric.buckets else ""
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help}{buckets} | {metric.stability} |\n"
