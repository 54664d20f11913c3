"""Bulk submit: many jobs in one request, each exactly once."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.contract.test_errors import problem
from tests.support.flood import connect
from tests.support.harness import PATIENCE, PLAIN, Server, eventually

SUBMIT, BULK = "/v1/jobs/submit", "/v1/jobs/bulk"


def _bulk(server: Server, *lines: Any, **headers: str) -> list[dict[str, Any]]:
    content = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    headers = {"Content-Type": "application/x-ndjson", **headers}
    answer = server.http.post(BULK, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


class TestBulk:
    def test_results_are_in_the_order_of_lines(self, server: Server) -> None:
        results = _bulk(
            server,
            {"command": "true", "name": "first"},
            "\n",
            {"comand": "true"},
            "this is no JSON\n",
            {"command": ["echo", "hi"], "num_tasks": 100000},
            {"command": "snakemake", "is_launcher": True},
            {"command": ["echo", "last"]},
        )
        assert [(each["line"], each["status"]) for each in results] == [
            (1, 200), (3, 400), (4, 400), (5, 400), (6, 400), (7, 200),
        ]  # fmt: skip
        assert "did you mean command?" in results[1]["problem"]["detail"]
        assert "not JSON" in results[2]["problem"]["detail"]
        assert results[4]["problem"]["detail"].startswith("is_launcher")
        assert server.ended(results[0]["id"])["name"] == "first"
        assert server.ended(results[-1]["f58id"])["result"] == "COMPLETED"
        assert server.output(results[-1]["id"]) == ["last\n"]

    def test_thousand_jobs(self, server: Server) -> None:
        results = _bulk(server, *({"command": "true", "urgency": 0, "name": f"k{number}"} for number in range(1000)))
        assert [each["line"] for each in results] == list(range(1, 1001))
        assert {each["status"] for each in results} == {200}
        assert len({each["id"] for each in results}) == 1000
        # A list now contains all of them, and all can be cancelled.
        listed = {job["id"] for job in server.http.get("/v1/jobs", params={"limit": 1000}).json()["jobs"]}
        assert listed == {each["id"] for each in results}
        counted = server.http.post("/v1/jobs/cancel", json={"state": "active", "dry_run": True}).json()
        assert (counted["matched"] >= 1000, counted["cancelled"]) == (True, 0)
        done = server.http.post("/v1/jobs/cancel", json={"state": "pending", "name": "k7", "reason": "one"}).json()
        assert (done["matched"], done["cancelled"], done["failed"]) == (1, 1, [])
        assert server.ended(results[7]["id"])["exception"]["note"] == "one"
        done = server.http.post("/v1/jobs/cancel", json={"state": "active"}).json()
        assert done["cancelled"] >= 999
        assert not done["failed"]
        eventually(lambda: server.http.get("/v1/service").json()["active_jobs"] == 0)

    def test_empty_body(self, server: Server) -> None:
        for content in (b"", b" \n\n"):
            assert "send one JSON object per line" in problem(server.http.post(BULK, content=content), 400)["detail"]

    def test_empty_body_in_chunks(self, server: Server) -> None:
        """The response starts before the body ends, so the error is the result of a line."""
        with connect(server) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(b"POST /v1/jobs/bulk HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            found = connection.recv(4096)
            assert found.startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"1\r\n\n\r\n0\r\n\r\n")
            while not found.endswith(b"0\r\n\r\n") and (more := connection.recv(4096)):
                found += more
        assert b'"line":2,"status":400' in found
        assert b"send one JSON object per line" in found

    def test_missing_final_newline_and_too_long_line(self, own_server: Callable[..., Server]) -> None:
        server = own_server("--max-body", "2000")
        results = _bulk(server, {"command": "x" * 5000}, {"command": "true"}, '{"command": "false"}')
        assert [each["status"] for each in results] == [413, 200, 200]

    def test_wrong_content_type(self, server: Server) -> None:
        problem(server.http.post(BULK, content=b"<job/>", headers={"Content-Type": "text/xml"}), 415)

    def test_client_disconnects(self, server: Server) -> None:
        """Accepted jobs stay; with a key, a repeated request submits the rest."""
        lines = [json.dumps({"command": "true", "urgency": 0, "name": "gone"}).encode() + b"\n" for _ in range(50)]

        def first_half() -> Any:
            yield from lines[:25]
            raise ConnectionAbortedError

        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": uuid.uuid4().hex}
        try:
            server.http.post(BULK, content=first_half(), headers=headers)
        except ConnectionAbortedError:
            pass
        else:
            raise AssertionError("the caller was to go away")
        results = eventually(lambda: _settled(server, lines, headers))
        assert len({each["id"] for each in results}) == 50
        named = server.http.get("/v1/jobs", params={"name": "gone"}).json()["jobs"]
        assert {job["id"] for job in named} == {each["id"] for each in results}
        server.http.post("/v1/jobs/cancel", json={"name": "gone"})


def _settled(server: Server, lines: list[bytes], headers: dict[str, str]) -> list[dict[str, Any]] | None:
    """Repeat a bulk submit; return None while lines of the first request are in progress."""
    answer = server.http.post(BULK, content=b"".join(lines), headers=headers)
    results = [json.loads(line) for line in answer.text.splitlines()]
    return results if all(each["status"] == 200 for each in results) else None


class TestOnce:
    def test_same_key_and_body(self, server: Server) -> None:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        first = server.http.post(SUBMIT, json={"command": "true", "name": "once"}, headers=headers)
        again = server.http.post(SUBMIT, json={"name": "once", "command": "true"}, headers=headers)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.json() == first.json()
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first.headers
        server.ended(first.json()["id"])
        later = server.http.post(SUBMIT, json={"command": "true", "name": "once"}, headers=headers)
        assert later.json() == first.json()
        jobspec = server.http.get(f"/v1/jobs/{first.json()['id']}/jobspec").json()
        assert jobspec["attributes"]["user"]["flux-sidecar"]["key"] == headers["Idempotency-Key"]

    def test_same_key_and_other_body(self, server: Server) -> None:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        assert server.http.post(SUBMIT, json={"command": "true"}, headers=headers).status_code == 200
        body = problem(server.http.post(SUBMIT, json={"command": "false"}, headers=headers), 422)
        assert headers["Idempotency-Key"] in body["detail"]

    def test_refused_job_releases_its_key(self, server: Server) -> None:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        problem(server.http.post(SUBMIT, json={"command": "true", "num_tasks": 100000}, headers=headers), 400)
        assert server.http.post(SUBMIT, json={"command": "true"}, headers=headers).status_code == 200

    def test_invalid_keys(self, server: Server) -> None:
        for key in ("", "x" * 256, "a\tb"):
            answer = server.http.post(SUBMIT, json={"command": "true"}, headers={"Idempotency-Key": key})
            assert "Idempotency-Key" in problem(answer, 400)["detail"]

    def test_concurrent_requests_with_one_key(self, server: Server) -> None:
        headers = {"Idempotency-Key": uuid.uuid4().hex}

        def submit(_: int) -> httpx.Response:
            return httpx.post(
                f"{server.url}{SUBMIT}", json={"command": "true", "name": "racing"}, headers=headers, verify=PLAIN
            )

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(submit, range(24)))
        for answer in answers:
            assert answer.status_code in (200, 409)
            if answer.status_code == 409:
                assert int(answer.headers["Retry-After"]) >= 1
        assert len({answer.json()["id"] for answer in answers if answer.status_code == 200}) == 1
        assert len(server.http.get("/v1/jobs", params={"name": "racing"}).json()["jobs"]) == 1

    def test_each_line_has_its_own_key(self, server: Server) -> None:
        key = uuid.uuid4().hex
        lines = [{"command": "true", "idempotency_key": f"{key}-{n}", "urgency": 0} for n in range(3)]
        first, again = _bulk(server, *lines), _bulk(server, *lines)
        assert [each["id"] for each in first] == [each["id"] for each in again]
        assert [each.get("replayed") for each in again] == [True] * 3
        # The same key in a single submit returns the same job; for another body only that line fails.
        single = server.http.post(
            SUBMIT, json={"command": "true", "urgency": 0}, headers={"Idempotency-Key": f"{key}-1"}
        )
        assert single.json()["id"] == first[1]["id"]
        lines[1]["command"] = "false"
        assert [each["status"] for each in _bulk(server, *lines)] == [200, 422, 200]
        server.http.post("/v1/jobs/cancel", json={"state": "sched"})


class TestMoreReads:
    def test_export(self, server: Server) -> None:
        jobs = [server.run("true", name="exported")["id"] for _ in range(3)]
        answer = server.http.get("/v1/jobs", params={"name": "exported"}, headers={"Accept": "application/x-ndjson"})
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        found = [json.loads(line) for line in answer.text.splitlines()]
        assert [job["id"] for job in found] == jobs[::-1]
        assert found[0] == server.job(jobs[-1])
        assert answer.headers["Flux-Events-Position"]

    def test_dry_run(self, server: Server) -> None:
        before = len(server.http.get("/v1/jobs").json()["jobs"])
        answer = server.http.post(
            f"{SUBMIT}?dry_run=true", json={"command": "true", "num_tasks": 2, "envars": {"S": "x"}}
        )
        assert answer.status_code == 200
        spec = answer.json()["jobspec"]
        assert spec["tasks"][0]["command"] == ["true"]
        assert "environment" not in spec["attributes"]["system"]
        for wrong, text in (({"num_tasks": 100000}, "unsatisfiable"), ({"queue": "nowhere"}, "queue")):
            detail = problem(server.http.post(f"{SUBMIT}?dry_run=true", json={"command": "true", **wrong}), 400)[
                "detail"
            ]
            assert text in detail
        assert len(server.http.get("/v1/jobs").json()["jobs"]) == before

    def test_jobspec_and_its_environment(self, server: Server) -> None:
        job = server.submit("true", urgency=0, envars={"SECRET": "s3"})
        path = f"/v1/jobs/{job}/jobspec"
        plain = server.http.get(path)
        assert "s3" not in plain.text
        assert plain.json()["tasks"][0]["command"] == ["true"]
        full = server.http.get(path, params={"environment": "true"}).json()
        assert full["attributes"]["system"]["environment"]["SECRET"] == "s3"
        server.http.post(f"/v1/jobs/{job}/cancel")

    def test_cancel_requires_a_filter(self, server: Server) -> None:
        for body in ({}, {"reason": "all of them"}):
            assert (
                "state=active matches all jobs"
                in problem(server.http.post("/v1/jobs/cancel", json=body), 400)["detail"]
            )
        assert (
            "unknown state 'ASLEEP'"
            in problem(server.http.post("/v1/jobs/cancel", json={"state": "asleep"}), 400)["detail"]
        )
