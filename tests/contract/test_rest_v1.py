"""``/api/v1``, the dialect of flux-rest-server: what its own tests assert, and what this server adds."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from sidecar.domain import fluid
from tests.support.harness import PATIENCE, Broker, Server, beside, eventually

ROOT = "/api/v1"
JOBS = f"{ROOT}/jobs"
F58 = re.compile(r"f[1-9A-HJ-NP-Za-km-z]+")
USER = pwd.getpwuid(os.getuid())


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Check the form of an error below /api/v1, and return its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.text.endswith("\n")
    body = answer.json()
    assert "error" in body
    assert body.keys() <= {"error", "detail", "path"}
    assert all(isinstance(text, str) and text for text in body.values())
    assert "Traceback" not in answer.text
    return dict(body)


def submit(server: Server, *command: str, **arguments: Any) -> str:
    answer = server.http.post(JOBS, json={"command": command, **arguments})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def in_state(server: Server, job: str, *states: str) -> httpx.Response:
    def reached() -> httpx.Response | None:
        answer = server.http.get(f"{JOBS}/{job}")
        assert answer.status_code == 200, answer.text
        return answer if answer.json()["state"] in states else None

    return eventually(reached, what=f"{states} of {job}")


def ended(server: Server, job: str) -> dict[str, Any]:
    return dict(in_state(server, job, "INACTIVE").json())


def output(server: Server, job: str) -> list[str]:
    ended(server, job)
    return [line.rstrip("\n") for line in server.output(job)]


def variables(server: Server, **arguments: Any) -> dict[str, str]:
    """Return the environment of a job, without what Flux's shell and the shell of the test set."""
    lines = output(server, submit(server, "env", **arguments))
    pairs = dict(line.partition("=")[::2] for line in lines)
    return {name: text for name, text in pairs.items() if not name.startswith(("FLUX_", "PMI", "CUDA_", "SLURM_"))}


# ------------------------------------------------------------------------------------- the server and its routes


def test_health(server: Server) -> None:
    answer = server.http.get(f"{ROOT}/health")
    assert (answer.status_code, answer.text) == (200, '{"status":"ok"}\n')


def test_root(server: Server) -> None:
    status = server.http.get("/v1/service").json()["instance"]
    assert server.http.get(f"{ROOT}/").json() == {
        "name": "flux-rest-server",
        "user": USER.pw_name,
        "broker_version": status["version"],
        "rank": 0,
        "size": 1,
    }
    assert (status["version"] != "") == (status["kind"] == "flux")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_other_paths_are_404_for_every_method(server: Server, method: str) -> None:
    for path in ("", "/nope", "/health/", "/jobs/", "/jobs/f1/cancel", "//jobs", "/openapi.json"):
        answer = server.http.request(method, f"{ROOT}{path}")
        assert answer.status_code == 404
        if method != "HEAD":
            assert error(answer, 404) == {"error": "not found", "path": f"{ROOT}{path}"}


def test_other_methods_are_404(server: Server) -> None:
    for methods, path in (
        (("POST", "DELETE"), "/"),
        (("POST",), "/health"),
        (("GET", "HEAD", "DELETE", "PUT"), "/jobs"),
        (("POST", "PATCH"), "/jobs/f1"),
    ):
        for method in methods:
            answer = server.http.request(method, f"{ROOT}{path}")
            assert answer.status_code == 404, (method, path)
            assert "Allow" not in answer.headers
            if method != "HEAD":
                assert error(answer, 404) == {"error": "not found", "path": f"{ROOT}{path}"}


