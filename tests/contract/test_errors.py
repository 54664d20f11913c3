"""Invalid input: each error has the same form, and its text says what to change."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sidecar.http.rest_errors import is_rest_path
from tests.support.harness import Server

SUBMIT = "/v1/jobs/submit"


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Check the form of an error response, and return the problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    body = answer.json()
    lag = {"lag"} if body["type"].endswith(":journal-lags") else set()
    assert body.keys() == {"type", "title", "status", "detail", "Message", "Errors", *lag}
    assert body["status"] == status
    assert body["type"].startswith("urn:flux-sidecar:problem:")
    assert all(isinstance(body[name], str) and body[name] for name in ("title", "detail", "Message"))
    assert body["Errors"]
    assert "Traceback" not in answer.text
    return dict(body)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, "A 'command' is minimally required."),
        ({"command": None}, "A 'command' is minimally required."),
        ({"command": ""}, "A 'command' is minimally required."),
        ({"command": "   "}, "A 'command' is minimally required."),
        ({"command": []}, "A 'command' is minimally required."),
        ({"command": [""]}, "A 'command' is minimally required."),
        ({"command": 'a "b'}, "No closing quotation"),
        ({"command": ["true", 5]}, "command: expected text"),
        ({"command": "true", "comand": "x"}, "did you mean command?"),
        ({"command": "true", "num_tasks": "two"}, "num_tasks: expected a whole number"),
        ({"command": "true", "num_tasks": 1.5}, "num_tasks: expected a whole number"),
        ({"command": "true", "num_tasks": 0}, "num_tasks: expected a whole number >= 1"),
        ({"command": "true", "num_tasks": -1}, "num_tasks: expected a whole number >= 1"),
        ({"command": "true", "num_tasks": 2**31}, "num_tasks: expected a whole number <= 2147483647"),
        ({"command": "true", "num_tasks": 2**31 - 1}, "unsatisfiable"),
        ({"command": "true", "cores_per_task": 0}, "cores_per_task: expected a whole number >= 1"),
        ({"command": "true", "cores_per_task": 10000}, "unsatisfiable"),
        ({"command": "true", "num_tasks": 10000}, "unsatisfiable"),
        ({"command": "true", "gpus_per_task": 99}, "unsatisfiable"),
        ({"command": "true", "num_nodes": 1000, "num_tasks": 1000}, "The server only has 1 nodes, you requested 1000"),
        ({"command": "true", "num_nodes": 2, "num_tasks": 1}, "2 nodes need at least 2 tasks"),
        ({"command": "true", "exclusive": True}, "give num_nodes too"),
        ({"command": "true", "exclusive": "perhaps"}, "exclusive: expected true or false"),
        ({"command": "true", "runtime": -1}, "runtime: expected a number >= 0"),
        ({"command": "true", "urgency": 32}, "urgency: expected a whole number <= 31"),
        ({"command": "true", "queue": "nowhere"}, "queue"),
        ({"command": "true", "dependencies": "later"}, "dependencies: 'later' is not SCHEME:VALUE"),
        ({"command": "true", "envars": {"A": 1}}, "envars.A: expected text: put it in quotes; got 1."),
        ({"command": "true", "envars": {"A": "1", "B": None}}, "envars.B: expected text: put it in quotes; got None."),
        ({"command": ["true", 5, "x"]}, "command: expected text in item 2; got ['true', 5, 'x']."),
        ({"command": "true", "name": ""}, "name: expected text that is not empty; got ''."),
        ({"command": "true", "name": "x" * 1001}, "name: expected text of at most 1000 characters"),
        ({"command": "true", "option_flags": 5}, "option_flags: expected text or an object; got 5."),
        ({"command": "true", "envars": "nonsense"}, "envars: give an object"),
        ({"command": "true", "envars": {"A=B": "x"}}, "'A=B' is not a variable's name"),
        ({"command": "true", "option_flags": {"-ompi": "x"}}, "Please provide keys without -o"),
        ({"command": "true", "option_flags": "-o mpi=x"}, "Please provide keys without -o"),
        ({"command": "true", "option_flags": "verbose"}, "'verbose' needs a value"),
        ({"command": "true", "option_flags": {"a..b": 1}}, "is not the name of a shell option"),
        ({"command": "sh -c true", "is_launcher": True}, "'sh' is not a known launcher"),
        ({"command": "snakemake", "is_launcher": True, "num_tasks": 2}, "leave out num_tasks"),
        ({"command": "a " * 40_000}, "send it as a list"),
        ({"command": "true", "envars": "{'A': 'b'," + " " * 70_000 + "}"}, "give an object of strings"),
        ({"command": "a\0b"}, "command: a NUL byte"),
        ({"command": ["true", "\0"]}, "command: a NUL byte"),
        ({"command": "true", "envars": {"A": "\0"}}, "envars: a NUL byte"),
        ({"command": "true", "envars": '{"A":"\\ud800"}'}, "envars: 'A': it is not valid Unicode"),
        ({"command": "true", "envars": r"{'A':'\udc80'}"}, "envars: 'A': it is not valid Unicode"),
        ({"command": "true", "envars": '{"A":"b\\u0000c"}'}, "envars: 'A': a NUL byte"),
        ({"command": "true", "option_flags": {"a": '"b\\u0000c"'}}, "option_flags: 'a': a NUL byte"),
        ({"command": "true", "workdir": "\0"}, "workdir: a NUL byte"),
    ],
)
def test_submit(server: Server, parameters: dict[str, Any], text: str) -> None:
    body = problem(server.http.post(SUBMIT, json=parameters), 400)
    assert text in body["detail"]
    assert text in " ".join(body["Errors"])


@pytest.mark.parametrize("envars", ['{"A":"\\ud800"}', "{'A':'\\udc80'}", '{"A":"b\\u0000c"}'])
def test_commands_that_no_program_can_receive_are_refused(server: Server, envars: str) -> None:
    """In a JSON body, a form, a dry run and a line of a bulk submit."""
    for sent in (
        server.http.post(SUBMIT, data={"command": "true", "envars": envars}),
        server.http.post(SUBMIT, json={"command": "true", "envars": envars, "dry_run": True}),
    ):
        assert "envars: 'A'" in problem(sent, 400)["detail"]
    answer = server.http.post("/v1/jobs/bulk", content=json.dumps({"command": ["true"], "envars": envars}))
    assert [json.loads(line)["status"] for line in answer.text.splitlines()] == [400]


def test_submit_reports_every_error_at_once(server: Server) -> None:
    body = problem(server.http.post(SUBMIT, json={"num_tasks": 0, "urgency": "high", "colour": "red"}), 400)
    assert len(body["Errors"]) == 4
    assert body["Message"] == "Invalid submit request"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[1, 2]", "must be a JSON object, not an array"),
        (b'"echo"', "must be a JSON object, not a string"),
        (b"null", "must be a JSON object, not null"),
        (b"true", "must be a JSON object, not true"),
        (b"1.5", "must be a JSON object, not a number"),
        (b"{", "The body is not JSON"),
        (b'{"command": "\xff"}', "The body is not JSON"),
        (b'{"command": "\\ud800"}', r"The body is not JSON: \ud800 is half of a character."),
        (b'{"command": ["true"], "envars": {"A": "\\udfff"}}', ""),
        (b'{"command": "true", "runtime": NaN}', "The body is not JSON"),
        (b'{"command": "true", "runtime": 1e999}', ""),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, ""),
    ],
)
def test_json_bodies(server: Server, content: bytes, text: str) -> None:
    answer = server.http.post(SUBMIT, content=content, headers={"Content-Type": "application/json"})
    assert text in problem(answer, 400)["detail"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("command=true&command=false", "command: given more than once"),
        ("command=a%00b", "NUL byte"),
        ("command=true&runtime=nan", "runtime: expected"),
        ("command=true&runtime=inf", "runtime: expected a finite number"),
        ("command=%22", "No closing quotation"),
    ],
)
def test_submit_by_query(server: Server, query: str, text: str) -> None:
    assert text in problem(server.http.post(f"{SUBMIT}?{query}"), 400)["detail"]


def test_name_in_the_query_and_in_the_body(server: Server) -> None:
    answer = server.http.post(SUBMIT, params={"command": "true"}, json={"command": "false"})
    assert "command: given in the query and in the body" in problem(answer, 400)["detail"]


def test_invalid_utf8_in_a_query(server: Server) -> None:
    """A raw request, as no client library sends percent-encoded bytes that are not UTF-8."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("POST", f"{SUBMIT}?command=true&name=%ED%A0%80")
    answer = connection.getresponse()
    body = json.loads(answer.read())
    assert answer.status in (200, 400)
    assert answer.status == 200 or body["Errors"]
    connection.close()


