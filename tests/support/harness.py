"""Real servers on real ports, for tests: start them, wait for them, and end them with all their processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import httpx

T = TypeVar("T")

BIN = Path(sys.executable).parent
SIDECAR = str(BIN / "flux-sidecar")
FLUX = shutil.which("flux")
ROOT = Path(__file__).parents[2]
_TOOLS = f"{ROOT / '.tools/bin'}:{os.environ['PATH']}"
HELM = shutil.which("helm", path=_TOOLS)
KIND = shutil.which("kind", path=_TOOLS)
JQ = shutil.which("jq")
ZSH = shutil.which("zsh")
TCSH = shutil.which("tcsh")
CHROMIUM = shutil.which("chromium") or ""
PROMTOOL = shutil.which("promtool") if shutil.which("prometheus") else None

#: Variables of the environment, perhaps of a pod, that a server under test must not see.
_OURS = ("FLUX_", "PYTHON", "KUBERNETES_", "JOB_COMPLETION_INDEX")
#: A broker's `bash -c`, whose standard input is a socket, takes itself for a remote login and reads ~/.bashrc, unless
#: it is nested: commands there (pyenv takes a lock, for one) would make brokers wait for each other.
_NESTED = {"SHLVL": "2"}
os.environ.update(_NESTED)  # also for Flux's own commands, whose batch jobs are brokers

#: The directory of brokers' directories, which killed brokers leave behind. The name is short, as sockets are in it.
TEMPORARY = tempfile.TemporaryDirectory(prefix="flux-tests-")

#: For clients of plain HTTP: without a context, httpx loads the machine's certificates for each client, which takes
#: some 50 ms of CPU.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

#: In the environment of all processes that a test starts, also of jobs (which do not inherit the server's settings):
#: a process that still has it after the test was left behind.
MARK = "TEST_PROCESS_MARK"


#: Seconds to wait for events that must happen: enough while other programs use all cores.
PATIENCE = 60.0


def eventually(
    check: Callable[[], T | Literal[False] | None], *, within: float = PATIENCE, what: str = "condition"
) -> T:
    """Return the first true result of ``check``; fail if there is none in time."""
    deadline = time.monotonic() + within
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} not reached within {within} s; last result: {result!r}")
        time.sleep(0.02)


class Process:
    """A program under test, in its own session."""

    def __init__(self, argv: Sequence[str], directory: Path, **variables: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.mark = uuid.uuid4().hex
        self.log = directory / f"{Path(argv[0]).name}-{self.mark[:8]}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_OURS) and k != "HOST"}
        environment |= _NESTED | {"PATH": f"{BIN}:{os.environ['PATH']}", "TMPDIR": TEMPORARY.name}
        environment |= {MARK: self.mark, **variables}
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=directory,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.popen.pid

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, within: float = PATIENCE) -> int:
        """Return the exit code."""
        try:
            return self.popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within} s:\n{self.text()}") from None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def child(self, text: str) -> int:
        """Return the pid of the one child process whose command line contains a text."""
        (pid,) = [pid for pid, line in _marked(self.mark) if text in line and pid != self.pid]
        return pid

    def leftovers(self) -> list[str]:
        """Return the command lines of processes that this one has left behind."""
        return [line for pid, line in _marked(self.mark) if pid != self.pid]

    def close(self) -> None:
        """Kill it and all processes that it started, whatever a failed test has left.

        An orderly end of a Flux instance starts five Python programs, a second of work that no test needs.
        """
        while marked := _marked(self.mark):
            for pid, _ in marked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.popen.poll()
        if self.popen.poll() is None:  # a server that authenticates hides its mark from all users but root
            self.popen.kill()
        self.popen.wait()


def _marked(mark: str) -> list[tuple[int, str]]:
    """Return pid and command line of the living processes with a mark."""
    found = []
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if line:  # a zombie has none
                    found.append((int(entry.name), line))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


class Server(Process):
    """A running flux-sidecar, and a client for it."""

    def __init__(self, argv: Sequence[str], directory: Path, **variables: str) -> None:
        super().__init__(argv, directory, **variables)
        self._client: httpx.Client | None = None
        self._listening = ""
        self.trusts: ssl.SSLContext | None = None
        """The certificate authority of the server, if it uses TLS."""

    @property
    def url(self) -> str:
        """The URL at which it listens, once it is announced."""

        def announced() -> str:
            if self.popen.poll() is not None:
                raise AssertionError(f"ended with {self.popen.returncode}:\n{self.text()}")
            return self.listening

        return eventually(announced, what="announcement")

    @property
    def listening(self) -> str:
        """The URL at which it listens or has listened; empty before it is announced."""
        if not self._listening and (match := re.search(r"listens on (\S+) ", self.text())):
            self._listening = match[1]
        return self._listening

    @property
    def verify(self) -> ssl.SSLContext:
        """The TLS verification for clients of this server."""
        return self.trusts or PLAIN

    @property
    def http(self) -> httpx.Client:
        if self._client is None:
            self._client = httpx.Client(base_url=self.url, timeout=PATIENCE, verify=self.verify)
        return self._client

    def live(self) -> Self:
        """Wait until the server is ready; it may still read the history of ended jobs."""
        eventually(lambda: self.http.get("/readyz").status_code == 200, what=f"readiness of {self.log}")
        return self

    def ready(self) -> Self:
        """Wait until the server is ready and has read the history."""
        self.live()
        reading = "The history is being read"
        eventually(lambda: reading not in self.http.get("/readyz?verbose").text, what=f"history of {self.log}")
        return self

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        super().close()

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        """Number of open files and connections."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def seconds(self, answer: httpx.Response) -> float:
        """Return the duration of a response by the server's log, which excludes delays of a busy machine on the way."""
        line = rf"seconds=(\S+) .*request_id={answer.headers['X-Request-Id']}$"
        return float(eventually(lambda: re.search(line, self.text(), re.MULTILINE), what="a line in the log")[1])

    def submit(self, command: str | list[str], **parameters: Any) -> int:
        """Submit a job and return its ID."""
        answer = self.http.post("/v1/jobs/submit", json={"command": command, **parameters})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["id"])

    def job(self, job: int | str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def state(self, job: int | str, state: str, within: float = PATIENCE) -> dict[str, Any]:
        """Wait until a job is in a state, and return it."""

        def reached() -> dict[str, Any] | None:
            found = self.job(job)
            return found if found["state"] == state else None

        return eventually(reached, within=within, what=f"state {state} of job {job}")

    def ended(self, job: int | str, within: float = PATIENCE) -> dict[str, Any]:
        return self.state(job, "INACTIVE", within)

    def run(self, command: str | list[str], *, within: float = 30.0, **parameters: Any) -> dict[str, Any]:
        """Submit a job, wait for its end, and return it."""
        return self.ended(self.submit(command, **parameters), within)

    def output(self, job: int | str, **query: str) -> list[str]:
        return list(self.http.get(f"/v1/jobs/{job}/output", params=query).json()["Output"])

    def position(self) -> str:
        """Return the position of the last published event; more may be on their way to the store."""
        return str(self.http.get("/v1/jobs", params={"limit": 0}).json()["position"])

    def stop(self, **parameters: Any) -> httpx.Response:
        return self.http.post("/v1/service/stop", json=parameters)


def embedded(directory: Path, *options: str, **variables: str) -> Server:
    """Start a server with the embedded engine."""
    return Server([SIDECAR, "serve", "--embedded", "--port", "0", *options], directory, **variables)


def flux_start(directory: Path, *options: str, broker: Sequence[str] = (), **variables: str) -> Server:
    """Start a Flux instance whose initial program is a server."""
    argv = ["flux", "start", *broker, SIDECAR, "serve", "--port", "0", *options]
    return Server(argv, directory, **variables)


class Broker(Process):
    """A single broker, on a socket that is known before it starts; without initial program unless one is given."""

    def __init__(self, directory: Path, *options: str, program: Sequence[str] = (), cores: int = 0) -> None:
        self.uri = f"local://{directory}/local"
        if cores:
            options = (*options, f"-c{_resources(directory, cores)}")
        rc2 = () if program else ("-Sbroker.rc2_none",)
        super().__init__(["flux", "broker", f"-Slocal-uri={self.uri}", *rc2, *options, *program], directory)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a flux command in this instance."""
        environment = {**os.environ, "FLUX_URI": self.uri}
        return subprocess.run(["flux", *command], env=environment, text=True, capture_output=True, timeout=PATIENCE)

    def running(self) -> Broker:
        def answers() -> bool:
            return self.run("getattr", "rank").returncode == 0 and self.run("uptime").returncode == 0

        eventually(answers, what=f"broker at {self.uri}")
        return self


def cores(directory: Path, number: int) -> list[str]:
    """Return options of `flux start` for an instance with a number of cores, however many this machine has."""
    return [f"--config-path={_resources(directory, number)}"]


def _resources(directory: Path, number: int) -> Path:
    path = directory / "config"
    path.mkdir(parents=True, exist_ok=True)
    host = os.uname().nodename
    (path / "resource.toml").write_text(
        f'[resource]\nnoverify = true\n[[resource.config]]\nhosts = "{host}"\ncores = "0-{number - 1}"\n'
    )
    return path


def beside(broker: Broker, directory: Path, *options: str, **variables: str) -> Server:
    """Start a server beside a running broker."""
    return Server([SIDECAR, "serve", "--port", "0", "--uri", broker.uri, *options], directory, **variables)
