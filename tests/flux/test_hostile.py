"""A real broker with arbitrary requests of its users: other jobs are not affected, and a stop succeeds."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.flux.test_readers import MIB, peak
from tests.support import hostile
from tests.support.harness import SIDECAR, Broker, Server, beside, eventually
from tests.support.sse import ask

Start = Callable[[Any], Any]

_PROGRAM = str(Path(__file__).with_name("odd.py"))
_SIMPLE = {
    "version": 1,
    "resources": [{"type": "slot", "count": 1, "label": "task", "with": [{"type": "core", "count": 1}]}],
    "tasks": [{"command": ["true"], "slot": "task", "count": {"per_slot": 1}}],
    "attributes": {"system": {"duration": 0}},
}


def configured(directory: Path, text: str) -> None:
    (directory / "config").mkdir(exist_ok=True)
    (directory / "config" / "odd.toml").write_text(text)


def send_requests(broker: Broker, commands: Iterable[tuple[str, Any]]) -> list[Any]:
    """Send requests to a broker as any of its users can; return its responses."""
    lines = "\n".join(json.dumps([topic, hostile.text(payload).decode()]) for topic, payload in commands)
    done = subprocess.run(
        [sys.executable, "-P", _PROGRAM, broker.uri],
        input=lines,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def submitted(broker: Broker, specs: Iterable[Any]) -> list[int]:
    """Submit held jobs; return the IDs of those that Flux has accepted."""
    answers = send_requests(broker, (("submit", spec) for spec in specs))
    return [answer for answer in answers if isinstance(answer, int)]


def _deep(spec: Any) -> bool:
    """Return whether Flux's own scheduler, a Python program, would crash by it, and the broker too."""
    return any(each in json.dumps(spec) for each in ("@deep500@", "@deep1990@"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", ["now", "drain"])
def test_three_hundred_malformed_jobs(tmp_path: Path, started: Start, mode: str) -> None:
    configured(tmp_path, "[ingest.validator]\ndisable = true\n")
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path, "--log-format", "json", "--store", str(tmp_path / "kept.sqlite"))).ready()
    good = [server.submit("true") for _ in range(10)]
    odd: list[int] = []
    held: list[int] = []
    while len(odd) < 300:
        specs = hostile.examples(hostile.ACCEPTABLE, 300)
        held += submitted(broker, filter(_deep, specs))
        released = submitted(broker, (spec for spec in specs if not _deep(spec)))
        odd += released
    odd += held
    events = [
        ("job-manager.memo", {"id": job, "memo": memo})
        for job, memo in zip(odd, hostile.examples(hostile.MEMOS, 300), strict=False)
    ]
    kinds = hostile.examples(hostile.TEXTS, 100)
    events += [
        ("job-manager.raise", {"id": job, "severity": 1 + job % 7, "type": kind, "note": kind * 3})
        for job, kind in zip(odd, kinds, strict=False)
    ]
    events += [
        ("job-manager.update", {"id": job, "updates": {"attributes.system.duration": 1e300}}) for job in odd[:50]
    ]
    events += [("job-manager.urgency", {"id": job, "urgency": 16}) for job in odd if job not in held]
    assert sum("error" not in (answer or {}) for answer in send_requests(broker, events)) > 300
    good += [server.submit("true") for _ in range(10)]
    for job in good:
        assert server.ended(job)["result"] == "COMPLETED"
    _all_are_listed(server, good, odd)
    _logged_once(server)
    assert server.stop(mode=mode, **({"timeout": 15} if mode == "drain" else {})).status_code == 202
    assert server.wait(90) == 0
    assert broker.wait(90) == 0


def _all_are_listed(server: Server, good: list[int], odd: list[int]) -> None:
    def listed() -> bool:
        jobs = server.http.get("/v1/jobs").json()["jobs"]  # with details, a page is limited in size
        return {*good, *odd} <= {job["id"] for job in jobs}

    eventually(listed, what="all jobs in the list")
    for job in odd[:100]:
        for path in ("", "/eventlog", "/jobspec"):
            assert server.http.get(f"/v1/jobs/{job}{path}").status_code == 200
        assert server.http.get(f"/jobs/{job}").status_code == 200
    for path in ("/", "/jobs", "/nodes", "/metrics", "/v1/jobs/search?length=50", "/v1/queues", "/livez", "/readyz"):
        assert server.http.get(path).status_code == 200


