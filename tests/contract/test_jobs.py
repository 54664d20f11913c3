"""Jobs: submit, list, read and cancel, with both engines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.domain import fluid
from sidecar.store.query import ORDERS
from tests.contract.test_errors import problem
from tests.support.fluids import words
from tests.support.harness import Server, eventually

PREDECESSOR_FIELDS = {
    "id", "userid", "urgency", "priority", "t_submit", "t_depend", "t_run", "t_cleanup", "t_inactive", "state", "name",
    "ntasks", "ncores", "duration", "nnodes", "ranks", "nodelist", "success", "exception_occurred", "result",
    "expiration", "annotations", "waitstatus", "returncode", "runtime", "exception",
}  # fmt: skip


def test_job_from_submit_to_result(server: Server) -> None:
    answer = server.http.post("/v1/jobs/submit", json={"command": "echo hello", "name": "greeting"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["Message"] == "Job submit."
    assert body["f58id"] == fluid.f58(body["id"])
    assert answer.headers["Location"] == f"../../v1/jobs/{body['f58id'].replace('ƒ', 'f')}"
    job = server.ended(body["id"])
    assert job.keys() >= PREDECESSOR_FIELDS | {"f58id", "queue", "command", "cwd", "username"}
    assert (job["result"], job["returncode"], job["waitstatus"], job["success"]) == ("COMPLETED", 0, 0, True)
    assert (job["name"], job["command"], job["ntasks"], job["nnodes"]) == ("greeting", ["echo", "hello"], 1, 1)
    assert job["exception"] == {"occurred": False, "severity": "", "type": "", "note": ""}
    assert job["t_submit"] <= job["t_run"] <= job["t_cleanup"] <= job["t_inactive"] <= time.time()
    assert job["runtime"] == pytest.approx(job["t_cleanup"] - job["t_run"])
    assert server.output(body["id"]) == ["hello\n"]


@pytest.mark.parametrize("how", ["json", "data", "params"])
def test_same_parameters_in_json_form_and_query(server: Server, how: str) -> None:
    sent: dict[str, Any] = {how: {"command": "printenv FLUX_TASK_RANK", "num_tasks": 2}}
    answer = server.http.post("/v1/jobs/submit", **sent)
    assert answer.status_code == 200, answer.text
    job = server.ended(answer.json()["id"])
    assert job["ntasks"] == 2
    assert sorted(server.output(job["id"])) == ["0\n", "1\n"]


def test_json_with_the_content_type_of_a_form(server: Server) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = server.http.post("/v1/jobs/submit", content='{"command": ["true"]}', headers=headers)
    assert answer.status_code == 200


def test_multipart_form(server: Server) -> None:
    answer = server.http.post("/v1/jobs/submit", files={"command": (None, "true"), "num_nodes": (None, "")})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("envars", ['{"GREETING": "hi ƒ"}', "{'GREETING': 'hi ƒ'}"])
def test_envars_in_a_query(server: Server, envars: str) -> None:
    answer = server.http.post("/v1/jobs/submit", params={"command": "printenv GREETING", "envars": envars})
    job = server.ended(answer.json()["id"])
    assert server.output(job["id"]) == ["hi ƒ\n"]


def test_workdir_stdin_and_exit_code(server: Server) -> None:
    job = server.run(["sh", "-c", "pwd; cat; exit 3"], workdir="/usr", stdin="one\ntwo\n")
    assert (job["result"], job["returncode"], job["waitstatus"]) == ("FAILED", 3, 3 << 8)
    assert job["command"] == ["sh", "-c", "pwd; cat; exit 3"]
    assert (job["cwd"], job["name"]) == ("/usr", "sh")
    assert server.output(job["id"]) == ["/usr\n", "one\n", "two\n"]


def test_without_stdin_a_job_reads_end_of_file(server: Server) -> None:
    assert server.run("cat")["result"] == "COMPLETED"


def test_jobs_do_not_inherit_the_servers_settings(own_server: Callable[..., Server]) -> None:
    server = own_server(FLUX_TOKEN="secret", FLUX_SIDECAR_MAX_BODY="100000", KEPT="yes")
    server.http.auth = ("fluxuser", "secret")
    lines = server.output(server.run("env")["id"])
    names = {line.partition("=")[0] for line in lines}
    assert "KEPT" in names
    assert not any(name == "FLUX_TOKEN" or name.startswith("FLUX_SIDECAR_MAX") for name in names)


def test_command_that_does_not_exist(server: Server) -> None:
    job = server.run("no-such-program --flag")
    assert (job["result"], job["returncode"]) == ("FAILED", 127)
    assert (job["exception"]["type"], job["exception"]["severity"]) == ("exec", 0)
    assert "no-such-program: No such file or directory" in job["exception"]["note"]


def test_task_killed_by_a_signal(server: Server) -> None:
    job = server.run(["sh", "-c", "kill -9 $$"])
    assert (job["result"], job["returncode"]) == ("FAILED", 128 + 9)


def test_time_limit(server: Server) -> None:
    job = server.run("sleep 60", runtime=0.5)
    assert job["result"] == "TIMEOUT"
    assert job["exception"]["type"] == "timeout"
    assert job["duration"] == 0.5
    assert job["expiration"] > job["t_run"]
    assert job["returncode"] == 142


def test_runtime_of_a_running_job_grows(server: Server) -> None:
    job = server.submit("sleep 60")
    first = server.state(job, "RUN")["runtime"]
    eventually(lambda: server.job(job)["runtime"] > first)
    assert server.http.post(f"/v1/jobs/{job}/cancel").status_code == 200


def test_cancel(server: Server) -> None:
    job = server.submit(["sh", "-c", "echo up; sleep 60"])
    eventually(lambda: server.output(job) == ["up\n"])  # in RUN the shell may not have started its task yet
    answer = server.http.post(f"/v1/jobs/{job}/cancel", json={"reason": "not needed"})
    assert answer.status_code == 200
    assert answer.json()["Message"] == "Job is requested to cancel."
    assert answer.json()["id"] == job
    ended = server.ended(job)
    assert (ended["result"], ended["returncode"]) == ("CANCELED", 143)
    assert (ended["exception"]["type"], ended["exception"]["note"]) == ("cancel", "not needed")
    again = server.http.post(f"/v1/jobs/{job}/cancel")
    assert again.status_code == 409
    assert "Job cannot be cancelled" in again.json()["Message"]


def test_cancel_of_a_held_job(server: Server) -> None:
    job = server.submit("true", urgency=0)
    held = server.job(job)
    assert held["urgency"] == 0
    assert held["state"] != "RUN"
    server.http.post(f"/v1/jobs/{job}/cancel")
    ended = server.ended(job)
    assert (ended["result"], ended["returncode"]) == ("CANCELED", -128)
    assert "t_run" not in ended


def test_order_by_urgency_and_age(own_server: Callable[..., Server]) -> None:
    server = own_server()
    cores = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"][0]["cores"]
    blocker = server.submit("sleep 60", cores_per_task=cores)
    server.state(blocker, "RUN")
    want = {"cores_per_task": cores}
    low, first, second, high = (server.submit("true", urgency=u, **want) for u in (8, 16, 16, 20))
    server.http.post(f"/v1/jobs/{blocker}/cancel")
    started = {job: server.ended(job)["t_run"] for job in (low, first, second, high)}
    assert sorted(started, key=started.__getitem__) == [high, first, second, low]


def test_all_job_id_encodings(server: Server) -> None:
    job = server.run("true")["id"]
    kvs = fluid.kvs(job)
    spellings = [str(job), fluid.f58(job), fluid.f58_ascii(job), hex(job), kvs, kvs[4:], words(job)]
    for spelling in spellings:
        assert server.job(spelling)["id"] == job, spelling


def test_option_flags_reach_the_job(server: Server) -> None:
    for flags in ({"verbose": 1, "cpu-affinity": "off"}, "verbose=1,cpu-affinity=off"):
        assert server.run("true", option_flags=flags)["result"] == "COMPLETED"


class TestLists:
    @pytest.fixture
    def five(self, server: Server) -> list[int]:
        """Five ended jobs with a name of their own, oldest first."""
        return [server.run("true" if i % 2 else "false", name="five")["id"] for i in range(5)]

    def test_forms_of_a_list(self, server: Server, five: list[int]) -> None:
        plain = server.http.get("/v1/jobs", params={"name": "five", "limit": 5}).json()["jobs"]
        assert [job["id"] for job in plain] == five[::-1]
        assert plain[0].keys() == {"id", "f58id", "state", "result", "name"}
        for details in ("details", "detail"):
            table = server.http.get("/v1/jobs", params={details: "true", "name": "five", "limit": 5}).json()
            assert list(table) == [str(job) for job in five[::-1]]
            assert table[str(five[0])] == server.job(five[0])
        array = server.http.get(
            "/v1/jobs", params={"details": True, "listing": True, "name": "five", "limit": 5}
        ).json()
        assert array == list(table.values())

    def test_limits(self, server: Server, five: list[int]) -> None:
        get = server.http.get
        assert get("/v1/jobs", params={"limit": 0}).json()["jobs"] == []
        assert get("/v1/jobs", params={"limit": 0, "details": True}).json() == {}
        assert get("/v1/jobs", params={"limit": 0, "details": True, "listing": True}).json() == []

    @pytest.mark.parametrize("shape", [{}, {"details": "true", "listing": "true"}])
    def test_pages_are_consecutive(self, server: Server, five: list[int], shape: dict[str, str]) -> None:
        seen: list[int] = []
        answer = server.http.get("/v1/jobs", params={"name": "five", "limit": 2, **shape})
        while True:
            page = answer.json()
            seen += [job["id"] for job in (page["jobs"] if isinstance(page, dict) else page)]
            if "next" not in answer.links:
                break
            answer = server.http.get(answer.url.join(answer.links["next"]["url"]))
        everything = server.http.get("/v1/jobs", params={"name": "five"}).json()["jobs"]
        assert seen == [job["id"] for job in everything]

    def test_filters(self, server: Server, five: list[int]) -> None:
        def ids(**query: Any) -> list[int]:
            answer = server.http.get("/v1/jobs", params={"name": "five", **query})
            assert answer.status_code == 200, answer.text
            return [job["id"] for job in answer.json()["jobs"]][:5]

        assert set(ids(result="failed")) >= set(five[0::2])
        assert not set(ids(result="failed")) & set(five[1::2])
        assert set(ids(state="inactive")) >= set(five)
        assert ids(state="active") == []
        assert set(five) <= set(ids(state="inactive,pending", result="COMPLETED,FAILED"))
        assert ids(name="sixth") == []
        user = server.job(five[0])
        assert set(ids(user=user["username"])) >= set(five)
        assert set(ids(user=user["userid"])) >= set(five)
        assert ids(user="somebody-else") == []
        assert ids(queue="none") == []
        middle = server.job(five[2])["t_submit"]
        assert ids(since=middle) == five[:1:-1]
        assert five[2] not in ids(until=middle)

    def test_submitted_job_is_in_the_next_list(self, server: Server) -> None:
        for _ in range(20):
            job = server.submit("true", name="at-once")
            assert server.http.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]["id"] == job
            assert server.http.get("/v1/jobs/search", params={"length": 1}).json()["data"][0]["id"] == job


class TestSearch:
    def test_counts_and_pages(self, server: Server) -> None:
        jobs = [server.run(["echo", "needle-ƒ-42"])["id"] for _ in range(4)]

        def search(**query: Any) -> dict[str, Any]:
            answer = server.http.get("/v1/jobs/search", params=query)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        everything = search()
        assert len(everything["data"]) == everything["recordsTotal"] == everything["recordsFiltered"]
        found = search(query="NEEDLE-ƒ-4", start=1, length=2, draw=7)
        assert [job["id"] for job in found["data"]] == jobs[-2:-4:-1] or found["recordsMatched"] > 4
        assert found["draw"] == 7
        assert found["recordsFiltered"] == 2
        assert found["recordsMatched"] >= 4
        assert search(query="needle-ƒ-4", start=1000)["recordsFiltered"] == 0
        assert search(query="needle-ƒ-4", length=-1)["recordsFiltered"] == found["recordsMatched"]
        for text in (str(jobs[0]), fluid.f58(jobs[0])):
            assert [job["id"] for job in search(query=text)["data"]] == [jobs[0]]
        assert search(query="no such text")["data"] == []

    @pytest.mark.parametrize("text", ['"', "%", "_", "a%", "'", "; DROP TABLE jobs", "NEAR(", "*", "a AND", "\\"])
    def test_any_text_can_be_searched(self, server: Server, text: str) -> None:
        server.submit(["echo", f"x{text}y"])
        answer = server.http.get("/v1/jobs/search", params={"query": text, "length": 1})
        assert answer.status_code == 200
        assert text in " ".join(answer.json()["data"][0]["command"])

    def test_search_by_state_and_result(self, server: Server) -> None:
        job = server.run("false")["id"]
        found = server.http.get("/v1/jobs/search", params={"query": "failed", "length": 100}).json()["data"]
        assert job in [each["id"] for each in found]

    def test_parameters_of_datatables(self, server: Server) -> None:
        for name in ("dt-b", "dt-c", "dt-a"):
            server.run("true", name=name)
        query = {
            "draw": "3", "start": "0", "length": "10", "search[value]": "dt-", "search[regex]": "false",
            "columns[0][data]": "id", "columns[1][data]": "name", "order[0][column]": "1", "order[0][dir]": "asc",
            "_": "1700000000",
        }  # fmt: skip
        answer = server.http.get("/v1/jobs/search", params=query).json()
        assert [job["name"] for job in answer["data"]] == sorted(job["name"] for job in answer["data"])
        assert answer["draw"] == 3


def test_nodes(server: Server) -> None:
    names = server.http.get("/v1/nodes").json()["nodes"]
    assert len(names) == 1
    (node,) = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"]
    assert node["name"] == names[0]
    assert node["rank"] == 0
    assert node["cores"] >= 1
    assert node["state"] in {"free", "allocated"}
    job = server.submit("sleep 60")
    server.state(job, "RUN")

    def allocated() -> bool:
        (node,) = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"]
        return bool(node["state"] == "allocated" and node["cores_allocated"] >= 1)

    eventually(allocated)
    server.http.post(f"/v1/jobs/{job}/cancel")


def test_service_and_probes(server: Server) -> None:
    service = server.http.get("/v1/service").json()
    assert service["state"] == "running"
    assert service["ready"] is True
    assert (service["auth"], service["no_auth"]) == (False, False)
    assert service["instance"]["connection"] == "ready"
    for probe in ("/livez", "/readyz"):
        answer = server.http.get(probe)
        assert (answer.status_code, answer.text) == (200, "ok\n")


def test_head_is_get_without_a_body(server: Server) -> None:
    server.submit("true")
    with httpx.Client(base_url=server.url) as client:
        for path in ("/v1/jobs", "/v1/jobs?details=true", "/v1/jobs/search", "/v1/nodes", "/openapi.json", "/docs"):
            answer = client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")
            assert client.get("/livez").text == "ok\n", "the connection is in step: no body followed"


def test_docs_page_uses_no_other_host(server: Server) -> None:
    page = server.http.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    for path in ("/static/docs.js", "/static/swagger-ui/swagger-ui-bundle.js", "/static/swagger-ui/swagger-ui.css"):
        assert f'"{path[1:]}"' in page.text
        assert server.http.get(path).status_code == 200


def test_a_list_has_each_submitted_job_at_once(server: Server) -> None:
    """A list is read after each of many submits, over another connection."""
    with httpx.Client(base_url=server.url) as other:
        for _ in range(50):
            job = server.submit("true")
            assert job in [each["id"] for each in other.get("/v1/jobs", params={"limit": 5}).json()["jobs"]]


def test_disconnecting_readers_do_not_affect_others(own_server: Callable[..., Server]) -> None:
    server = own_server()
    for _ in range(60):
        server.submit(["echo", "x" * 8000], urgency=0)
    for _ in range(5):
        with server.http.stream("GET", "/v1/jobs", params={"details": "true"}) as answer:
            next(answer.iter_bytes(100))
    assert server.http.get("/livez").status_code == 200
    assert len(server.http.get("/v1/jobs").json()["jobs"]) == 60
    assert "a request failed" not in server.text()


def test_search_finds_every_job_id_encoding(server: Server) -> None:
    """An ID in each of Flux's encodings, and in part; text in any case, and with any Unicode form of its accents."""
    job = server.run(["true"], name="caf\u00e9 \u00c4")["id"]
    spelled = fluid.f58(job)
    kvs = fluid.kvs(job)
    for text in (
        str(job), spelled, spelled.replace("ƒ", "f"), spelled.replace("ƒ", "f")[:-1], hex(job), kvs,
        kvs.removeprefix("job."), words(job), f" {spelled}", f"{spelled}\n", f"\t{job} ", f" {kvs} ", "cafe\u0301", "CAF\u00c9 \u00e4", "\u00e9 \u00e4",
    ):  # fmt: skip
        found = server.http.get("/v1/jobs/search", params={"query": text}).json()
        assert job in [each["id"] for each in found["data"]], text
        assert found["recordsMatched"] == len(found["data"])
        assert spelled.replace("ƒ", "f") in server.http.get("/jobs", params={"q": text}).text, text
    for text in ("\u00e4", "\u00c4"):  # shorter than the index supports
        assert job in [each["id"] for each in server.http.get("/v1/jobs/search", params={"query": text}).json()["data"]]


