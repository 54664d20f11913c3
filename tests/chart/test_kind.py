"""kind itself validates the cluster configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.harness import KIND, ROOT

CONFIG = ROOT / "kind-config.yaml"


def create(config: Path, tmp_path: Path) -> str:
    """Return the output of `kind create cluster` without a container engine: it reads the configuration first."""
    for engine in ("docker", "podman", "nerdctl"):
        (tmp_path / engine).write_text("#!/bin/sh\necho no engine here >&2\nexit 1\n")
        (tmp_path / engine).chmod(0o755)
    argv = [str(KIND), "create", "cluster", "--config", str(config), "--kubeconfig", str(tmp_path / "kubeconfig")]
    path = f"{tmp_path}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "KIND_EXPERIMENTAL_PROVIDER": "docker"}
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.kind
def test_kind_accepts_the_configuration(tmp_path: Path) -> None:
    assert "no engine here" in create(CONFIG, tmp_path) or "failed to list" in create(CONFIG, tmp_path)


@pytest.mark.kind
def test_kind_rejects_an_invalid_configuration(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(CONFIG.read_text().replace("role: worker", "rule: worker", 1))
    assert "rule" in create(wrong, tmp_path)


def test_control_plane_and_two_workers() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    assert (config["kind"], config["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert sorted(node["role"] for node in config["nodes"]) == ["control-plane", "worker", "worker"]
