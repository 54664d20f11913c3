"""What a configuration lets jobs ask for: the limits of flux-config-policy(5), as Flux's plugins apply them.

Where a limit cannot be read, there is none: Flux refuses such a configuration, and has the last word at the submit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.domain import durations
from sidecar.domain.jobspec import get
from sidecar.domain.resource_counts import Counts, is_whole

_ANY = -1  # a limit that a queue sets, to have none
_SIZES = {"nnodes": "num_nodes", "ncores": "cores", "ngpus": "gpus_per_task"}


def faults(config: Mapping[str, Any], jobspec: Mapping[str, Any], want: Counts | None) -> list[str]:
    """Say which limits a job is over, each with the parameter that is to be changed; none where there are none.

    Args:
        config: the broker's configuration.
        jobspec: what would be submitted.
        want: what it asks for; None where that cannot be counted.
    """
    queue = get(jobspec, "attributes.system.queue") or get(config, "policy.jobspec.defaults.system.queue")
    of = f" of the queue {queue}" if isinstance(queue, str) else ""
    queues = get(config, "queues")
    own = queues.get(queue) if isinstance(queues, dict) and isinstance(queue, str) else None
    found = (get(each, "policy") for each in (own, config) if isinstance(each, dict))
    policies = [each for each in found if isinstance(each, dict)]
    return [*_duration(policies, jobspec, of), *(_sizes(policies, want, of) if want else ())]


def _duration(policies: Sequence[Mapping[str, Any]], jobspec: Mapping[str, Any], of: str) -> list[str]:
    duration = get(jobspec, "attributes.system.duration") or 0.0
    if not duration:
        default = next(filter(None, (get(each, "jobspec.defaults.system.duration") for each in policies)), 0.0)
        duration = _seconds(default) or 0.0
    limit = next((found for each in policies if (found := _seconds(get(each, "limits.duration"))) is not None), 0.0)
    if not limit or 0 < duration <= limit:
        return []
    asked = f"{duration:g} s are" if duration else "no time limit is"
    return [f"runtime: {asked} more than the policy limit{of}, {limit:g} s."]


def _seconds(value: Any) -> float | None:
    """Return a duration, 0 for one without an end; None where there is none."""
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
    asked = {"nnodes": want.nodes, "ncores": slots * want.cores, "ngpus": slots * want.gpus}
    found = []
    for bound, word in (("max", "more"), ("min", "less")):
        for name, parameter in _SIZES.items():
            limits = (get(each, f"limits.job-size.{bound}.{name}") for each in policies)
            limit = next((each for each in limits if is_whole(each)), _ANY)
            if limit != _ANY and (asked[name] > limit if bound == "max" else asked[name] < limit):
                found.append(f"{parameter}: {asked[name]} are {word} than the policy limit{of}, {limit}.")
    return found