def test_pipe_without_a_shell_is_warned_of(server: Server) -> None:
    form = {"command": "echo hi | wc"}
    answer = server.http.post("/v1/jobs/submit", data=form)
    [warning] = answer.json()["warnings"]
    assert warning.startswith("command: '|' is passed to echo as an argument")
    checked = server.http.post("/v1/jobs/submit", data={**form, "dry_run": "true"}).json()
    assert checked["warnings"] == [warning]
    assert checked["Message"].endswith(warning)
    assert "warnings" not in server.http.post("/v1/jobs/submit", data={"command": "echo hi"}).json()


def test_ignored_shell_options_are_warned_of(server: Server, tmp_path: Path) -> None:
    """The embedded engine has no Flux shell; on Flux the option has its effect."""
    path = tmp_path / "out"
    options = {"output.stdout.type": "file", "output.stdout.path": str(path), "per-resource": {"type": "node"}}
    answer = server.http.post("/v1/jobs/submit", json={"command": "echo hi", "option_flags": options})
    job = server.ended(answer.json()["id"])["id"]
    if server.http.get("/v1/service").json()["instance"]["kind"] == "embedded":
        [warning] = answer.json()["warnings"]
        assert warning.endswith("ignores output.stdout.type, output.stdout.path.")
        assert (server.output(job), path.exists()) == (["hi\n"], False)
    else:
        assert "warnings" not in answer.json()
        assert (server.output(job), path.read_text()) == ([], "hi\n")


