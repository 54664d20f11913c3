"""The official Kubernetes client: where it is loaded, and what an image keeps of it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.harness import ROOT

PRUNE = (ROOT / "image/prune").read_text()


@pytest.mark.parametrize(
    ("modules", "loaded"),
    [
        ("sidecar.app.command, sidecar.cli, sidecar.web.pages, sidecar.api.cluster, sidecar.services.scaling", False),
        ("sidecar.follower", False),
        ("sidecar.cluster.cluster", True),
        ("sidecar.auth.kubernetes", True),
    ],
)
def test_the_client_is_loaded_only_for_a_cluster(modules: str, loaded: bool) -> None:
    code = f"import sys, {modules}; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == str(loaded)


def test_the_image_keeps_what_the_server_imports() -> None:
    sources = [path.read_text() for path in (ROOT / "sidecar").rglob("*.py")]
    imported = {name for text in sources for name in re.findall(r"kubernetes\.aio\.client\.api\.(\w+) import", text)}
    assert imported == set(re.findall(r"/aio/\*/(\w+)\.", PRUNE))
    assert not [text for text in sources if re.search(r"from kubernetes\.(client|aio\.client) import", text)]