def test_body_of_an_unknown_type(server: Server) -> None:
    answer = server.http.post(SUBMIT, content=b"<command/>", headers={"Content-Type": "application/xml"})
    assert "send application/json or a form" in problem(answer, 415)["detail"]


def test_file_in_a_form(server: Server) -> None:
    answer = server.http.post(SUBMIT, files={"command": ("run.sh", b"true")})
    assert "Files are not supported" in problem(answer, 400)["detail"]


def test_body_over_the_limit(own_server: Callable[..., Server]) -> None:
    server = own_server("--max-body", "1000")
    bodies: list[dict[str, Any]] = [{"json": {"command": "x" * 2000}}, {"data": {"command": "x" * 2000}}]
    for sent in bodies:
        assert "limit of 1000 bytes" in problem(server.http.post(SUBMIT, **sent), 413)["detail"]
    answer = server.http.post(SUBMIT, files={"command": (None, "x" * 2000)})
    assert problem(answer, 413)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/jobs?limit=-1", "limit: expected a whole number >= 0"),
        ("/v1/jobs?limit=many", "limit: expected a whole number"),
        ("/v1/jobs?limit=1&limit=2", "limit: given more than once"),
        ("/v1/jobs?stats=true", "'stats' is not a parameter here"),
        ("/v1/jobs?details=perhaps", "details: expected true or false"),
        ("/v1/jobs?state=asleep", "state: unknown state 'ASLEEP'; use NEW"),
        ("/v1/jobs?result=good", "result: unknown result 'GOOD'"),
        ("/v1/jobs?cursor=elsewhere", "unknown cursor 'elsewhere'"),
        ("/v1/jobs?cursor=", "unknown cursor ''"),
        ("/v1/jobs?state=", "state: unknown state ''; use NEW"),
        ("/v1/jobs?state=failed", "state: unknown state 'FAILED'; it is a result: use result=failed"),
        ("/v1/jobs?result=run", "result: unknown result 'RUN'; it is a state: use state=run"),
        ("/v1/jobs?result=cancelled", "did you mean CANCELED? Use COMPLETED, FAILED, CANCELED, TIMEOUT"),
        ("/v1/jobs?state=run,,sched", "state: unknown state ''; use NEW"),
        ("/v1/jobs?state=run,asleep", "CLEANUP, INACTIVE, PENDING, RUNNING, ACTIVE"),
        ("/v1/jobs?result=ended", "use COMPLETED, FAILED, CANCELED, TIMEOUT"),
        ("/v1/jobs?since=nan", "since: expected a finite number"),
        ("/v1/jobs?until=soon", "until: expected a number"),
        ("/v1/jobs?after=0", "'after' is not a parameter here"),
        ("/v1/jobs/1?until=never", "until: expected one of run, finish, inactive; got 'never'"),
        ("/v1/jobs/1/output?stream=stdin", "stream: expected one of stdout, stderr, both"),
        ("/v1/jobs/1?wait=forever", "wait: expected seconds, or a duration"),
        ("/v1/jobs/1?wait=-1", "wait: expected a number >= 0"),
        ("/v1/jobs/1?wait=3601", "wait: expected a number <= 3600"),
        ("/v1/events?state=asleep", "state: unknown state 'ASLEEP'; use NEW"),
        ("/v1/events?result=good", "use COMPLETED, FAILED, CANCELED, TIMEOUT"),
        ("/v1/events?since=yesterday", "since: expected a number"),
        ("/v1/events?name=%00", "NUL byte"),
        ("/v1/events?limit=1", "'limit' is not a parameter here"),
        ("/v1/events?after=1", "is not a position of this server; use 0 (from the first event), or "),
        ("/v1/events?after=-1", "after: '-1' is not a position of this server"),
        ("/v1/events?after=latest", "after: 'latest' is not a position of this server"),
        ("/v1/events?after=00000000-0", "belongs to another instance or store; use 0"),
        ("/v1/events?after=%00", "after: a NUL byte"),
        ("/v1/jobs?since=yesterday", "since: expected a number"),
        ("/v1/jobs?name=%00", "NUL byte"),
        ("/v1/jobs/search?start=abc", "start: expected a whole number"),
        ("/v1/jobs/search?start=-1", "start: expected a whole number >= 0"),
        ("/v1/jobs/search?length=-2", "length: expected a whole number >= -1"),
        ("/v1/jobs/search?draw=x", "draw: expected a whole number"),
        ("/v1/jobs/search?search[value]=%00", "NUL byte"),
        (
            "/v1/jobs/search?columns[0][data]=name&columns[0][search][value]=x",
            "a search in one column is not supported",
        ),
        ("/v1/jobs/search?search[value]=x&search[regex]=true", "search[regex]: regular expressions are not supported"),
        (
            "/v1/jobs/search?columns[3][search][regex]=TRUE",
            "columns[3][search][regex]: regular expressions are not supported",
        ),
        ("/v1/nodes?detail=1", "did you mean details?"),
        ("/v1/jobs/not-an-id-", "is not a job id"),
        ("/v1/jobs/99999999999999999999999", "is not a job id"),
        ("/v1/jobs/18446744073709551616", "is not a job id"),
        ("/v1/jobs/-1", "is not a job id"),
        ("/v1/jobs/%00", "is not a job id"),
        ("/v1/jobs/ƒ0OIl", "is not a job id"),
        ("/v1/jobs/%EF%BC%91", "is not a job id"),
        ("/v1/queues?name=default", "'name' is not a parameter here"),
        ("/v1/service?verbose", "'verbose' is not a parameter here"),
    ],
)
def test_reads(server: Server, path: str, text: str) -> None:
    assert text in problem(server.http.get(path), 400)["detail"]


