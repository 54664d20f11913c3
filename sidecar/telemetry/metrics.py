"""The table of all metrics: name, type, help, labels, buckets and stability.

``docs/metrics.md`` is generated from :data:`TABLE`; the instruments, the dashboard and the checks of the alert rules
use it.
``flux_*`` describes the instance, ``flux_sidecar_*`` this server. No label has jobids, users or raw paths, so the
number of series depends only on queues and routes; metrics by user have their own endpoint.

Each value of an enumeration has a series from the start, at 0: a query finds it before the first job fails.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sidecar.domain.model import RESULTS, STATES

Kind = Literal["gauge", "counter", "histogram"]
Stability = Literal["stable", "experimental"]
Part = Literal["jobs", "waiting", "nodes", "instance", "server", "users"]

#: Seconds, from 1 to 11 hours; the buckets of Kueue, so that both fit in one diagram.
WAITS = (1.0, 2.5, *(5.0 * 2**n for n in range(14)))
#: Seconds, from a read of the store to the longest response that people wait for.
LATENCIES = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)

JOB_STATES = tuple(state.lower() for state in STATES)
JOB_RESULTS = tuple(result.lower() for result in RESULTS)
NODE_STATES = ("allocated", "free", "drained", "down")
#: Exception types of RFC 21 and of Flux's modules; users may raise others, which are ``other`` here.
EXCEPTIONS = ("alloc", "cancel", "dependency", "epilog", "exec", "lost", "node-failure", "prolog", "timeout", "other")
SEVERITIES = ("fatal", "other")
SERVICE_STATES = ("running", "waiting", "draining", "stopping", "stopped")
REFUSALS = ("unauthenticated", "denied", "forbidden", "misdirected", "rate_limited")
DROPS = ("slow", "unauthenticated")
TASKS = (
    "embedded job", "event", "feed", "flux", "guard", "health", "history", "history reader", "idle", "launcher",
    "memory", "migration", "outlook", "output", "pages", "ping", "retention", "scaling", "stop", "survey",
    "token secret", "watch", "watchdog",
)  # fmt: skip


class Metric(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    part: Part
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds in seconds, without ``+Inf``."""
    stability: Stability = "stable"

    @property
    def family(self) -> str:
        """The name without the suffix of a counter, as in OpenMetrics."""
        return self.name.removesuffix("_total")


JOBS = Metric("flux_jobs", "gauge", "jobs", "Jobs by state, including inactive jobs.", ("queue", "state"))
SUBMITS = Metric("flux_job_submits_total", "counter", "jobs", "Accepted jobs.", ("queue",))
RESULTS_OF_JOBS = Metric("flux_job_results_total", "counter", "jobs", "Ended jobs by result.", ("queue", "result"))
EXCEPTIONS_OF_JOBS = Metric(
    "flux_job_exceptions_total",
    "counter",
    "jobs",
    "Exceptions raised on jobs; a fatal one ends its job.",
    ("type", "severity"),
)
RUN = Metric(
    "flux_job_run_seconds", "histogram", "jobs", "Time from the start of a job to its end.", ("queue", "result"), WAITS
)
CLEANUP = Metric(
    "flux_job_cleanup_seconds",
    "histogram",
    "jobs",
    "Time from the end of a job until its resources are free.",
    ("queue",),
    WAITS,
)

WAIT = Metric(
    "flux_job_wait_seconds",
    "histogram",
    "waiting",
    "Time from submit to start, of started jobs; includes dependencies and holds.",
    ("queue",),
    WAITS,
)
SCHEDULING = Metric(
    "flux_job_scheduling_seconds",
    "histogram",
    "waiting",
    "Time that started jobs have waited for resources: from when a job could start to its start.",
    ("queue",),
    WAITS,
)
HELD = Metric("flux_jobs_held", "gauge", "waiting", "Held jobs: pending jobs of urgency 0.", ("queue",))
PENDING_NODES = Metric(
    "flux_pending_nodes_max",
    "gauge",
    "waiting",
    "Nodes of the largest pending job that is neither held nor waits for other jobs; for autoscaling.",
    ("queue",),
)
QUEUE_ENABLED = Metric("flux_queue_enabled", "gauge", "waiting", "1 while a queue accepts jobs.", ("queue",))
QUEUE_STARTED = Metric("flux_queue_started", "gauge", "waiting", "1 while a queue starts jobs.", ("queue",))

NODES = Metric("flux_nodes", "gauge", "nodes", "Nodes by state; each node has one state.", ("state",))
CORES = Metric("flux_cores", "gauge", "nodes", "Cores: allocated, or by the state of their node.", ("state",))
GPUS = Metric("flux_gpus", "gauge", "nodes", "GPUs: allocated, or by the state of their node.", ("state",))
LAST_RANK = Metric(
    "flux_allocated_rank_max",
    "gauge",
    "nodes",
    "Highest rank with a job, -1 without jobs: a smaller instance would lose that job; for autoscaling.",
)

