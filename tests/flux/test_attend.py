"""Pods that wait for pods that will not return, as the Job's completed indexes show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flux.operator import Lead, follower_socket, start_follower
from tests.support import harness, odd_files
from tests.support.cluster_api import ClusterAPI
from tests.support.harness import Process, Server, beside, eventually
from tests.support.kubernetes_api import CLOSE

Start = Callable[[Any], Any]
#: It reaches RUN only with both brokers.
pytestmark = pytest.mark.timeout(180)


def variables(api: ClusterAPI, end: Path) -> dict[str, str]:
    return {
        "FLUX_SIDECAR_END_FILE": str(end),
        "FLUX_SIDECAR_MINICLUSTER": api.name,
        "FLUX_SIDECAR_KUBERNETES_API": api.url,
        "FLUX_SIDECAR_KUBERNETES_CREDENTIALS": str(api.credentials_directory),
    }


def attend(directory: Path, socket: Path, index: int, command: str = "attend", **more: str) -> Process:
    argv = [harness.SIDECAR, command, "--host", "0.0.0.0", "--uri", f"local://{socket}"]
    return Process(argv, directory, JOB_COMPLETION_INDEX=str(index), **more)


def warnings(api: ClusterAPI) -> list[str]:
    return [event["reason"] for event in api.events if event["type"] == "Warning"]


def test_lead_with_completed_followers(tmp_path: Path, api: ClusterAPI, started: Start) -> None:
    end = tmp_path / "end"
    lead = started(Lead(tmp_path))
    server: Server = started(beside(lead, tmp_path, **variables(api, end)))
    eventually(lambda: server.http.get("/v1/service").json()["instance"]["broker_state"] == "quorum", what="quorum")
    assert not end.exists()
    api.job["status"]["completedIndexes"] = "1"
    assert server.wait(60) == 70
    assert end.read_text().startswith("1 the followers 1 of 2 brokers have completed")
    assert warnings(api) == ["InstanceLost"]
    # The kubelet restarts the container: the server exits at once.
    again = started(beside(lead, tmp_path, **variables(api, end)))
    assert again.wait(60) == 70
    assert "this pod has ended already: the followers 1 of 2" in again.text()


def test_lead_with_completed_followers_and_an_unwritable_end_file(
    tmp_path: Path, api: ClusterAPI, started: Start
) -> None:
    """Its broker must not wait for the others for ever: it is ended by a signal."""
    api.job["status"]["completedIndexes"] = "1"
    lead = started(Lead(tmp_path))
    server: Server = started(beside(lead, tmp_path, **variables(api, tmp_path / "missing/end")))
    assert server.wait(60) == 70
    assert lead.wait(60) == 0, lead.text()
    assert "the followers 1 of 2 brokers have completed" in server.text()
    assert warnings(api) == ["InstanceLost"]


@pytest.mark.parametrize("allowed", [True, False])
def test_pod_replacement_policy_is_set(tmp_path: Path, api: ClusterAPI, started: Start, allowed: bool) -> None:
    """The Job must create a new pod only after the old one has ended; without the permission the server still runs."""
    if not allowed:
        api.role.remove("patch jobs.batch")
    lead, _ = started(Lead(tmp_path)), started(start_follower(tmp_path))
    server: Server = started(beside(lead, tmp_path, **variables(api, tmp_path / "end"))).ready()
    if allowed:
        eventually(lambda: api.job["spec"].get("podReplacementPolicy") == "Failed", what="the policy")
        assert api.requests.count("patch jobs.batch") == 1
    else:
        eventually(lambda: "a lead that is deleted may run twice" in server.text(), what="the warning")
        assert 'resources: ["jobs"], verbs: ["patch"]' in server.text()
    server.stop()
    assert server.wait(60) == 0


def test_running_instance_is_not_ended(tmp_path: Path, api: ClusterAPI, started: Start) -> None:
    """Even if the API server's response about its Job is odd."""
    end = tmp_path / "end"
    api.job["status"]["completedIndexes"] = "1"
    lead, _ = started(Lead(tmp_path)), started(start_follower(tmp_path))
    eventually(lambda: "quorum->run" in lead.text(), within=60, what="RUN")
    server: Server = started(beside(lead, tmp_path, **variables(api, end))).ready()
    assert server.run("true", num_nodes=2)["result"] == "COMPLETED"
    server.stop()
    assert server.wait(60) == 0
    assert not end.exists()
    assert not warnings(api)