def test_empty_form_fields_are_ignored(server: Server) -> None:
    """A page sends every field, filled in or not; in JSON an empty name is an error."""
    form = dict.fromkeys(("workdir", "envars", "name", "queue", "dependencies", "urgency", "num_tasks", "runtime"), "")
    answer = server.http.post("/v1/jobs/submit", data={**form, "command": "true"})
    assert server.ended(answer.json()["id"])["name"] == "true"
    problem(server.http.post("/v1/jobs/submit", json={"command": "true", "name": ""}), 400)


@pytest.mark.parametrize("name", ["user", "submitter", "queue", "name"])
def test_empty_filter_cancels_nothing(server: Server, name: str) -> None:
    """``-d queue=$QUEUE`` sends an empty value if the variable is not set; it would match nearly every job."""
    job = server.submit("true", urgency=0)
    server.state(job, "SCHED")
    bodies: list[dict[str, Any]] = [{"data": {name: ""}}, {"json": {name: ""}}, {"data": {name: "", "state": "active"}}]
    for body in bodies:
        text = problem(server.http.post("/v1/jobs/cancel", **body), 400)["detail"]
        assert text.startswith(f"{name}: must not be empty"), text
    assert server.job(job)["state"] == "SCHED"
    server.http.post(f"/v1/jobs/{job}/cancel")


