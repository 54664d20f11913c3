"""The scripts of a broker's container (helm/flux-sidecar/files), around real brokers: a process tree of its own each."""

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

# What kubelet mounts; then the container's command, as the first process.
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
        """The process id, outside, of the container's first process."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return int(eventually(lambda: children.read_text().split(), what="the first process")[0])

    def tell(self, number: signal.Signals) -> None:
        """Signal the container's first process, as kubelet does."""
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


#: It takes a second to end after it is told to, so that the instance is in CLEANUP for that long.
SLOW = ["bash", "-c", "trap 'sleep 1; exit' TERM; touch /mnt/flux/began; while :; do sleep 0.1; done"]


def running(pod: Pod, *command: str) -> None:
    job = pod.run("submit", *command).stdout.strip()
    assert pod.run("job", "wait-event", "--timeout=30", job, "start").returncode == 0
    if command == tuple(SLOW):
        eventually((pod.flux / "began").exists, what="a job that has set its trap")


def test_a_lead_that_is_told_to_go_ends_with_0(tmp_path: Path, started: Start) -> None:
    pod = started(Pod(tmp_path)).runs()
    running(pod, *SLOW)
    pod.tell(signal.SIGTERM)
    assert pod.wait(30) == 0
    assert "rc3.0: flux modprobe rc3 Exited (rc=0)" in pod.text()


@pytest.mark.parametrize("first", ["the server", "kubelet"])
def test_two_that_end_it_at_once(tmp_path: Path, started: Start, first: str) -> None:
    """A signal in CLEANUP aborts its commands: exit code 129, and jobs that are not cancelled."""
    pod = started(Pod(tmp_path)).runs()
    running(pod, *SLOW)

    def ask() -> None:
        pod.run("shutdown", "--background", "--skip-gc")

    def tell() -> None:
        pod.tell(signal.SIGTERM)

    begin, follow = (ask, tell) if first == "the server" else (tell, ask)
    begin()
    eventually(lambda: pod.state() == "cleanup", within=20, what="CLEANUP")
    follow()
    tell()
    assert pod.wait(30) == 0
    assert "Hangup" not in pod.text()


def test_a_job_that_is_an_instance_is_not_taken_for_it(tmp_path: Path, started: Start) -> None:
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


def test_a_follower_that_is_told_to_go_has_not_done_its_part(tmp_path: Path, started: Start) -> None:
    lead, follower = started(Pod(tmp_path, 0, 2)), started(Pod(tmp_path, 1, 2))
    lead.runs()
    follower.tell(signal.SIGTERM)
    assert follower.wait(30) == 143
    again = started(Pod(tmp_path, 1, 2)).runs()
    lead.tell(signal.SIGTERM)
    assert (lead.wait(30), again.wait(30)) == (0, 0)


@pytest.mark.parametrize(("code", "told"), [(0, False), (1, False), (1, True)])
def test_the_end_file_ends_a_lead_that_waits_for_others(tmp_path: Path, started: Start, code: int, told: bool) -> None:
    pod = started(Pod(tmp_path, 0, 2))
    eventually(lambda: pod.state() == "quorum", within=60, what="QUORUM")
    (pod.flux / "end").write_text(f"{code} followers have completed\n")
    if told:
        pod.tell(signal.SIGTERM)
    assert pod.wait(30) == code
    assert "flux-sidecar: followers have completed" in pod.text()
    # Kubelet starts the container again: it does not begin once more.
    assert started(Pod(tmp_path, 0, 2)).wait(30) == code


def test_the_end_file_ends_a_follower_that_has_no_lead(tmp_path: Path, started: Start) -> None:
    pod = started(Pod(tmp_path, 1, 2))
    eventually(lambda: pod.state() == "join", within=60, what="JOIN")
    (pod.flux / "end").write_text("0 the lead has completed\n")
    assert pod.wait(30) == 0