@pytest.mark.parametrize("command", ["serve", "attend"])
def test_follower_of_a_completed_lead(tmp_path: Path, api: ClusterAPI, started: Start, command: str) -> None:
    end = tmp_path / "end"
    started(start_follower(tmp_path))  # its lead does not exist
    waiting = started(attend(tmp_path, follower_socket(tmp_path), 1, command, **variables(api, end)))
    api.job["status"]["completedIndexes"] = "0"
    assert waiting.wait(60) == 0
    assert end.read_text().startswith("0 the lead has completed")
    assert not warnings(api)  # this is not a failure


def test_follower_with_an_unwritable_end_file(tmp_path: Path, api: ClusterAPI, started: Start) -> None:
    """The write is retried, as disk space may become free."""
    end = tmp_path / "missing/end"
    started(start_follower(tmp_path))
    waiting = started(attend(tmp_path, follower_socket(tmp_path), 1, **variables(api, end)))
    api.job["status"]["completedIndexes"] = "0"
    eventually(lambda: "cannot write the end file, will retry" in waiting.text(), what="the first attempt")
    end.parent.mkdir()
    assert waiting.wait(60) == 0
    assert end.read_text().startswith("0 the lead has completed")


def test_a_check_that_hangs_does_not_delay_a_follower(tmp_path: Path, api: ClusterAPI, started: Start) -> None:
    """Its broker starts and ends meanwhile, which the follower notices; the process of the check is ended."""
    options = {**variables(api, tmp_path / "end"), **odd_files.hanging_checks(tmp_path / "hanging")}
    waiting = started(attend(tmp_path, follower_socket(tmp_path), 1, "serve", **options))
    eventually(waiting.leftovers, what="a check")
    lead, follower = started(Lead(tmp_path)), started(start_follower(tmp_path))
    eventually(lambda: not waiting.leftovers(), what="the end of the check")
    assert lead.run("shutdown", "--background", lead.uri).returncode == 0
    assert (waiting.wait(20), follower.wait(20), lead.wait(20)) == (0, 0, 0)


def test_launcher_with_completed_followers(tmp_path: Path, api: ClusterAPI, started: Start) -> None:
    end = tmp_path / "end"
    lead = started(Lead(tmp_path))
    waiting = started(attend(tmp_path, Path(lead.uri.removeprefix("local://")), 0, **variables(api, end)))
    api.job["status"]["completedIndexes"] = "1"
    assert waiting.wait(60) == 1
    assert end.read_text().startswith("1 the followers 1 of 2 brokers have completed")
    assert warnings(api) == ["InstanceLost"]


def test_launcher_waits_until_the_instance_runs(tmp_path: Path, api: ClusterAPI, started: Start) -> None:
    end = tmp_path / "end"
    lead = started(Lead(tmp_path))
    waiting = started(attend(tmp_path, Path(lead.uri.removeprefix("local://")), 0, **variables(api, end)))
    started(start_follower(tmp_path))
    assert waiting.wait(60) == 0
    assert not end.exists()


def test_unavailable_api_server_is_retried(tmp_path: Path, api: ClusterAPI, started: Start) -> None:
    end = tmp_path / "end"
    api.job["status"]["completedIndexes"] = "0"
    api.trouble["get jobs.batch"] = CLOSE
    started(start_follower(tmp_path))
    waiting = started(attend(tmp_path, follower_socket(tmp_path), 1, "attend", **variables(api, end)))
    eventually(lambda: "cannot read the Job" in waiting.text(), within=60, what="a failed check")
    assert waiting.popen.poll() is None
    api.trouble.clear()
    assert waiting.wait(90) == 0
    assert end.exists()