def test_table_is_sorted_by_any_column(server: Server) -> None:
    """By each member of a job; jobs without a value come last, and running jobs are sorted by their current runtime."""
    running = server.submit("sleep 60", runtime=1000)
    server.submit("true", urgency=0, name="held")
    server.run("sleep 0.3")
    server.run("false", runtime=100)
    server.state(running, "RUN")
    for name in sorted(ORDERS):
        for direction in ("asc", "desc"):
            query = {"order[0][column]": "7", "columns[7][data]": name, "order[0][dir]": direction}
            answer = server.http.get("/v1/jobs/search", params=query)
            assert answer.status_code == 200, answer.text
            values = [_at(job, "id" if name == "f58id" else name) for job in answer.json()["data"]]
            if name == "runtime":  # the runtime of a running job grows meanwhile
                values = [round(value, 1) for value in values]
            assert values == sorted(values, key=_rank, reverse=direction == "desc"), (name, direction)
    unknown = server.http.get("/v1/jobs/search", params={"order[0][column]": "nonsense"})
    assert "order[0][column]: unknown column 'nonsense'" in problem(unknown, 400)["detail"]
    for computed in ("", "function"):
        query = {"order[0][column]": "0", "columns[0][data]": computed}
        assert server.http.get("/v1/jobs/search", params=query).status_code == 200
    server.http.post(f"/v1/jobs/{running}/cancel")


def _at(job: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        job = job.get(name, "")
    return job


def _rank(value: Any) -> tuple[int, Any]:
    """SQLite's order of types; a boolean is a number."""
    return (0, 0) if value == "" else (2, value.encode()) if isinstance(value, str) else (1, value)
