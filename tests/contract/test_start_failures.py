"""Starts that fail or do not complete: the reports in the log, as an Event, and by ``/v1/service``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes.aio.client import V1Job

from sidecar.cluster.cluster import job_view
from sidecar.cluster.objects import Pod
from sidecar.cluster.obstacles import obstacles
from tests.support import odd_files
from tests.support.access import TokenFile, Users
from tests.support.authority import Authority
from tests.support.cluster_api import ClusterAPI
from tests.support.harness import SIDECAR, Server, embedded


@pytest.fixture
def api(api: ClusterAPI) -> ClusterAPI:
    """The API server of a cluster in which this machine is the lead pod."""
    api.pods[0] = api.pod(0, socket.gethostname())
    return api


def serve(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", **variables}
    argv = [SIDECAR, "serve", "--embedded", "--port", "0", *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment)


FAILURES: dict[str, tuple[tuple[str, ...], str]] = {
    "no method": (("--host", "0.0.0.0"), "No method of authentication is set"),
    "no file": (("--tokens", "/nonexistent/tokens"), "No such file or directory"),
    "no number": (("--max-streams", "many"), "max-streams"),
    "no option": (("--max-streems", "1"), "Did you mean --max-streams?"),
    "an argument": (("embedded",), 'Unexpected argument "embedded". Did you mean "--embedded"?'),
    "another argument": (("laptop", "now"), 'Unexpected argument "laptop". Options begin with --'),
    "no address": (("--host", "192.0.2.1", "--no-auth"), "192.0.2.1"),
}


@pytest.mark.parametrize(("options", "text"), FAILURES.values(), ids=FAILURES)
def test_json_log_has_only_json_lines(options: tuple[str, ...], text: str) -> None:
    done = serve(*options, FLUX_SIDECAR_LOG_FORMAT="json")
    assert (done.returncode, done.stdout) == (2, "")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert text in lines[-1]["reason"]
    assert (lines[-1]["level"], lines[-1]["code"]) == ("error", 2)
    assert lines[-1]["timestamp"]


@pytest.mark.parametrize("how", odd_files.ODD)
@pytest.mark.parametrize("option", ["--tokens", "--users", "--tls-cert", "--tls-key", "--tls-client-ca", "--oidc-ca"])
def test_irregular_files_of_settings(tmp_path: Path, option: str, how: str) -> None:
    """A FIFO does not block the start, and an endless file uses no memory."""
    authority = Authority(tmp_path)
    certificate, key = authority.serve()
    files = {
        "--tokens": TokenFile(tmp_path, alice="read").path, "--users": Users(tmp_path, bob="read").path,
        "--tls-cert": certificate, "--tls-key": key,
        "--tls-client-ca": authority.file, "--oidc-ca": authority.file,
    }  # fmt: skip
    path = tmp_path / "odd"
    why = odd_files.put(path, how)
    chosen = {**files, option: path}
    done = serve("--oidc-issuer", "https://localhost", *(word for each in chosen.items() for word in map(str, each)))
    assert done.returncode == 2
    assert f"odd {why}" in " ".join(done.stderr.replace("│", "").split())


def test_key_with_a_password(tmp_path: Path) -> None:
    """OpenSSL would prompt for it on the terminal, and wait."""
    certificate, key = Authority(tmp_path).serve()
    argv = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", str(tmp_path / "locked")]
    subprocess.run(argv, check=True, capture_output=True)
    done = serve("--tls-cert", str(certificate), "--tls-key", str(tmp_path / "locked"))
    assert done.returncode == 2
    assert "the key has a password" in " ".join(done.stderr.replace("│", "").split())


@pytest.mark.parametrize(("options", "text"), FAILURES.values(), ids=FAILURES)
def test_last_lines_on_a_terminal(options: tuple[str, ...], text: str) -> None:
    done = serve(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in " ".join(done.stderr.replace("│", "").split())


def test_listening_line_is_json(started: Callable[[Server], Server], tmp_path: Path) -> None:
    server = started(embedded(tmp_path, "--log-format", "json")).ready()
    server.stop()
    server.wait()
    lines = [json.loads(line) for line in server.text().splitlines()]
    (listening,) = [line for line in lines if "listens on" in line["event"]]
    assert listening["urls"] == [server.listening]
    assert listening["docs"] == f"{server.listening}/docs"


def test_failed_start_creates_an_event(api: ClusterAPI) -> None:
    done = serve("--tokens", "/nonexistent/tokens", *api.options, KUBERNETES_SERVICE_HOST="192.0.2.1")
    assert done.returncode == 2
    (event,) = api.events
    assert (event["type"], event["reason"], event["involvedObject"]["kind"]) == (
        "Warning",
        "StartFailed",
        "MiniCluster",
    )
    assert "/nonexistent/tokens" in event["message"]


def test_failing_event_changes_nothing(api: ClusterAPI) -> None:
    api.role.clear()
    done = serve("--tokens", "/nonexistent/tokens", *api.options)
    assert done.returncode == 2
    assert "/nonexistent/tokens" in done.stderr
    assert not api.events


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"name": "flux", "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"phase": "Running"}, ""),
        ({"phase": "Succeeded"}, ""),
        ({"phase": "Pending"}, "is Pending"),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available: 1 Insufficient cpu.",
                    }
                ],
            },
            "is not scheduled: 0/1 nodes are available: 1 Insufficient cpu.",
        ),
        (
            {"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff", "Back-off pulling image")]},
            "does not run its container flux: ImagePullBackOff: Back-off pulling image",
        ),
        (
            {
                "phase": "Pending",
                "initContainerStatuses": [waiting("CreateContainerConfigError", 'secret "x" not found')],
            },
            'does not run its container flux: CreateContainerConfigError: secret "x" not found',
        ),
        ({"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]}, "is Pending"),
        ({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}, "CrashLoopBackOff"),
    ],
)
def test_reason_for_waiting_pods(api: ClusterAPI, status: dict[str, Any], text: str) -> None:
    api.pods[1]["status"] = status
    found = outlook(api)
    assert text in found
    assert bool(found) == bool(text)


def outlook(api: ClusterAPI) -> str:
    job = V1Job.from_dict(api.job)
    assert job
    pods = [msgspec.convert(pod, Pod) for pod in api.pods]
    return obstacles(job_view(job), pods)


def test_missing_pods(api: ClusterAPI) -> None:
    api.remove(1)
    assert outlook(api).startswith("1 of 2 pods do not exist: see `kubectl describe job mc`")
    api.pods[0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert outlook(api).startswith("2 of 2 pods do not exist")


def test_waiting_pods_are_counted(api: ClusterAPI) -> None:
    api.job["spec"]["completions"] = 100
    api.pods = [api.pod(index) for index in range(100)]
    for pod in api.pods:
        pod["status"] = {"phase": "Pending"}
    found = outlook(api)
    assert found.endswith("; and 97 more")
    assert len(found) < 1000


def test_service_without_waiting_pods(server: Server) -> None:
    assert server.http.get("/v1/service").json()["waits_for"] == ""


def test_follower_logs_json(tmp_path: Path) -> None:
    variables = {"FLUX_SIDECAR_LOG_FORMAT": "json", "JOB_COMPLETION_INDEX": "1", "FLUX_SIDECAR_FOLLOWER_WAIT": "0"}
    path = tmp_path / 'a "broker"'
    end = tmp_path / "end"
    end.write_text('1 it is "over"\n')
    argv = [SIDECAR, "serve", "--uri", f"local://{path}", "--end-file", str(end)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, **variables})
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert 'it is "over"' in " ".join(line["event"] for line in lines)
    assert all(line["level"] and line["timestamp"] for line in lines)
