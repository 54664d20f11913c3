"""What keeps the pods of a Job from running, in Kubernetes' own words: the reason of a start that hangs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sidecar.cluster.objects import Job, Pod

_STARTING = frozenset({"", "ContainerCreating", "PodInitializing"})
_MAX_OBSTACLES = 3
_MAX_MESSAGE = 300  # characters of a message


def obstacles(job: Job, pods: Sequence[Pod]) -> str:
    """Return what the instance waits for; empty where every pod runs.

    Args:
        job: its pods are the brokers.
        pods: all of them.
    """
    found = list(_obstacles(job, pods))
    more = f"; and {len(found) - _MAX_OBSTACLES} more" if len(found) > _MAX_OBSTACLES else ""
    return "; ".join(found[:_MAX_OBSTACLES]) + more


def _obstacles(job: Job, pods: Sequence[Pod]) -> Iterator[str]:
    living = {pod.index: pod for pod in pods if pod.metadata.deletion_timestamp is None}
    size = job.completions or 1
    if missing := [index for index in range(size) if index not in living]:
        yield (
            f"{len(missing)} of {size} pods do not exist: see `kubectl describe job {job.name}`, a quota or an "
            "admission policy may refuse them"
        )
    for index in range(size):
        if (pod := living.get(index)) and (text := _obstacle(pod)):
            yield f"pod {pod.metadata.name} {text}"


def _obstacle(pod: Pod) -> str:
    status = pod.status
    for condition in status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"is not scheduled: {_shortened(condition.message or condition.reason)}"
    for container in (*status.init_container_statuses, *status.container_statuses):
        waiting = container.state.waiting
        if waiting and waiting.reason not in _STARTING:
            message = f": {_shortened(waiting.message)}" if waiting.message else ""
            return f"does not run its container {container.name}: {waiting.reason}{message}"
    if status.phase in ("Pending", "Unknown"):
        return f"is {status.phase}"
    return ""


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}…"
