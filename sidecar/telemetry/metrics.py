"""Every metric, once: its name, type, help, labels, buckets and how far it can be relied on.

What is exposed, ``docs/metrics.md``, the dashboard and the checks of the alert rules are all made from :data:`TABLE`.
``flux_*`` is the instance, ``flux_sidecar_*`` this server. No label ever holds a job's id, a user or a path as it was
asked for, so the number of series depends on queues and routes alone; users have a page of their own.

A gauge is a count of now, a counter of ever, a histogram of durations. The values of a label whose name is that of an
enumeration are all there from the start, at 0: a query finds the series before the first job fails.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sidecar.domain.model import RESULTS, STATES

Kind = Literal["gauge", "counter", "histogram"]
Stability = Literal["stable", "experimental"]
Part = Literal["jobs", "waiting", "nodes", "instance", "server", "users"]

#: Kueue's, so that both can stand in one diagram: seconds, from 1 to 11 hours.
WAITS = (1.0, 2.5, *(5.0 * 2**n for n in range(14)))
#: From what a read of the store takes to where people give up (seconds).
LATENCIES = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)

JOB_STATES = tuple(state.lower() for state in STATES)
JOB_RESULTS = tuple(result.lower() for result in RESULTS)
NODE_STATES = ("allocated", "free", "drained", "down")
#: Of RFC 21 and Flux's own modules; jobs are also raised with types of anybody's own, which are ``other`` here.
EXCEPTIONS = ("alloc", "cancel", "dependency", "epilog", "exec", "lost", "node-failure", "prolog", "timeout", "other")
SEVERITIES = ("fatal", "other")
SERVICE_STATES = ("running", "waiting", "draining", "stopping", "stopped")
REFUSALS = ("unauthenticated", "denied", "forbidden", "misdirected", "rate_limited")
DROPS = ("slow", "unauthenticated")
TASKS = (
    "embedded job", "event", "feed", "flux", "guard", "health", "history", "idle", "launcher", "ping", "scaling",
    "stop", "survey", "watch",
)  # fmt: skip


class Metric(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    part: Part
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds (seconds), without the last one, which is infinite."""
    stability: Stability = "stable"

    @property
    def family(self) -> str:
        """The name without a counter's suffix, as OpenMetrics has it."""
        return self.name.removesuffix("_total")


JOBS = Metric("flux_jobs", "gauge", "jobs", "Jobs by state, inactive ones included.", ("queue", "state"))
SUBMITS = Metric("flux_job_submits_total", "counter", "jobs", "Jobs that were accepted.", ("queue",))
RESULTS_OF_JOBS = Metric(
    "flux_job_results_total", "counter", "jobs", "Jobs that have ended, by result.", ("queue", "result")
)
EXCEPTIONS_OF_JOBS = Metric(
    "flux_job_exceptions_total",
    "counter",
    "jobs",
    "Exceptions that were raised on jobs; a fatal one ends its job.",
    ("type", "severity"),
)
RUN = Metric(
    "flux_job_run_seconds", "histogram", "jobs", "From the start of a job to its end.", ("queue", "result"), WAITS
)
CLEANUP = Metric(
    "flux_job_cleanup_seconds", "histogram", "jobs", "From a job's end until its resources are free.", ("queue",), WAITS
)

WAIT = Metric(
    "flux_job_wait_seconds",
    "histogram",
    "waiting",
    "From submit to start, of jobs that have started: dependencies and holds included.",
    ("queue",),
    WAITS,
)
SCHEDULING = Metric(
    "flux_job_scheduling_seconds",
    "histogram",
    "waiting",
    "From when a job could start to its start, of jobs that have started: waiting for resources.",
    ("queue",),
    WAITS,
)
HELD = Metric("flux_jobs_held", "gauge", "waiting", "Pending jobs of urgency 0: held.", ("queue",))
PENDING_NODES = Metric(
    "flux_pending_nodes_max",
    "gauge",
    "waiting",
    "Nodes that the largest pending job wants which is neither held nor waits for others; for autoscaling.",
    ("queue",),
)
QUEUE_ENABLED = Metric(
    "flux_queue_enabled", "gauge", "waiting", "1 while jobs may be submitted to a queue.", ("queue",)
)
QUEUE_STARTED = Metric("flux_queue_started", "gauge", "waiting", "1 while a queue's jobs are started.", ("queue",))

