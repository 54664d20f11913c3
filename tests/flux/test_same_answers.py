"""Every shape of job in Flux's own tests, submitted by Flux's own commands: the API and Flux agree on each.

All jobs are in one instance of four brokers, so that the comparison needs one start. Differences are collected, so that
one run shows all; docs/api.md lists the permanent ones, with their reasons.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from docs.differences import DIFFERENCES
from sidecar.domain import fluid
from tests.flux.lives import plain
from tests.flux.shapes import (
    ALIVE,
    CANONICAL,
    CHECKED,
    DONE,
    ENDING,
    LASTING,
    MAY_BE_REFUSED,
    ODD,
    QUEUES,
    REFUSED,
    canonical,
)  # fmt: skip
from tests.support.harness import PATIENCE, eventually, flux_start
from tests.support.sse import connect

_HERE = Path(__file__).parent
_STATES = {1: "NEW", 2: "DEPEND", 4: "PRIORITY", 8: "SCHED", 16: "RUN", 32: "CLEANUP", 64: "INACTIVE"}
_RESULTS = {1: "COMPLETED", 2: "FAILED", 4: "CANCELED", 8: "TIMEOUT"}
_CONFIG = """
[resource]
noverify = true
[[resource.config]]
hosts = "node[0-3]"
cores = "0-15"
gpus = "0-3"
"""
#: Attributes of job-list, all of which the API shows under the same names.
_ATTRIBUTES = (
    "id", "userid", "urgency", "priority", "t_submit", "t_depend", "t_priority", "t_sched", "t_run", "t_cleanup",
    "t_inactive", "state", "name", "cwd", "queue", "project", "bank", "ntasks", "ncores", "duration", "nnodes", "ranks",
    "nodelist", "expiration", "waitstatus", "success", "exception_occurred", "exception_severity", "exception_type",
    "exception_note", "result", "annotations", "dependencies",
)  # fmt: skip
#: The same attributes as `flux jobs --json` shows them.
_COMPUTED = ("username", "returncode", "runtime", "exception")
_INACTIVE = 64
_LIMITS = """
[policy.limits]
duration = "1m"
"""
_QUEUES = """
[queues.batch.policy.limits]
duration = "1m"
job-size.max.nnodes = 2
[queues.debug.policy.jobspec.defaults.system]
duration = "30s"
[policy.jobspec.defaults.system]
queue = "batch"
"""


class Site:
    """The instance, its server, and the jobs by the names of their shapes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.uri = f"local://{directory}/local-0"
        (directory / "instance.toml").write_text(_CONFIG)
        (directory / "input").write_text("text of a file\n")
        broker = ["--test-size=4", "--test-hosts=node[0-3]", f"--test-rundir={directory}", f"--config-path={directory}"]
        self.server = flux_start(directory, "--rate-limit", "0", broker=broker)
        self.jobs: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self._commands: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "FLUX_URI": self.uri, "FLUX_URI_RESOLVE_LOCAL": "t"}

    def flux(self, *words: str) -> tuple[str, str]:
        """Run a command of Flux, and return its standard output and standard error."""
        if self._commands is None:
            argv = ["flux", "python", "-P", str(_HERE / "commands.py")]
            self._commands = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment, cwd=self.directory
            )
        assert self._commands.stdin
        assert self._commands.stdout
        print(json.dumps(words), file=self._commands.stdin, flush=True)
        out, err = json.loads(self._commands.stdout.readline())
        return out, err

    def submit(self, name: str, command: str) -> None:
        out, err = self.flux(*shlex.split(command.format(**self.names)))
        self._record(name, out, err)

    def submit_spec(self, name: str, spec: str) -> None:
        path = self.directory / "jobspec.json"
        path.write_text(spec)
        self._record(name, *self.flux("job", "submit", "--flags=novalidate", str(path)))

    def _record(self, name: str, out: str, err: str) -> None:
        ids = [self.number(line) for line in out.split() if line.startswith("ƒ")]
        for index, job in enumerate(ids):
            self.jobs[f"{name} {index + 1}" if index else name] = job
        if not ids:
            self.refused[name] = err

    @staticmethod
    def number(f58: str) -> int:
        return fluid.parse(f58)

    @property
    def names(self) -> dict[str, str]:
        return {"dir": str(self.directory), **{name: str(job) for name, job in self.jobs.items()}}

    def do(self, command: str) -> None:
        _, err = self.flux(*shlex.split(command.format(**self.names)))
        assert not err or "flux-cancel" in err, (command, err)

    def ended(self, job: int) -> None:
        """Wait for the end of a job that the server may not know yet."""
        what: dict[str, str | int] = {"state": "inactive", "limit": 1}

        def newest() -> Any:
            return self.server.http.get("/v1/jobs", params=what).json()["jobs"][0]["id"]

        eventually(lambda: newest() == job, what=f"the end of job {job}")

    def reference(self) -> dict[int, dict[str, Any]]:
        """Return Flux's data of every job."""
        argv = ["flux", "python", "-P", str(_HERE / "reference.py"), self.uri]
        done = subprocess.run(argv, text=True, capture_output=True, timeout=PATIENCE, env=self.environment)
        assert done.returncode == 0, done.stderr
        return {int(job): found for job, found in json.loads(done.stdout).items()}

    def close(self) -> None:
        if self._commands is not None:
            self._commands.kill()
            self._commands.communicate()
        self.server.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("same"))
    try:
        made.server.ready()
        yield made
    finally:
        made.close()


