"""Limits of a Flux configuration: flux-config-policy(5), as Flux's plugins apply them.

A limit that is not valid is ignored: Flux rejects such a configuration, and checks the job again at the submit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.domain import durations
from sidecar.domain.jobspec import get
from sidecar.domain.resource_counts import Counts, is_whole

_UNLIMITED = -1  # set by a queue to override the limit of the instance
_SIZES = {"nnodes": "num_nodes", "ncores": "cores", "ngpus": "gpus_per_task"}


def faults(config: Mapping[str, Any], jobspec: Mapping[str, Any], want: Counts | None) -> list[str]:
    """Return the limits that a job exceeds, each with the parameter to change.

    Args:
        config: configuration of the broker.
        jobspec: to be submitted.
        want: requested resources; None if they cannot be counted.
    """
    queue = get(jobspec, "attributes.system.queue") or get(config, "policy.jobspec.defaults.system.queue")
    of = f" of the queue {queue}" if isinstance(queue, str) else ""
    queues = get(config, "queues")
    own = queues.get(queue) if isinstance(queues, dict) and isinstance(queue, str) else None
    candidates = (get(each, "policy") for each in (own, config) if isinstance(each, dict))
    policies = [each for each in candidates if isinstance(each, dict)]
    return [*_duration(policies, jobspec, of), *(_sizes(policies, want, of) if want else ())]


def _duration(policies: Sequence[Mapping[str, Any]], jobspec: Mapping[str, Any], of: str) -> list[str]:
    duration = get(jobspec, "attributes.system.duration") or 0.0
    if not duration:
        default = next(filter(None, (get(each, "jobspec.defaults.system.duration") for each in policies)), 0.0)
        duration = _seconds(default) or 0.0
    limits = (_seconds(get(each, "limits.duration")) for each in policies)
    limit = next((each for each in limits if each is not None), 0.0)
    if not limit or 0 < duration <= limit:
        return []
    requested = f"{duration:g} s are" if duration else "no time limit is"
    return [f"runtime: {requested} more than the policy limit{of}, {limit:g} s."]


def _seconds(value: Any) -> float | None:
    """Return a duration in seconds, 0 for unlimited; None if it is not valid."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    if value.lower() in ("inf", "infinity", "0"):
        return 0.0
    try:
        return durations.parse(value) or None
    except ValueError:
        return None


def _sizes(policies: Sequence[Mapping[str, Any]], want: Counts, of: str) -> list[str]:
    slots = want.total_slots
    requested = {"nnodes": want.nodes, "ncores": slots * want.cores, "ngpus": slots * want.gpus}
    exceeded = []
    for bound, word in (("max", "more"), ("min", "less")):
        for name, parameter in _SIZES.items():
            limits = (get(each, f"limits.job-size.{bound}.{name}") for each in policies)
            limit = next((each for each in limits if is_whole(each)), _UNLIMITED)
            if limit != _UNLIMITED and (requested[name] > limit if bound == "max" else requested[name] < limit):
                exceeded.append(f"{parameter}: {requested[name]} are {word} than the policy limit{of}, {limit}.")
    return exceeded