def test_start_positions_of_streams(server: Server) -> None:
    """An invalid position, a position of another store and the valid range have different errors."""
    job = server.run("echo only")["id"]
    listed = server.http.get("/v1/jobs", params={"limit": 1}).json()["position"]
    name, _, number = listed.partition("-")
    far = int(number) + 10**9
    wrong = {
        "1": "is not a position of this server",
        "x" * 200: "is not a position of this server",
        name: "is not a position of this server",
        f"{name}-": "is not a position of this server",
        f"{name}--1": "is not a position of this server",
        f"{name}-1e3": "is not a position of this server",
        f"{name.upper()}G-1": "is not a position of this server",
        f"{name}-{far}": "is not a position of this server",
        f"{name}-{'9' * 30}": "is not a position of this server",
        f"{'0' * 8}-{number}": "belongs to another instance or store",
    }
    for path in ("/v1/events", f"/v1/jobs/{job}/events"):
        for text, why in wrong.items():
            for asked, sent in (
                ({"after": text}, {}),
                ({}, {"Last-Event-ID": text}),
                ({"after": "0"}, {"Last-Event-ID": text}),
            ):
                detail = problem(server.http.get(path, params=asked, headers=sent), 400)["detail"]
                assert why in detail
                assert detail.startswith("Last-Event-ID: " if sent else "after: ")
                assert f"use 0 (from the first event), or {name}-0 to {name}-" in detail
    path = f"/v1/jobs/{job}/output/stream"
    for text in ("2", "-1", "1.0", "one", "9" * 30, "１", listed):
        for asked, sent in (({"after": text}, {}), ({}, {"Last-Event-ID": text.encode()})):
            detail = problem(server.http.get(path, params=asked, headers=sent), 400)["detail"]
            why = "is no line of this output; use 0 (from the first line) to 1."
            assert (
                why if text == "2" else "is no id of this stream; use an id of its events, or 0 (all of it)."
            ) in detail
    for query, text in (
        ("tail=-1", "tail: expected a whole number >= 0"),
        ("stream=stdin", "stream: expected one of stdout, stderr, both"),
        ("follow=perhaps", "follow: expected true or false"),
    ):
        assert text in problem(server.http.get(f"{path}?{query}"), 400)["detail"]