@pytest.mark.long
def test_api_agrees_with_flux(site: Site) -> None:
    """Collect all differences, by aspect, shape and member: first while some jobs are active, then of all jobs."""
    _submit_all(site)
    alive = {site.jobs[name] for name in ALIVE}
    eventually(lambda: _active(site) == alive, what="the end of all other jobs")
    found = _differences(site, site.reference(), list(site.jobs))
    assert not found, json.dumps(found, indent=1, default=str)
    _end(site)
    reference = site.reference()
    assert {job["job-list"]["state"] for job in reference.values()} == {_INACTIVE}
    found = _differences(site, reference, ALIVE)
    assert not found, json.dumps(found, indent=1, default=str)
    _check_invalid(site)
    _check_queues(site)
    _check_dry_runs(site)
    _check_purged(site)


def _submit_all(site: Site) -> None:
    for name, command in ENDING.items():
        site.submit(name, command)
    for name in CANONICAL:
        site.submit_spec(name, canonical(name))
    for name, spec in ODD.items():
        site.submit_spec(name, spec)
    for name, command in LASTING.items():
        site.submit(name, command)
    refused = set(site.refused) - MAY_BE_REFUSED
    assert refused == REFUSED, {name: site.refused[name] for name in refused ^ REFUSED}
    for name in ("running", "cancelled while running", "signalled", "signalled with 9"):
        site.do(f"job wait-event -t 60 {{{name}}} start")
    eventually(lambda: len(site.server.output(site.jobs["running"])) == 2, what="the output of a running job")
    for command in DONE:
        site.do(command)


def _end(site: Site) -> None:
    for name in ALIVE:
        site.do(f"cancel {{{name}}}")
    eventually(lambda: not _active(site), what="the end of all jobs")


def _active(site: Site) -> set[int]:
    return {job["id"] for job in site.server.http.get("/v1/jobs?state=active").json()["jobs"]}