def _logged_once(server: Server) -> None:
    lines = [json.loads(line) for line in server.text().splitlines() if line.startswith("{")]
    faults = Counter((line["job"], line["part"]) for line in lines if "part" in line)
    assert faults
    assert max(faults.values()) == 1
    assert not [line for line in lines if "exception" in line]


def test_reported_jobs(tmp_path: Path, started: Start) -> None:
    """Each is listed with its result and empty malformed members, also after a restart of the server."""
    configured(tmp_path, "[ingest.validator]\ndisable = true\n")
    broker = started(Broker(tmp_path, cores=4)).running()
    options = ("--store", str(tmp_path / "kept.sqlite"))
    server = started(beside(broker, tmp_path, *options)).ready()
    many = [
        {
            "type": "node",
            "count": 2**62,
            "with": [{"type": "slot", "count": 4, "label": "task", "with": [{"type": "core", "count": 1}]}],
        }
    ]
    system = {
        "duration": 0,
        "project": 5,
        "bank": [1],
        "cwd": 7,
        "job": {"name": {"a": 1}},
        "shell": {"options": {"per-resource": {"type": "core", "count": [1, 2]}}},
    }
    odd = submitted(broker, [{**_SIMPLE, "resources": many}, {**_SIMPLE, "attributes": {"system": system}}])
    assert len(odd) == 2
    send_requests(broker, [("job-manager.urgency", {"id": job, "urgency": 16}) for job in odd])
    by_flux = broker.run("submit", "--setattr=system.project=5", "true")
    assert by_flux.returncode == 0, by_flux.stderr
    _are_correct(server, odd)
    server.signal(signal.SIGKILL)
    server.wait()
    _are_correct(started(beside(broker, tmp_path, *options)).ready(), odd)


def _are_correct(server: Server, odd: list[int]) -> None:
    first, second = (server.ended(job) for job in odd)
    assert (first["nnodes"], first["ntasks"], first["ncores"], first["result"]) == ("", "", "", "FAILED")
    assert (second["name"], second["cwd"], "project" in second, second["ntasks"]) == ("true", "", False, "")
    for path in ("/", "/jobs", *(f"/jobs/{job}" for job in odd)):
        assert server.http.get(path).status_code == 200


def test_large_events_of_one_job(tmp_path: Path, started: Start) -> None:
    """A hundred megabytes of memos use little memory of readers, and of a server that reads them in the history."""
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path / "first")).ready()
    [job] = submitted(broker, [_SIMPLE])
    memo = {"id": job, "volatile": False, "memo": {"few": "kept", "k": "m" * 900_000}}
    assert send_requests(broker, [("job-manager.memo", memo)] * 100) == [None] * 100
    log = f"/v1/jobs/{job}/eventlog"
    memos = eventually(lambda: len(found := _memos(server, log)) == 100 and found, what="all memos")
    for each in memos:
        assert each["context"]["few"] == "kept"
        assert each["context"]["k"].endswith("m…")
        assert len(json.dumps(each["context"], ensure_ascii=False).encode()) <= 16 * 1024
    assert "annotations" not in server.job(job), "too many of them are none"
    _unread(server, log)
    server.close()
    server = started(beside(broker, tmp_path / "second", "--store", str(tmp_path / "s.sqlite"))).ready()
    assert peak(server) < 450 * MIB, "the response itself, twice"
    assert len(_memos(server, log)) == 100
    _unread(server, log)


def _memos(server: Server, log: str) -> list[Any]:
    return [event for event in server.http.get(log).json()["events"] if event["name"] == "memo"]


def _unread(server: Server, log: str) -> None:
    """Twenty readers that read nothing use little memory and delay no other request."""
    for path in ("/v1/events?after=0", log):
        before = server.memory
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(ask(server.url, path, buffer=4096))
            took = [server.seconds(server.http.get("/v1/whoami")) for _ in range(20)]
            assert server.memory - before < 60 * MIB
        assert max(took) < 1