@pytest.mark.parametrize("job", ["1", "18446744073709551615", "9223372036854775808", "ƒ1", "job.0000.0000.0000.0001"])
def test_unknown_jobs(server: Server, job: str) -> None:
    for method, path in (
        ("GET", ""),
        ("GET", "/output"),
        ("POST", "/cancel"),
        ("POST", "/signal?signal=TERM"),
        ("POST", "/urgency?urgency=hold"),
    ):
        body = problem(server.http.request(method, f"/v1/jobs/{job}{path}"), 404)
        assert "There is no job" in body["detail"]


def test_unknown_launchers(server: Server) -> None:
    for path in ("/v1/launchers/99", "/v1/launchers/x", "/v1/launchers/99/output"):
        assert "There is no launcher" in problem(server.http.get(path), 404)["detail"]


@pytest.mark.parametrize("stop", [{"mode": "later"}, {"timeout": -1}, {"timeout": "soon"}, {"grace": 5}])
def test_stop_with_an_invalid_parameter_is_refused(server: Server, stop: dict[str, Any]) -> None:
    detail = problem(server.stop(**stop), 400)["detail"]
    assert "mode" not in stop or "mode: expected one of now, drain" in detail
    assert server.http.get("/v1/service").json()["state"] == "running"


def test_routes_refuse_other_methods_and_unknown_parameters(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    for template, operations in document["paths"].items():
        if is_rest_path(template):
            continue  # its errors are in test_rest_v1.py
        path = template.replace("{uid}", "1").replace("{number}", "1").replace("{name}", "default")
        answer = server.http.request("PATCH", path)
        body = problem(answer, 405)
        assert set(answer.headers["Allow"].split(",")) >= {method.upper() for method in operations}
        assert "allowed" in body["detail"]
        for method in operations:
            if template != "/v1/jobs/search":
                body = problem(server.http.request(method, path, params={"no_such_parameter": "1"}), 400)
                assert "'no_such_parameter' is not a parameter here" in body["detail"]


def test_unknown_paths(server: Server) -> None:
    for path in ("/v2/jobs", "/v1/jobs/1/nothing", "/static/nothing.js", "/static/../app.py"):
        problem(server.http.get(path), 404)


@pytest.mark.parametrize("path", ["/v1/jobs", "/livez", "/static/docs.js", "/nothing"])
def test_unknown_expectations(server: Server, path: str) -> None:
    """aiohttp would respond before the guard, without the server's headers, and repeat the input."""
    for method in ("GET", "PUT"):
        answer = server.http.request(method, path, headers={"Expect": "<b>a miracle"})
        assert "miracle" not in problem(answer, 417)["detail"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Connection"] == "close"
    known = server.http.post("/v1/jobs/submit", json={"command": "true"}, headers={"Expect": "100-Continue"})
    assert known.status_code == 200


def test_invalid_http(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.")
    assert server.http.get("/livez").status_code == 200
