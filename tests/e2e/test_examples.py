"""The manifests of examples/minicluster, which docs/kubernetes.md derives from the operator's own examples."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import LAUNCHER, SIDECAR, Release, Shape, run
from tests.support.harness import ROOT, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]
APPLICATION = os.environ.get("E2E_APPLICATION_IMAGE", "")
EXAMPLES = ROOT / "examples/minicluster"


class Applied(Release):
    """A MiniCluster of a manifest, without the chart, as the operator's own examples are; its API is on loopback."""

    def __init__(self, image: str, shape: Shape, manifest: Path, application: str) -> None:
        text = manifest.read_text().replace("REGISTRY/flux-sidecar:0.1.0", image)
        text = text.replace("REGISTRY/application-with-flux:2026.9", application)
        super().__init__(image, shape, int(re.findall(r"size: (\d+)", text)[0]))
        self.name = re.findall(r"name: (\S+)", text)[0]
        self._manifest = text

    def install(self, *, services: Sequence[str] = (), **values: Any) -> Applied:
        assert not services
        assert not values
        run("kubectl", "create", "namespace", self.namespace)
        run("kubectl", "--namespace", self.namespace, "apply", "--filename", "-", text=self._manifest)
        eventually(lambda: len(self.pods()) == self.size, what="the pods")
        return self

    @property
    def forwarded(self) -> str:
        """The pod: no Service selects the server."""
        return f"pod/{self.pod(0)}"


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
