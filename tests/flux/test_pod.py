"""The scripts of a broker's container (helm/flux-sidecar/files) with real brokers, each in its own process tree."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import ROOT, Process, eventually

Start = Callable[[Any], Any]
FILES = ROOT / "helm/flux-sidecar/files"
_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*_NAMESPACES, "true"], capture_output=True, timeout=30, check=False).returncode != 0,
    reason="it takes root, to make namespaces",
)

# The mounts of the kubelet; then the container's command, as the first process.
_CONTAINER = """
mount -t tmpfs none /mnt && mkdir /mnt/flux && mount --bind "$1/flux" /mnt/flux
mount -t tmpfs none /etc/opt && mkdir /etc/opt/cluster
[ -d /etc/flux-cluster ] || mkdir /etc/flux-cluster
mount --bind "$1/cluster" /etc/flux-cluster
shift
exec bash "$@"
"""


class Pod(Process):
    """The broker's container of a pod of `workload: job`."""

    def __init__(self, directory: Path, index: int = 0, size: int = 1) -> None:
        self.directory = directory / f"pod-{index}"
        self.flux, cluster = self.directory / "flux", self.directory / "cluster"
        (self.flux / "run").mkdir(parents=True, exist_ok=True)
        cluster.mkdir(exist_ok=True)
        for name in ("pod.sh", "start.sh"):
            shutil.copy(FILES / name, cluster)
        hosts = "mc-0" if size == 1 else f"mc-[0-{size - 1}]"
        (cluster / "resources").write_text(f"--hosts={hosts} --cores=0-1\n")
        (cluster / "broker.toml").write_text(_config(directory, size))
        script = [
            *_NAMESPACES,
            "bash",
            "-c",
            _CONTAINER,
            "container",
            str(self.directory),
            "/etc/flux-cluster/start.sh",
        ]
        super().__init__([*script, f"-Shostname=mc-{index}"], self.directory, JOB_COMPLETION_INDEX=str(index))

    @functools.cached_property
    def first(self) -> int:
        """The process ID of the container's first process, outside of the container."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return int(eventually(lambda: children.read_text().split(), what="the first process")[0])

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the container's first process, as the kubelet does."""
        os.kill(self.first, number)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run Flux's command against this pod's broker, in the container."""
        inside = ["nsenter", "--target", str(self.first), "--mount", "--pid", "flux", *argv]
        environment = os.environ | {"FLUX_URI": "local:///mnt/flux/run/local"}
        return subprocess.run(inside, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def state(self) -> str:
        words = self.run("uptime").stdout.split()
        return words[1] if words else ""

    def runs(self) -> Pod:
        eventually(lambda: self.state() == "run", within=60, what="RUN")
        return self


def _config(directory: Path, size: int) -> str:
    if size == 1:
        return '[resource]\npath = "/mnt/flux/R"\nnoverify = true\n'
    certificate = directory / "curve.cert"
    if not certificate.exists():
        subprocess.run(["flux", "keygen", str(certificate)], check=True, timeout=30)
    lead = f'{{ host = "mc-0", bind = "ipc://{directory}/tbon", connect = "ipc://{directory}/tbon" }}'
    others = ", ".join(f'{{ host = "mc-{index}" }}' for index in range(1, size))
    bootstrap = f'[bootstrap]\ncurve_cert = "{certificate}"\nhosts = [{lead}, {others}]\n'
    return f'{bootstrap}[resource]\npath = "/mnt/flux/R"\nnoverify = true\n'


#: It takes a second to end after SIGTERM, so that the instance is in CLEANUP for that long.
SLOW = ["bash", "-c", "trap 'sleep 1; exit' TERM; touch /mnt/flux/began; while :; do sleep 0.1; done"]


def running(pod: Pod, *command: str) -> None:
    job = pod.run("submit", *command).stdout.strip()
    assert pod.run("job", "wait-event", "--timeout=30", job, "start").returncode == 0
    if command == tuple(SLOW):
        eventually((pod.flux / "began").exists, what="a job that has set its trap")


def test_terminated_lead_exits_with_0(tmp_path: Path, started: Start) -> None:
    pod = started(Pod(tmp_path)).runs()
    running(pod, *SLOW)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(30) == 0
    assert "rc3.0: flux modprobe rc3 Exited (rc=0)" in pod.text()


@pytest.mark.parametrize("first", ["the server", "kubelet"])
def test_signal_during_a_shutdown(tmp_path: Path, started: Start, first: str) -> None:
    """A second signal in CLEANUP aborts its commands: exit code 129, and jobs that are not canceled."""
    pod = started(Pod(tmp_path)).runs()
    running(pod, *SLOW)

    def shut_down() -> None:
        pod.run("shutdown", "--background", "--skip-gc")

    def terminate() -> None:
        pod.send_signal(signal.SIGTERM)

    begin, follow = (shut_down, terminate) if first == "the server" else (terminate, shut_down)
    begin()
    eventually(lambda: pod.state() == "cleanup", within=20, what="CLEANUP")
    follow()
    terminate()
    assert pod.wait(30) == 0
    assert "Hangup" not in pod.text()


def test_job_that_is_an_instance_is_not_the_pods_instance(tmp_path: Path, started: Start) -> None:
    pod = started(Pod(tmp_path)).runs()
    running(pod, "flux", "start", "sleep", "600")
    eventually(lambda: "flux-broker" in pod.run("exec", "-r", "0", "ps", "-e").stdout, what="brokers")
    found = 'pod_child 1 "flux-broker*"'
    inside = [
        "nsenter",
        "--target",
        str(pod.first),
        "--mount",
        "--pid",
        "bash",
        "-c",
        f". /etc/flux-cluster/pod.sh; {found}",
    ]
    broker = subprocess.run(inside, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    assert broker == pod.run("getattr", "broker.pid").stdout.strip()


def test_terminated_follower_does_not_complete(tmp_path: Path, started: Start) -> None:
    lead, follower = started(Pod(tmp_path, 0, 2)), started(Pod(tmp_path, 1, 2))
    lead.runs()
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(30) == 143
    again = started(Pod(tmp_path, 1, 2)).runs()
    lead.send_signal(signal.SIGTERM)
    assert (lead.wait(30), again.wait(30)) == (0, 0)


@pytest.mark.parametrize(("code", "terminated"), [(0, False), (1, False), (1, True)])
def test_end_file_ends_a_waiting_lead(tmp_path: Path, started: Start, code: int, terminated: bool) -> None:
    pod = started(Pod(tmp_path, 0, 2))
    eventually(lambda: pod.state() == "quorum", within=60, what="QUORUM")
    (pod.flux / "end").write_text(f"{code} followers have completed\n")
    if terminated:
        pod.send_signal(signal.SIGTERM)
    assert pod.wait(30) == code
    assert "flux-sidecar: followers have completed" in pod.text()
    # The kubelet restarts the container: it exits at once.
    assert started(Pod(tmp_path, 0, 2)).wait(30) == code


def test_end_file_ends_a_waiting_follower(tmp_path: Path, started: Start) -> None:
    pod = started(Pod(tmp_path, 1, 2))
    eventually(lambda: pod.state() == "join", within=60, what="JOIN")
    (pod.flux / "end").write_text("0 the lead has completed\n")
    assert pod.wait(30) == 0


def test_follower_that_loses_its_lead_before_run_ends(tmp_path: Path, started: Start) -> None:
    """Its broker would stay in QUORUM forever, and the new lead would never have all of its nodes."""
    lead, follower = started(Pod(tmp_path, 0, 3)), started(Pod(tmp_path, 1, 3))
    eventually(lambda: follower.state() == "quorum", what="QUORUM")
    lead.close()
    lead = started(Pod(tmp_path, 0, 3))
    assert follower.wait() not in (0, None)
    assert "the lead was lost before the instance was complete" in follower.text()
    followers = [started(Pod(tmp_path, index, 3)) for index in (1, 2)]
    lead.runs()
    assert [each.runs().state() for each in followers] == ["run", "run"]
    lead.send_signal(signal.SIGTERM)
    assert lead.wait(30) == 0