def _differences(site: Site, reference: dict[int, dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    http = site.server.http
    listed = http.get("/v1/jobs", params={"details": "true"}).json()
    if differing := _lists(site, listed):
        return {"lists": differing}
    assert listed.keys() == {str(job) for job in reference}
    found: dict[str, Any] = defaultdict(dict)
    streamed: dict[int, list[Any]] = defaultdict(list)
    position = site.server.position()
    with connect(site.server.url, "/v1/events?after=0") as stream:
        for message in stream:
            streamed[message.data["id"]].append(plain(message.data))
            if message.id == position:
                break
    for name in names:
        job = site.jobs[name]
        ours, theirs = listed[str(job)], reference[job]
        aspects: dict[str, Any] = {
            "fields": _fields(name, ours, theirs),
            "events": _events(site, name, job, theirs, streamed[job]),
            "jobspec": _jobspec(site, job, theirs),
            "output": _output(site, ours, theirs),
        }
        for aspect, differing in aspects.items():
            if differing:
                found[aspect][name] = differing
    return found


def _lists(site: Site, listed: dict[str, Any]) -> list[Any]:
    """Every list and table agrees on a job, except for the current runtime of a running one."""
    http = site.server.http
    exported = http.get("/v1/jobs", headers={"Accept": "application/x-ndjson"}).text.splitlines()
    lists = {
        "listing": http.get("/v1/jobs", params={"details": "true", "listing": "true"}).json(),
        "export": [json.loads(line) for line in exported],
        "search": http.get("/v1/jobs/search").json()["data"],
        "single": [site.server.job(job) for job in listed],
    }
    wanted = {job: _still(each) for job, each in listed.items()}
    return [name for name, jobs in lists.items() if {str(job["id"]): _still(job) for job in jobs} != wanted]


def _still(job: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if name != "runtime" or job["state"] != "RUN"}


def _fields(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    known, shown = theirs["job-list"], theirs["jobs"]
    known = {**known, "state": _STATES[known["state"]]}
    if "result" in known:
        known["result"] = _RESULTS[known["result"]]
    wanted = {each: known.get(each, "") for each in _ATTRIBUTES} | {each: shown[each] for each in _COMPUTED}
    got = {each: ours.get(each, "") for each in wanted}
    if ours["state"] == "RUN":
        assert 0 < shown["runtime"] <= got["runtime"] < shown["runtime"] + PATIENCE or got["runtime"] > 0
        got["runtime"] = shown["runtime"]
    got["runtime"] = pytest.approx(got["runtime"], abs=1e-5)
    if name in ODD:
        wanted = {each: value for each, value in wanted.items() if value != ""}
    return {each: (value, got[each]) for each, value in wanted.items() if value != got[each]}


def _events(site: Site, name: str, job: int, theirs: dict[str, Any], streamed: list[Any]) -> list[Any]:
    log = [{"context": {}, **json.loads(line)} for line in theirs["eventlog"].splitlines()]
    shown = [plain(event) for event in site.server.http.get(f"/v1/jobs/{job}/eventlog").json()["events"]]
    assert shown == streamed, "the stream of events, and the eventlog"
    volatile = [each for each in shown if each not in log]
    assert all(each["name"] == "memo" and "volatile" in each["context"] for each in volatile)
    assert bool(volatile) == (name == "with memos"), DIFFERENCES["volatile"]
    shown = [each for each in shown if each not in volatile]
    return [] if shown == log else [log, shown]


def _jobspec(site: Site, job: int, theirs: dict[str, Any]) -> list[Any]:
    shown = site.server.http.get(f"/v1/jobs/{job}/jobspec").json()
    with_environment = site.server.http.get(f"/v1/jobs/{job}/jobspec", params={"environment": "true"}).json()
    known = json.loads(theirs["jobspec"])
    system = with_environment["attributes"].get("system", {})
    environment = {"environment": system.pop("environment")} if "environment" in system else {}
    assert environment or "environment" not in json.loads(theirs["J"])["attributes"].get("system", {})
    return [] if known == shown == with_environment else [known, shown]


def _output(site: Site, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Compare each form of the output with Flux's rendering of the log, and with the log itself."""
    http, path = site.server.http, f"/v1/jobs/{ours['id']}/output"
    log = [json.loads(line) for line in (theirs["guest.output"] or "").splitlines()]
    entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in log:
        entries[entry["name"]].append(entry["context"])
    written = dict(zip(("stdout", "stderr", "log"), theirs["written"] or ("", "", ""), strict=True))
    data = [each for each in entries["data"] if "data" in each]
    body, texts = http.get(path).json(), {}
    for stream in ("stdout", "stderr", "both", "log"):
        answer = http.get(path, params={"stream": stream}, headers={"Accept": "text/plain"})
        texts[stream] = answer.content.decode(errors="surrogateescape")
    with connect(site.server.url, f"{path}/stream?follow=false") as messages:
        events = [(message.event, message.data) for message in messages][:-1]
    said = [line for line in texts["log"].splitlines() if " redirected" not in line]
    one = (
        len({each["rank"] for each in data}) < 2
    )  # lines of several tasks are merged, those of one task stay as they are
    pairs = {
        "stdout": (written["stdout"], texts["stdout"])
        if one
        else tuple(map(sorted, (written["stdout"], texts["stdout"]))),
        "stderr": (written["stderr"], texts["stderr"])
        if one
        else tuple(map(sorted, (written["stderr"], texts["stderr"]))),
        "both": (texts["both"].encode(errors="surrogateescape").decode(errors="replace"), "".join(body["Output"])),
        "Message": (not body["Output"], "Message" in body),
        "Log": (list(map(_exit, entries["log"])), list(map(_exit, body.get("Log", [])))),
        "Redirected": (entries["redirect"], body.get("Redirected", [])),
        "log": (written["log"].replace("\n", ""), "".join(said)),
        "events log": (list(map(_exit, entries["log"])), [_exit(each) for kind, each in events if kind == "log"]),
        "events redirect": (entries["redirect"], [each for kind, each in events if kind == "redirect"]),
        "tasks": (_by_task(map(_decoded, data)), _by_task(each for kind, each in events if kind == "message")),
    }
    return {aspect: pair for aspect, pair in pairs.items() if pair[0] != pair[1]}


def _by_task(contexts: Iterable[dict[str, Any]]) -> dict[Any, str]:
    found: dict[Any, str] = defaultdict(str)
    for each in contexts:
        if each["data"]:
            found[each["stream"], each["rank"]] += each["data"]
    return found


def _exit(context: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(str(context.get(each, "")).rstrip("\n") for each in ("level", "message", "rank", "component", "file"))


def _decoded(context: dict[str, Any]) -> dict[str, Any]:
    if context.get("encoding") != "base64":
        return context
    return {**context, "data": base64.b64decode(context["data"]).decode(errors="replace")}


def _check_invalid(site: Site) -> None:
    """A submit that a limit refuses creates no job, neither in Flux nor in the API."""
    before, position = site.server.http.get("/metrics").text, site.server.position()
    (site.directory / "instance.toml").write_text(_CONFIG + _LIMITS)
    site.do("config reload")
    out, err = site.flux("submit", "-t", "1h", "true")
    assert (out, "exceeds policy limit" in err) == ("", True)
    out, _ = site.flux("submit", "-t", "1s", "true")
    job = site.number(out.strip())
    site.ended(job)
    with connect(site.server.url, f"/v1/events?after={position}") as stream:
        streamed = []
        for message in stream:
            streamed.append(message.data["id"])
            if message.data.get("result"):
                break
    assert set(streamed) == {job}
    assert _exceptions(before) == _exceptions(site.server.http.get("/metrics").text)


def _exceptions(metrics: str) -> list[str]:
    return [line for line in metrics.splitlines() if line.startswith("flux_job_exceptions_total")]


def _check_queues(site: Site) -> None:
    """The instance gets named queues while it runs: jobs are in them, are moved, and are found by them."""
    site.jobs.clear()
    (site.directory / "instance.toml").write_text(_CONFIG + _QUEUES)
    site.do("config reload")
    site.do("queue start --all --quiet")
    for name, command in QUEUES.items():
        site.submit(name, command)
    site.do("update {moved} queue=debug")
    eventually(lambda: _active(site) == {site.jobs["moved"]}, what="the end of jobs in queues")
    reference = site.reference()
    listed = site.server.http.get("/v1/jobs", params={"details": "true"}).json()
    for name, job in site.jobs.items():
        assert _fields(name, listed[str(job)], reference[job]) == {}, name
    queues = {
        queue: {job for job in reference if reference[job]["jobs"]["queue"] == queue} for queue in ("batch", "debug")
    }
    for queue, jobs in queues.items():
        found = site.server.http.get("/v1/jobs", params={"queue": queue}).json()["jobs"]
        assert {job["id"] for job in found} == jobs != set(), queue


def _check_dry_runs(site: Site) -> None:
    """A dry run agrees with a submit, also on limits: which jobs are accepted, and which parameter is invalid."""
    wrong = {}
    for more, parameter in CHECKED:
        body = {"command": "true", "runtime": 10, **more}
        checked = site.server.http.post("/v1/jobs/submit", json={**body, "dry_run": True})
        submitted = site.server.http.post("/v1/jobs/submit", json=body)
        named = parameter in checked.json()["Errors"][0] if parameter else "accepted" in checked.json()["Message"]
        if not named or (checked.status_code, submitted.status_code) != ((400, 400) if parameter else (200, 200)):
            wrong[str(more)] = checked.text, submitted.text
    assert wrong == {}


def _check_purged(site: Site) -> None:
    """A purged job stays in the history, and its output reports the purge, wherever it is read."""
    (job,) = (site.number(out.strip()) for out, _ in [site.flux("submit", "-q", "debug", "echo", "purged")])
    site.ended(job)
    assert site.server.output(job) == ["purged\n"]
    site.do(f"job purge --force {job}")
    assert job not in site.reference()
    assert site.server.job(job)["state"] == "INACTIVE", DIFFERENCES["purged"]
    for path, types in (
        (f"/v1/jobs/{job}/output", ("application/json", "text/plain")),
        (f"/v1/jobs/{job}/output/stream", ("text/event-stream", "text/plain")),
        (f"/jobs/{job}/output", ("application/json", "text/plain", "*/*")),
    ):
        for accept in types:
            answer = site.server.http.get(path, headers={"Accept": accept})
            assert (answer.status_code, "purged" in answer.json()["detail"]) == (410, True), (path, answer.text)
    answer = site.server.http.get(f"/v1/jobs/{job}/jobspec", params={"environment": True})
    assert (answer.status_code, "purged" in answer.json()["detail"]) == (410, True), answer.text
    assert site.server.http.get(f"/v1/jobs/{job}/jobspec").status_code == 200