NODES = Metric("flux_nodes", "gauge", "nodes", "Nodes by state; each is in one of them.", ("state",))
CORES = Metric("flux_cores", "gauge", "nodes", "Cores: in use, or else by the state of their node.", ("state",))
GPUS = Metric("flux_gpus", "gauge", "nodes", "GPUs: in use, or else by the state of their node.", ("state",))
LAST_RANK = Metric(
    "flux_allocated_rank_max",
    "gauge",
    "nodes",
    "Highest rank that has a job, -1 without any: an instance of fewer brokers would lose it; for autoscaling.",
)

UP = Metric("flux_instance_up", "gauge", "instance", "1 while the instance answers.")
INFO = Metric("flux_instance_info", "gauge", "instance", "1, for its labels.", ("kind", "version"))
SIZE = Metric("flux_instance_size", "gauge", "instance", "Brokers that the instance is made for.")
STATE = Metric("flux_sidecar_service_state", "gauge", "instance", "1 for the state of the service.", ("state",))
ACTIVE_LAUNCHERS = Metric("flux_sidecar_launchers", "gauge", "instance", "Workflow launchers that run.")

REQUESTS = Metric(
    "flux_sidecar_http_requests_total", "counter", "server", "Requests that were answered.", ("method", "route", "code")
)
DURATION = Metric(
    "flux_sidecar_http_request_duration_seconds",
    "histogram",
    "server",
    "From a request's head to the end of its answer; streams left out.",
    ("method", "route"),
    LATENCIES,
)
IN_FLIGHT = Metric("flux_sidecar_http_requests_in_flight", "gauge", "server", "Requests that are worked on.")
CONNECTIONS = Metric("flux_sidecar_connections", "gauge", "server", "Connections that are open.")
STREAMS = Metric("flux_sidecar_streams", "gauge", "server", "Streams that are followed.", ("route",))
DROPPED = Metric(
    "flux_sidecar_stream_readers_dropped_total", "counter", "server", "Streams that were cut off.", ("reason",)
)
REFUSED = Metric("flux_sidecar_auth_failures_total", "counter", "server", "Requests that were not let in.", ("reason",))
RPC = Metric(
    "flux_sidecar_rpc_duration_seconds",
    "histogram",
    "server",
    "From a request to Flux to its answer.",
    ("topic",),
    LATENCIES,
)
RPC_ERRORS = Metric(
    "flux_sidecar_rpc_errors_total",
    "counter",
    "server",
    "Requests that Flux has refused (its errno), or has not answered (ETIMEDOUT, ECONNRESET).",
    ("topic", "errno"),
)
CAUGHT_UP = Metric("flux_sidecar_journal_caught_up", "gauge", "server", "1 when the history of jobs has been read.")
LAG = Metric(
    "flux_sidecar_journal_lag_seconds", "gauge", "server", "Age of the oldest job event that is not stored yet."
)
BACKLOG = Metric("flux_sidecar_journal_backlog", "gauge", "server", "Answers of the journal that wait to be stored.")
EVENTS = Metric("flux_sidecar_journal_events_total", "counter", "server", "Job events that were stored.")
RECONNECTS = Metric(
    "flux_sidecar_journal_restarts_total", "counter", "server", "Times that the journal was read from its beginning."
)
RESOURCES_AGE = Metric(
    "flux_sidecar_resources_age_seconds", "gauge", "server", "How long ago Flux has told nodes and queues."
)
STORE_SIZE = Metric("flux_sidecar_store_size_bytes", "gauge", "server", "Size of the job store's files.")
STORE_WRITE = Metric(
    "flux_sidecar_store_write_duration_seconds",
    "histogram",
    "server",
    "Time of a transaction of the job store.",
    (),
    LATENCIES,
)
STORE_ERRORS = Metric("flux_sidecar_store_write_errors_total", "counter", "server", "Transactions that failed.")
LOOP_LAG = Metric(
    "flux_sidecar_event_loop_lag_seconds",
    "gauge",
    "server",
    "How late the event loop came to its work, at the worst of the last seconds.",
)
TASK_DEATHS = Metric(
    "flux_sidecar_task_deaths_total",
    "counter",
    "server",
    "Background tasks that have died of an error, which is in the log; most are started again.",
    ("task",),
)
CHECK = Metric("flux_sidecar_health_check", "gauge", "server", "1 while a check of /readyz is good.", ("check",))
READY = Metric("flux_sidecar_ready", "gauge", "server", "1 while /readyz says so.")
BUILD = Metric("flux_sidecar_build_info", "gauge", "server", "1, for its labels.", ("version", "python"))

USER_JOBS = Metric(
    "flux_user_jobs",
    "gauge",
    "users",
    "Jobs by who has submitted them and state, inactive ones included.",
    ("user", "state"),
    stability="experimental",
)

#: In the order in which they are exposed and documented.
TABLE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