def test_openapi_has_exactly_the_routes(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    described = {path: methods for path, methods in document["paths"].items() if path.startswith(ROOT)}
    assert {(path, method) for path, methods in described.items() for method in methods} == {
        (f"{ROOT}/", "get"), (f"{ROOT}/health", "get"), (JOBS, "post"), (f"{JOBS}/{{id}}", "get"), (f"{JOBS}/{{id}}", "delete"),
    }  # fmt: skip
    for methods in described.values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                assert list(response["content"]) == ["application/json"]
                if int(status) >= 400:
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/RestError"}


# ------------------------------------------------------------------------------------------------------- submit


def test_submit(server: Server) -> None:
    answer = server.http.post(JOBS, json={"command": ["true"]})
    assert answer.status_code == 201
    assert answer.json().keys() == {"id"}
    job = answer.json()["id"]
    assert F58.fullmatch(job)
    assert answer.headers["Location"] == f"{JOBS}/{job}"
    assert "Retry-After" not in answer.headers
    assert ended(server, job)["result"] == "COMPLETED"


def test_default_environment_and_directory(server: Server) -> None:
    found = variables(server)
    expected = {"HOME": USER.pw_dir, "USER": USER.pw_name, "LOGNAME": USER.pw_name, "SHELL": USER.pw_shell}
    assert {name: found.get(name) for name in expected} == expected
    assert found["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert not {"TMPDIR", "TEST_PROCESS_MARK", "PYTHONPATH", "VIRTUAL_ENV", "HISTFILE"} & found.keys()
    assert len(found) < 15, found
    assert output(server, submit(server, "pwd")) == [USER.pw_dir]


def test_given_environment_and_directory_win(server: Server, tmp_path: Path) -> None:
    found = variables(server, environment={"COLOUR": "blue", "PATH": "/usr/bin:/bin"}, cwd="/")
    assert (found["COLOUR"], found["PATH"].endswith("/usr/bin:/bin")) == ("blue", True)
    assert not {"HOME", "USER", "LOGNAME", "SHELL"} & found.keys()
    job = submit(server, "pwd", cwd=str(tmp_path))
    assert output(server, job) == [str(tmp_path)]
    assert server.http.get(f"{JOBS}/{job}").json()["cwd"] == str(tmp_path)


def test_arguments_of_from_command(server: Server) -> None:
    job = submit(
        server, "true", name="alpha", num_tasks=1, num_nodes=1, cores_per_task=1, gpus_per_task=0, duration="2m"
    )
    found = ended(server, job)
    assert (found["name"], found["ntasks"], found["nnodes"], found["duration"]) == ("alpha", 1, 1, 120.0)
    assert ended(server, submit(server, "true", duration=90))["duration"] == 90.0
    nothing = {"num_nodes": None, "environment": None, "cwd": None, "output": None, "queue": None, "exclusive": None}
    assert ended(server, submit(server, "true", **nothing))["result"] == "COMPLETED"


def test_jobspec_is_that_of_from_command(server: Server, tmp_path: Path) -> None:
    arguments = {
        "env_expand": {"ID": "{{id}}"}, "rlimits": {"nofile": 1000, "core": -1}, "bank": "physics",
        "input": "/dev/null", "output": "123", "error": "none", "label_io": True, "unbuffered": True,
    }  # fmt: skip
    job = submit(server, "true", cwd=str(tmp_path), **arguments)
    system = server.http.get(f"/v1/jobs/{job}/jobspec").json()["attributes"]["system"]
    assert system["bank"] == "physics"
    options = system["shell"]["options"]
    assert options["env-expand"] == {"ID": "{{id}}"}
    assert options["rlimit"] == {"nofile": 1000, "core": -1}
    assert options["input"] == {"stdin": {"type": "file", "path": "/dev/null"}, "batch-timeout": 0.0}
    assert options["output"] == {
        "stdout": {"type": "file", "path": "123", "label": True, "buffer": {"type": "none"}},
        "stderr": {"buffer": {"type": "none"}},
        "batch-timeout": 0.05,
    }
    found = ended(server, job)
    assert found["bank"] == "physics"
    if server.http.get("/v1/service").json()["instance"]["kind"] == "flux":
        assert (tmp_path / "123").exists()


def test_warnings_name_arguments_without_effect(server: Server, tmp_path: Path) -> None:
    answer = server.http.post(JOBS, json={"command": ["true"], "cwd": str(tmp_path), "output": "file"})
    embedded = server.http.get("/v1/service").json()["instance"]["kind"] == "embedded"
    assert ("warnings" in answer.json()) == embedded


_COMMAND = "'command' must be a non-empty list of strings"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", _COMMAND),
        (b"{}", _COMMAND),
        (b'{"command":null}', _COMMAND),
        (b'{"command":"true"}', _COMMAND),
        (b'{"command":[]}', _COMMAND),
        (b'{"command":["true",1]}', _COMMAND),
        (b"[]", "request body must be a JSON object"),
        (b'"true"', "request body must be a JSON object"),
        (b"null", "request body must be a JSON object"),
        (b"7", "request body must be a JSON object"),
        (b"not JSON", "malformed request"),
        (b'{"command":', "malformed request"),
        (b'{"command":["\xff"]}', "malformed request"),
        (b"command=true", "malformed request"),
        (b'{"command":["true"],"comand":1}', "invalid jobspec: 'comand' is not a parameter here; did you mean command?"),
        (b'{"command":["true"],"urgency":3}', "invalid jobspec: 'urgency' is not"),
        (b'{"command":["true"],"num_tasks":0}', "invalid jobspec: num_tasks: expected a whole number >= 1"),
        (b'{"command":["true"],"num_tasks":"2"}', "invalid jobspec: num_tasks: expected a whole number"),
        (b'{"command":["true"],"num_nodes":2}', "invalid jobspec: num_nodes: 2 nodes need at least 2 tasks"),
        (b'{"command":["true"],"exclusive":true}', "invalid jobspec: exclusive: give num_nodes too"),
        (b'{"command":["true"],"duration":"soon"}', "invalid jobspec: duration: expected seconds, or a duration"),
        (b'{"command":["true"],"duration":-1}', "invalid jobspec: duration: expected a number >= 0"),
        (b'{"command":["true"],"duration":"inf"}', "invalid jobspec: duration: expected"),
        (b'{"command":["true"],"environment":{"A":1}}', "invalid jobspec: environment.A: expected text"),
        (b'{"command":["true"],"environment":{"A=B":"1"}}', "invalid jobspec: environment: 'A=B' is not a variable"),
        (b'{"command":["true"],"rlimits":{"nofile":"x"}}', "invalid jobspec: rlimits: expected a whole number"),
        (b'{"command":["a\\u0000b"]}', "invalid jobspec: command: a NUL byte"),
        (b'{"command":["true"],"queue":"nowhere"}', "queue"),
        (b'{"command":["true"],"num_tasks":100000}', "unsatisfiable"),
    ],
)  # fmt: skip
def test_invalid_submits(server: Server, body: bytes, text: str) -> None:
    assert text in error(server.http.post(JOBS, content=body), 400)["error"]