UP = Metric("flux_instance_up", "gauge", "instance", "1 while the instance responds.")
INFO = Metric(
    "flux_instance_info", "gauge", "instance", "Always 1; the labels describe the instance.", ("kind", "version")
)
SIZE = Metric("flux_instance_size", "gauge", "instance", "Configured number of brokers.")
STATE = Metric("flux_sidecar_service_state", "gauge", "instance", "1 for the current state of the service.", ("state",))
ACTIVE_LAUNCHERS = Metric("flux_sidecar_launchers", "gauge", "instance", "Running workflow launchers.")

REQUESTS = Metric(
    "flux_sidecar_http_requests_total",
    "counter",
    "server",
    "HTTP requests by status code of the response.",
    ("method", "route", "code"),
)
DURATION = Metric(
    "flux_sidecar_http_request_duration_seconds",
    "histogram",
    "server",
    "Time from a request's head to the end of its response, without streams.",
    ("method", "route"),
    LATENCIES,
)
IN_FLIGHT = Metric("flux_sidecar_http_requests_in_flight", "gauge", "server", "Requests in progress.")
CONNECTIONS = Metric("flux_sidecar_connections", "gauge", "server", "Open connections.")
STREAMS = Metric("flux_sidecar_streams", "gauge", "server", "Open streams.", ("route",))
DROPPED = Metric(
    "flux_sidecar_stream_readers_dropped_total",
    "counter",
    "server",
    "Streams that the server closed before their end.",
    ("reason",),
)
REFUSED = Metric(
    "flux_sidecar_auth_failures_total", "counter", "server", "Requests that were not admitted.", ("reason",)
)
RPC = Metric(
    "flux_sidecar_rpc_duration_seconds",
    "histogram",
    "server",
    "Time from a request to Flux to its response.",
    ("topic",),
    LATENCIES,
)
RPC_ERRORS = Metric(
    "flux_sidecar_rpc_errors_total",
    "counter",
    "server",
    "Requests that Flux has refused (its errno) or not answered (ETIMEDOUT, ECONNRESET).",
    ("topic", "errno"),
)
CAUGHT_UP = Metric(
    "flux_sidecar_journal_caught_up", "gauge", "server", "1 while the history of jobs has been read completely."
)
HISTORY = Metric(
    "flux_sidecar_history_jobs",
    "gauge",
    "server",
    "Jobs that had ended before the server was connected: how many were read, and how many there are.",
    ("jobs",),
)
LAG = Metric("flux_sidecar_journal_lag_seconds", "gauge", "server", "Age of the oldest job event that is not stored.")
BACKLOG = Metric("flux_sidecar_journal_backlog", "gauge", "server", "Responses of the journal that are not stored yet.")
EVENTS = Metric("flux_sidecar_journal_events_total", "counter", "server", "Stored job events.")
RECONNECTS = Metric(
    "flux_sidecar_journal_restarts_total", "counter", "server", "Restarts of the journal, each with the whole history."
)
RESOURCES_AGE = Metric(
    "flux_sidecar_resources_age_seconds", "gauge", "server", "Age of the nodes and queues that Flux reported last."
)
STORE_SIZE = Metric("flux_sidecar_store_size_bytes", "gauge", "server", "Size of the files of the job store.")
STORE_WRITE = Metric(
    "flux_sidecar_store_write_duration_seconds",
    "histogram",
    "server",
    "Duration of a transaction of the job store.",
    (),
    LATENCIES,
)
STORE_ERRORS = Metric(
    "flux_sidecar_store_write_errors_total", "counter", "server", "Failed transactions of the job store."
)
REMOVALS = ("number", "age", "disk")
STORE_REMOVED = Metric(
    "flux_sidecar_store_removed_jobs_total",
    "counter",
    "server",
    "Inactive jobs that were removed from the job store: by --keep-jobs (number), --keep-for (age) or --min-free-disk "
    "(disk).",
    ("reason",),
)
STORE_RETENTION = Metric(
    "flux_sidecar_store_retention_timestamp_seconds",
    "gauge",
    "server",
    "When inactive jobs beyond the limits were last removed from the job store, or none had to be (Unix time).",
)
LOOP_LAG = Metric(
    "flux_sidecar_event_loop_lag_seconds",
    "gauge",
    "server",
    "Worst lag of the event loop in the last seconds.",
)
TASK_DEATHS = Metric(
    "flux_sidecar_task_deaths_total",
    "counter",
    "server",
    "Deaths of background tasks; the log has the error, and most tasks are restarted.",
    ("task",),
)
CHECK = Metric("flux_sidecar_health_check", "gauge", "server", "1 while a check of /readyz passes.", ("check",))
READY = Metric("flux_sidecar_ready", "gauge", "server", "1 while /readyz responds with 200.")
BUILD = Metric(
    "flux_sidecar_build_info", "gauge", "server", "Always 1; the labels describe the server.", ("version", "python")
)

USER_JOBS = Metric(
    "flux_user_jobs",
    "gauge",
    "users",
    "Jobs by user and state, including inactive jobs.",
    ("user", "state"),
    stability="experimental",
)

#: All metrics in the order of the documentation.
TABLE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