def test_an_environment_that_is_not_utf8(tmp_path: Path, started: Start) -> None:
    """The environment belongs to the jobs, and a jobspec cannot contain all of it: jobs get the rest."""
    script = f"export ODD=$(printf 'a\\377b') KEPT=kept; {SIDECAR} serve --port 0; exit $?"
    server = started(Server(["flux", "start", "sh", "-c", script], tmp_path)).ready()
    job = server.run(["sh", "-c", 'echo "$KEPT,$ODD"'])
    assert server.output(job["id"]) == ["kept,\n"]
    assert server.text().count("variables that are not UTF-8") == 1
    assert "'ODD'" in server.text()
    assert server.stop().status_code == 202
    assert server.wait(60) == 0


def test_variables_that_no_shell_can_set(tmp_path: Path, started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported functions and names with dots are passed from the broker to jobs submitted by a server beside it."""
    odd = {"BASH_FUNC_module%%": "() { echo loaded\n}", "my.setting": "1", "a-b": "2", "a b": "3", "1st": "ä\n4"}
    for name, value in odd.items():
        monkeypatch.setenv(name, value)
    broker = started(Broker(tmp_path, cores=2)).running()
    server = started(beside(broker, tmp_path)).ready()
    job = server.run(["env", "-0"], name="env")
    wanted = {f"{name}={value}" for name, value in odd.items()}
    written = server.http.get(f"/v1/jobs/{job['id']}/output", headers={"Accept": "text/plain"}).text
    assert wanted <= set(written.split("\0"))
    assert job["cwd"] == str(tmp_path)
    spec = server.http.get(f"/v1/jobs/{job['id']}/jobspec", params={"environment": "true"}).json()
    assert odd.items() <= spec["attributes"]["system"]["environment"].items()


@pytest.mark.parametrize(
    "odd",
    [
        None,
        5,
        [],
        {},
        {"execution": 5},
        {
            "execution": {
                "R_lite": [5, {"rank": [1]}, {"rank": "0-4294967295", "children": 7}],
                "nodelist": [5, "n[0-4294967295]"],
            }
        },
    ],
)
def test_invalid_resources(odd: Any) -> None:
    """Only the invalid part of the scheduler's response is omitted."""
    from sidecar.instance.flux import nodes  # needs Flux

    good = {"execution": {"R_lite": [{"rank": "0-1", "children": {"core": "0-3", "gpu": "0"}}], "nodelist": ["n[0-1]"]}}
    assert (
        nodes.decode({"all": odd, "allocated": odd}, {"offline": odd, "drain": odd, "R": odd} if odd else {}).nodes
        == []
    )
    found = nodes.decode(
        {"all": good, "allocated": odd},
        {"offline": "0-4294967294", "drain": {"x": {"reason": "r"}, "1": odd}, "exclude": odd, "R": odd},
    )
    assert [(node.name, node.cores, node.gpus, node.state) for node in found.nodes] == [
        ("n0", 4, 1, "down"),
        ("n1", 4, 1, "down"),
    ]


def test_any_queue_name(tmp_path: Path, started: Start) -> None:
    """Names of queues appear in the configuration, pages, labels of metrics, URLs and logs."""
    names = ['a "b" {c}', "x\\y", "<script>alert(1)</script>", "ü\u202e", "a/b?c#d%20", "n" * 300, "a, b"]
    toml = "".join(f"[queues.{json.dumps(name, ensure_ascii=False)}]\n" for name in names)
    configured(tmp_path, toml)
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path)).ready()
    known = [queue["name"] for queue in server.http.get("/v1/queues").json()["queues"]]
    assert sorted(known) == sorted(names)
    assert broker.run("queue", "start", "--all", "--quiet").returncode == 0  # Flux creates named queues stopped
    for name in names:
        job = server.run("true", queue=name)
        assert job["queue"] == name
        assert server.http.get("/v1/jobs", params={"queue": name, "details": "true"}).json().keys() == {str(job["id"])}
        assert server.http.get("/jobs", params={"queue": name}).status_code == 200
    pages = server.http.get("/").text + server.http.get("/jobs").text
    assert "<script>alert" not in pages
    metrics = server.http.get("/metrics").text
    assert r'queue="a \"b\" {c}"' in metrics
    assert server.stop().status_code == 202
    assert server.wait(60) == 0