def test_content_type_is_not_checked(server: Server) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/octet-stream", "multipart/form-data"):
        answer = server.http.post(JOBS, content=b'\n{"command":["true"]}', headers={"Content-Type": kind})
        assert answer.status_code == 201, (kind, answer.text)


def test_parameters_in_the_query_are_refused(server: Server) -> None:
    answer = server.http.post(f"{JOBS}?num_tasks=2", json={"command": ["true"]})
    assert "in the body" in error(answer, 400)["error"]


@pytest.mark.parametrize("length", ["abc", "-1", "1e3", "5, 6"])
def test_malformed_content_length(server: Server, length: str) -> None:
    """The path is not known then: the error is a problem, as everywhere."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(f"POST {JOBS} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"400"


def test_too_large_body(server: Server) -> None:
    body = json.dumps({"command": ["true", "x" * 1_100_000]})
    found = error(server.http.post(JOBS, content=body), 400)
    assert found["error"] == "request body too large"
    assert "--max-body" in found["detail"]


def test_encoded_bodies(server: Server) -> None:
    compressed = server.http.post(JOBS, content=b"x", headers={"Content-Encoding": "gzip"})
    assert "send the body uncompressed" in error(compressed, 415)["error"]
    charset = {"Content-Type": "application/json; charset=utf-16"}
    assert "UTF-8" in error(server.http.post(JOBS, content=b"{}", headers=charset), 415)["error"]
    tunnel = server.http.get(f"{ROOT}/", headers={"Expect": "tea"})
    assert error(tunnel, 417)


def test_idempotency_key(server: Server) -> None:
    """An addition of this server."""
    headers = {"Idempotency-Key": os.urandom(8).hex()}
    body = {"command": ["sleep", "0"], "environment": {"PATH": "/usr/bin:/bin"}}
    first, again = (server.http.post(JOBS, json=body, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert first.headers["Location"] == again.headers["Location"]
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    changes: list[dict[str, Any]] = [{"environment": {}}, {"cwd": "/"}, {"bank": "b"}, {"name": "x"}]
    for changed in changes:
        error(server.http.post(JOBS, json={**body, **changed}, headers=headers), 422)
    other_dialect = server.http.post("/v1/jobs/submit", json={"command": ["sleep", "0"]}, headers=headers)
    assert other_dialect.status_code == 422
    wrong = server.http.post(JOBS, json=body, headers={"Idempotency-Key": "x" * 300})
    assert error(wrong, 400)["error"].startswith("Idempotency-Key")


# --------------------------------------------------------------------------------------------------- read a job


def test_running_job(server: Server) -> None:
    job = submit(server, "sleep", "60")
    answer = in_state(server, job, "RUN")
    assert answer.headers["Retry-After"] == "5"
    found = answer.json()
    assert (found["id"], found["state"], found["status"]) == (job, "RUN", "RUN")
    assert not {"result", "returncode", "success", "jobid", "t_inactive", "waitstatus"} & found.keys()
    assert found["exception"] == {"occurred": False}
    assert found["runtime"] >= 0
    assert server.http.delete(f"{JOBS}/{job}").status_code == 202


def test_ended_jobs(server: Server) -> None:
    job = submit(server, "true", name="beta", num_tasks=1)
    ended(server, job)
    answer = server.http.get(f"{JOBS}/{job}")
    assert "Retry-After" not in answer.headers
    found = answer.json()
    assert (found["result"], found["status"], found["name"], found["ntasks"]) == ("COMPLETED", "COMPLETED", "beta", 1)
    assert (found["returncode"], found["waitstatus"], found["success"]) == (0, 0, True)
    assert "jobid" not in found
    failed = ended(server, submit(server, "false"))
    assert (failed["result"], failed["returncode"], failed["success"]) == ("FAILED", 1, False)


def test_attributes(server: Server) -> None:
    job = submit(server, "true", name="gamma")
    ended(server, job)

    def get(attrs: str) -> dict[str, Any]:
        answer = server.http.get(f"{JOBS}/{job}", params={"attrs": attrs})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    assert get("state,name") == {"id": job, "state": "INACTIVE", "name": "gamma"}
    assert get("id") == {"id": job}
    assert get(" result , returncode ") == {"id": job, "result": "COMPLETED", "returncode": 0}
    assert get("exception_note") == {"id": job, "exception": {"occurred": False}}
    assert get("") == get("all") == server.http.get(f"{JOBS}/{job}").json()
    unknown = server.http.get(f"{JOBS}/{job}", params={"attrs": "state,colour"})
    assert "'colour'" in error(unknown, 400)["error"]
    assert "'attr'" in error(server.http.get(f"{JOBS}/{job}", params={"attr": "state"}), 400)["error"]


def test_pending_jobs_have_no_ranks(server: Server) -> None:
    held = server.http.post("/v1/jobs/submit", json={"command": "true", "urgency": 0}).json()["f58id"].replace("ƒ", "f")
    answer = server.http.get(f"{JOBS}/{held}", params={"attrs": "state,ranks,nodelist"})
    assert answer.headers["Retry-After"] == "5"
    assert answer.json() == {"id": held, "state": answer.json()["state"]}
    server.http.delete(f"{JOBS}/{held}")


def test_every_spelling_of_an_id(server: Server) -> None:
    job = submit(server, "true")
    number = fluid.parse(job)
    digits = f"{number:016x}"
    dothex = ".".join(digits[i : i + 4] for i in range(0, 16, 4))
    for text in (str(number), fluid.f58(number), job, hex(number), dothex, fluid.kvs(number), "%66" + job[1:]):
        assert server.http.get(f"{JOBS}/{text}", params={"attrs": "id"}).json() == {"id": job}, text


@pytest.mark.parametrize(
    "text", ["not-a-real-id", "search", "submit", "a%2Fb", "{x}", "-1", "f0", "%20", "1" * 30, "😃x"]
)
def test_malformed_ids(server: Server, text: str) -> None:
    for method in ("GET", "DELETE"):
        answer = server.http.request(method, f"{JOBS}/{text}")
        assert error(answer, 400)["error"].endswith(" is not a valid Flux jobid")


def test_encoded_slashes_are_no_separators(server: Server) -> None:
    for path in ("/api%2Fv1/health", "/api/v1%2Fhealth", "/api/v1/jobs%2Ff1", "/%2Fapi/v1/health"):
        assert server.http.get(path).status_code == 404, path


# ------------------------------------------------------------------------------------------------------- cancel


def test_cancel(server: Server) -> None:
    job = submit(server, "sleep", "60")
    in_state(server, job, "RUN")
    answer = server.http.delete(f"{JOBS}/{job}?reason=not+needed%2B")
    assert answer.status_code == 202
    assert answer.json() == {"id": job, "status": "cancel requested"}
    found = ended(server, job)
    assert (found["result"], found["status"]) == ("CANCELED", "CANCELED")
    assert found["exception"] == {"occurred": True, "severity": 0, "type": "cancel", "note": "not needed+"}
    log = server.http.get(f"/v1/jobs/{job}/eventlog").json()["events"]
    assert [event["context"]["note"] for event in log if event["name"] == "exception"] == ["not needed+"]
    again = error(server.http.delete(f"{JOBS}/{job}"), 409)
    assert again == {"error": f"job {job} is already inactive, cannot cancel"}


def test_cancel_without_reason_by_number(server: Server) -> None:
    job = submit(server, "sleep", "60")
    answer = server.http.delete(f"{JOBS}/{fluid.parse(job)}")
    assert (answer.status_code, answer.json()["id"]) == (202, job)
    assert ended(server, job)["result"] == "CANCELED"


def test_unknown_jobs(server: Server) -> None:
    for method in ("GET", "DELETE"):
        answer = server.http.request(method, f"{JOBS}/999999999999")
        assert error(answer, 404) == {"error": f"no such job: {fluid.f58_ascii(999999999999)}"}
    assert error(server.http.delete(f"{JOBS}/f1?because=x"), 400)
    assert error(server.http.delete(f"{JOBS}/f1?reason={'x' * 1001}"), 400)


# --------------------------------------------------------------------------------------------------------- Flux


@pytest.mark.flux
def test_jobs_are_those_of_flux(tmp_path: Path, started: Callable[[Any], Any]) -> None:
    """Job by job, the members and values of JobInfo.to_dict(), which flux-jobs(1) prints as JSON."""
    broker = started(Broker(tmp_path, cores=2)).running()
    server = started(beside(broker, tmp_path)).ready()
    done = [submit(server, "true", name="delta"), submit(server, "false"), submit(server, "no-such-program")]
    done.append(submit(server, "sleep", "60"))
    in_state(server, done[-1], "RUN")
    server.http.delete(f"{JOBS}/{done[-1]}?reason=why")
    for job in done:
        ended(server, job)
    running = submit(server, "sleep", "60", duration="1h", bank="physics")
    in_state(server, running, "RUN")
    pending = submit(server, "sleep", "60", num_tasks=2)
    in_state(server, pending, "SCHED")
    for job in (*done, running, pending):
        expected = json.loads(broker.run("jobs", "--json", job).stdout)
        found = server.http.get(f"{JOBS}/{job}").json()
        assert (fluid.parse(found.pop("id")), expected.pop("jobid", None)) == (
            expected.pop("id"),
            fluid.f58(fluid.parse(job)),
        )
        for name in ("runtime", "t_remaining"):
            assert found.pop(name, 0.0) == pytest.approx(expected.pop(name, 0.0), abs=10.0)
        assert found == expected


@pytest.mark.flux
def test_lost_instance(tmp_path: Path, started: Callable[[Any], Any]) -> None:
    """/health never asks Flux; the other routes say that it is unavailable."""
    broker = started(Broker(tmp_path)).running()
    server = started(beside(broker, tmp_path)).ready()
    job = submit(server, "sleep", "60")
    broker.signal(signal.SIGSTOP)
    eventually(lambda: server.http.get(f"{ROOT}/").status_code == 503, what="the loss of the broker")
    lost = error(server.http.get(f"{ROOT}/"), 503)
    assert lost["error"] == "flux unavailable"
    assert "lost" in lost["detail"]
    for answer in (server.http.post(JOBS, json={"command": ["true"]}), server.http.delete(f"{JOBS}/{job}")):
        assert error(answer, 503)["error"] == "flux unavailable"
        assert int(answer.headers["Retry-After"]) > 0
    assert server.http.get(f"{ROOT}/health").json() == {"status": "ok"}
    assert server.http.get(f"{JOBS}/{job}").status_code == 200
    broker.signal(signal.SIGCONT)


# --------------------------------------------------------------------------------------------------------- stop


def test_stop_in_mid_request(own_server: Callable[..., Server]) -> None:
    """A request under way when the server is told to stop is answered in the dialect, and the server exits with 0."""
    server = own_server()
    body = b'{"command":["true"]}'
    with contextlib.closing(
        http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    ) as connection:
        connection.putrequest("POST", JOBS)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[:5])
        assert server.http.get(f"{ROOT}/health").status_code == 200
        assert server.stop().status_code == 202
        connection.send(body[5:])
        with connection.getresponse() as answer:
            found = json.loads(answer.read())
    assert (answer.status == 201 and found.keys() == {"id"}) or (answer.status in (409, 503) and "error" in found)
    assert server.wait() == 0
