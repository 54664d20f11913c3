"""The manifests of examples/minicluster, which are what docs/kubernetes.md makes of the operator's own examples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.cluster import LAUNCHER, SIDECAR, Applied, Release, Shape
from tests.support.harness import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.long]
APPLICATION = os.environ.get("E2E_APPLICATION_IMAGE", "")
EXAMPLES = ROOT / "examples/minicluster"


@pytest.fixture
def apply() -> Iterator[Callable[[str, Shape], Release]]:
    """Apply an example: ``apply(name, shape)``."""
    applied: list[Release] = []

    def new(name: str, shape: Shape) -> Release:
        image = os.environ["E2E_IMAGE"]
        applied.append(Applied(image, shape, EXAMPLES / f"{name}.yaml", APPLICATION or image))
        return applied[-1].install()

    yield new
    for each in applied:
        each.close()


@pytest.mark.parametrize(
    ("name", "shape"), [("launcher", LAUNCHER), ("sidecar", SIDECAR), ("sidecar-auth", SIDECAR)], ids=str
)
def test_submit_to_complete(apply: Callable[[str, Shape], Release], name: str, shape: Shape) -> None:
    cluster = apply(name, shape)
    if name == "sidecar-auth":
        cluster.basic = ("pinkyand", "thebrain")
    cluster.ready()
    assert len(cluster.output(["hostname"], num_nodes=2, num_tasks=2)) == 2
    cluster.stop()
    cluster.complete()
