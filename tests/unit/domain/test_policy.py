"""The limits of flux-config-policy(5), as Flux's plugins limit-duration and limit-job-size apply them."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.domain import policy, resource_counts
from sidecar.domain.job_request import JobRequest
from sidecar.domain.jobspec import build, prepared
from sidecar.domain.model import Environment

_GENERAL = {"limits": {"duration": "1h", "job-size": {"max": {"nnodes": 4, "ncores": 8}, "min": {"ncores": 2}}}}
_BATCH = {
    "policy": {"limits": {"duration": "1m", "job-size": {"max": {"nnodes": -1, "ngpus": 0}, "min": {"ncores": -1}}}}
}
_DEFAULT = {"policy": {"jobspec": {"defaults": {"system": {"duration": "30s"}}}, "limits": {"duration": "1m"}}}
_CONFIG = {"policy": _GENERAL, "queues": {"batch": _BATCH, "default": _DEFAULT, "free": {"policy": {"limits": {"duration": "inf"}}}, "odd": {}}}  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        ({"runtime": 3600, "num_tasks": 2}, []),
        ({"runtime": 3601, "num_tasks": 2}, ["runtime: 3601 s are more than the policy limit, 3600 s."]),
        ({"num_tasks": 2}, ["runtime: no time limit is more than the policy limit, 3600 s."]),
        ({"runtime": 1}, ["cores: 1 are less than the policy limit, 2."]),
        ({"runtime": 1, "num_tasks": 5, "num_nodes": 5}, ["num_nodes: 5 are more than the policy limit, 4."]),
        ({"runtime": 1, "num_tasks": 3, "cores_per_task": 3}, ["cores: 9 are more than the policy limit, 8."]),
        ({"runtime": 60, "queue": "batch"}, []),
        ({"runtime": 61, "queue": "batch"}, ["runtime: 61 s are more than the policy limit of the queue batch, 60 s."]),
        ({"runtime": 1, "queue": "batch", "num_nodes": 5, "num_tasks": 5}, []),
        ({"runtime": 1, "queue": "batch", "gpus_per_task": 1}, ["gpus_per_task: 1 are more than the policy limit of the queue batch, 0."]),
        ({"queue": "default", "num_tasks": 2}, []),
        ({"queue": "free", "num_tasks": 2}, []),
        ({"runtime": 3601, "queue": "odd", "num_tasks": 2}, ["runtime: 3601 s are more than the policy limit of the queue odd, 3600 s."]),
    ],
)  # fmt: skip
def test_limits(request_: dict[str, Any], wrong: list[str]) -> None:
    spec = prepared(build(JobRequest(command="true", **request_), Environment({}, "/"), {})).outline
    assert policy.faults(_CONFIG, spec, resource_counts.read(spec)) == wrong


@pytest.mark.parametrize("odd", [None, 5, "text", [], {"limits": 5}, {"limits": {"duration": [], "job-size": 7}}])
def test_an_invalid_configuration_has_no_limits(odd: Any) -> None:
    spec = prepared(build(JobRequest(command="true", queue="q"), Environment({}, "/"), {})).outline
    for config in ({"policy": odd}, {"queues": odd}, {"queues": {"q": odd}}, {"queues": {"q": {"policy": odd}}}):
        assert policy.faults(config, spec, resource_counts.read(spec)) == []
