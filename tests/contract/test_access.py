"""Authentication and authorization: credentials, scopes, ownership of jobs, revocation and the audit log."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.app.server import Server as Application
from tests.contract.test_errors import problem
from tests.support.access import SCOPES, TokenFile, audit
from tests.support.harness import Server, eventually
from tests.support.settings import make_settings
from tests.support.sse import Stream, ask

PUBLIC = {
    "/livez", "/readyz", "/login", "/logout", "/v1/auth", "/v1/token", "/v1/login/access-token", "/api/v1/health",
}  # fmt: skip

OPERATIONS = Application(make_settings(embedded=True), Path("/nonexistent")).operations


class Access:
    """A server with a caller for each scope, and a job for some of them."""

    def __init__(self, server: Server, tokens: TokenFile) -> None:
        self.server = server
        self.tokens = tokens
        self.clients = {name: tokens.client(server, name) for name in tokens.tokens}
        self.jobs = {name: self.submit(name) for name in ("submit", "admin")}

    def submit(self, name: str, **parameters: Any) -> str:
        answer = self.clients[name].post("/v1/jobs/submit", json={"command": "sleep 60", **parameters})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["f58id"])

    def request(self, client: httpx.Client, method: str, path: str, job: str) -> int:
        """Send a request with the path variables filled in, and return the status; streams are not read."""
        filled = re.sub(r"{(\w+)}", lambda match: {"uid": job, "id": job, "number": "1", "name": "0"}[match[1]], path)
        with client.stream(method, filled, json=None if method == "GET" else {}) as answer:
            return answer.status_code


@pytest.fixture
def access(own_server: Callable[..., Server], tmp_path: Path) -> Iterator[Access]:
    tokens = TokenFile(tmp_path, **{scope: scope for scope in SCOPES}, none="read")
    found = Access(own_server(*tokens.options, "--log-format", "json"), tokens)
    yield found
    for client in found.clients.values():
        client.close()


def test_routes_without_a_credential(access: Access) -> None:
    with httpx.Client(base_url=access.server.url, timeout=60) as anonymous:
        for op in OPERATIONS:
            status = access.request(anonymous, op.method, op.path, "f1")
            assert (op.path in PUBLIC) == (op.scope is None)
            fails = (op.method, op.path) == ("POST", "/login")  # without a token
            shown = op.path == "/"  # the login page, with 200
            assert (status == 401) == ((op.scope is not None and not shown) or fails), (op.path, status)
        for path in (
            "/nothing",
            "/static/docs.js",
            "/v1",
            "/v1/jobs/",
            "//v1/jobs",
            "/v1/../v1/jobs",
            "/%2e%2e/etc",
        ):
            assert anonymous.get(path).status_code == 401, path
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert anonymous.request(method, "/v1/jobs").status_code == 401, method
        refused = anonymous.get("/v1/jobs")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
    problem(refused, 401)


def test_routes_with_each_scope(access: Access) -> None:
    # Operations that end the server come last; an admin does not send them.
    ends = {("POST", "/v1/service/stop"), ("POST", "/stop")}
    operations = sorted(OPERATIONS, key=lambda op: (op.method, op.path) in ends)
    for op in operations:
        for scope in SCOPES:
            if op.scope is None or ((op.method, op.path) in ends and scope == "admin"):
                continue
            status = access.request(
                access.clients[scope], op.method, op.path, access.submit(scope) if scope != "read" else "f1"
            )
            enough = SCOPES.index(scope) >= SCOPES.index(op.scope)
            assert (status == 403) == (not enough), (op.path, scope, status)
            assert status not in (401, 500), (op.path, scope, status)
    assert access.clients["admin"].post("/v1/service/stop").status_code == 202


def test_submitters_control_only_their_own_jobs(access: Access) -> None:
    own_job, other_job = access.jobs["submit"], access.jobs["admin"]
    client = access.clients["submit"]
    assert client.get(f"/v1/jobs/{own_job}").json()["submitter"] == "submit"
    for verb, body in (("cancel", {}), ("signal", {"signal": "TERM"}), ("urgency", {"urgency": 3})):
        refused = problem(client.post(f"/v1/jobs/{other_job}/{verb}", json=body), 403)
        assert "was submitted by admin" in refused["detail"]
    refused = problem(client.get(f"/v1/jobs/{other_job}/jobspec", params={"environment": "true"}), 403)
    assert client.get(f"/v1/jobs/{other_job}/jobspec").status_code == 200
    spec = client.get(f"/v1/jobs/{own_job}/jobspec", params={"environment": "true"}).json()
    assert "PATH" in spec["attributes"]["system"]["environment"]
    assert client.post(f"/v1/jobs/{own_job}/cancel").status_code == 200
    assert access.clients["admin"].post(f"/v1/jobs/{other_job}/cancel").status_code == 200


def test_bulk_cancel_selects_only_own_jobs(access: Access) -> None:
    client = access.clients["submit"]
    held = [access.submit("submit", urgency=0) for _ in range(3)]
    counted = client.post("/v1/jobs/cancel", json={"state": "active", "dry_run": True}).json()
    assert counted["matched"] == len(held) + 1
    assert "admin" in problem(client.post("/v1/jobs/cancel", json={"submitter": "admin"}), 403)["detail"]
    done = client.post("/v1/jobs/cancel", json={"state": "active"}).json()
    assert (done["cancelled"], done["failed"]) == (4, [])
    assert access.clients["read"].get(f"/v1/jobs/{access.jobs['admin']}").json()["state"] != "INACTIVE"
    listed = access.clients["read"].get("/v1/jobs", params={"submitter": "admin"}).json()["jobs"]
    assert [job["f58id"] for job in listed] == [access.jobs["admin"]]


def test_urgency_above_16_requires_admin(access: Access) -> None:
    client = access.clients["submit"]
    job = {"command": "true", "urgency": 17}
    assert "above 16" in problem(client.post("/v1/jobs/submit", json=job), 403)["detail"]
    assert "above 16" in problem(client.post("/v1/jobs/submit", json={**job, "dry_run": True}), 403)["detail"]
    assert "above 16" in client.post("/v1/jobs/bulk", json=job).json()["problem"]["detail"]
    own_job = access.submit("submit", urgency=0)
    problem(client.post(f"/v1/jobs/{own_job}/urgency", json={"urgency": "expedite"}), 403)
    assert access.clients["admin"].post(f"/v1/jobs/{own_job}/urgency", json={"urgency": 17}).status_code == 200


def test_idempotency_keys_are_separate_for_each_caller(access: Access) -> None:
    """The same idempotency key of another caller neither reveals that caller's job nor conflicts with it."""
    answers: dict[str, list[tuple[int, Any]]] = {}
    for name in ("submit", "admin"):
        for body in ({"command": "true"}, {"command": "true"}, {"command": "false"}):
            answer = access.clients[name].post("/v1/jobs/submit", json=body, headers={"Idempotency-Key": "1"})
            answers.setdefault(name, []).append((answer.status_code, answer.json().get("id")))
    for found in answers.values():
        assert [status for status, _ in found] == [200, 200, 422]
        assert found[0] == found[1]
    assert answers["submit"][0] != answers["admin"][0]


def test_audit_events(access: Access) -> None:
    client = access.clients["submit"]
    secret = "hunter2"
    answer = client.post(
        "/v1/jobs/submit",
        json={"command": f"echo {secret}", "envars": {"PASSWORD": secret}},
        headers={"X-Request-Id": "my-request/1"},
    )
    assert answer.headers["X-Request-Id"] == "my-request/1"
    client.post("/v1/jobs/submit", json={"command": f'"{secret}'})
    client.post("/v1/service/stop", headers={"X-Request-Id": "bad id\tx"})
    client.get("/v1/jobs", headers={"Authorization": f"Bearer {secret}"})
    client.post("/v1/jobs/bulk", content=b'{"command":"true"}\n{"command":""}\n')
    events = eventually(lambda: found if len(found := audit(access.server)) >= 7 else None)
    done, failed, refused, unknown, bulk = events[-5:]
    assert (done["action"], done["outcome"], done["status"]) == ("jobs_submit", "done", 200)
    assert (done["caller"], done["method"], done["address"]) == ("submit", "token", "127.0.0.1")
    assert (done["request_id"], done["details"]["job"]) == ("my-request/1", answer.json()["f58id"])
    assert (failed["outcome"], failed["status"], failed["reason"]) == ("failed", 400, "Invalid request")
    assert (refused["action"], refused["outcome"], refused["status"]) == ("service_stop", "refused", 403)
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]+", refused["request_id"])
    assert (unknown["action"], unknown["status"], unknown["caller"]) == ("jobs_list", 401, "")
    assert bulk["details"]["accepted"] == bulk["details"]["refused"] == 1
    assert secret not in access.server.text()
    assert not any(token in access.server.text() for token in access.tokens.tokens.values())


def test_abandoned_requests_are_audited(access: Access) -> None:
    """A submit continues after its client has disconnected: the job exists, and the audit event contains it."""
    with _bulk(access, "submit") as bulk:
        bulk.send('{"command":"true","name":"left-alone"}')
        eventually(lambda: access.clients["read"].get("/v1/jobs", params={"name": "left-alone"}).json()["jobs"])
    (event,) = eventually(lambda: [each for each in audit(access.server) if each["action"] == "jobs_bulk"])
    assert (event["outcome"], event["caller"], event["details"]["accepted"]) == ("abandoned", "submit", 1)

    def some_abandoned() -> bool:
        """Disconnect during some submits, and return whether one of them was accepted after that."""
        for _ in range(20):
            with contextlib.suppress(httpx.ReadTimeout):
                access.clients["submit"].post(
                    "/v1/jobs/submit", json={"command": "true", "name": "gone"}, timeout=0.002
                )
        found = [each["details"] for each in audit(access.server)]
        return any(each.get("abandoned") and each.get("job") for each in found)

    eventually(some_abandoned, what="an abandoned submit")

    def all_audited() -> bool:
        listed = access.clients["read"].get("/v1/jobs", params={"name": "gone"}).json()["jobs"]
        events = [each for each in audit(access.server) if each["action"] == "jobs_submit"]
        jobs = {each["details"].get("job") for each in events if each["outcome"] == "done"}
        return len(listed) > 0 and {job["f58id"] for job in listed} <= jobs

    eventually(all_audited, what="an event for each job")


class _Bulk:
    """A bulk submit that stays open while lines are sent."""

    def __init__(self, connection: socket.socket, answer: BufferedReader) -> None:
        self._connection = connection
        self._answer = answer

    def send(self, line: str) -> None:
        data = line.encode() + b"\n"
        self._connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def read(self) -> bytes:
        """Return the next line of the response; empty at its end."""
        try:
            return self._answer.readline()
        except OSError:
            return b""


@contextlib.contextmanager
def _bulk(access: Access, name: str) -> Iterator[_Bulk]:
    headers = "".join(f"{name}: {value}\r\n" for name, value in access.tokens.headers(name).items())
    head = f"POST /v1/jobs/bulk HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{headers}\r\n"
    host, port = access.server.url.removeprefix("http://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as connection,
        connection.makefile("rb") as answer,
    ):
        connection.sendall(head.encode())
        yield _Bulk(connection, answer)


def _revoke(access: Access, name: str) -> None:
    text = access.tokens.path.read_text()
    access.tokens.path.write_text("".join(line for line in text.splitlines(True) if not line.startswith(f"{name}:")))


def test_revoked_token_ends_streams_and_waits(access: Access) -> None:
    """A stream can stay open for days, so its credential is revalidated."""
    job = access.jobs["submit"].replace("ƒ", "f")
    paths = ("/v1/events", f"/v1/jobs/{job}/events", f"/v1/jobs/{job}/output/stream")
    with ExitStack() as stack:
        streams = {
            (name, path): stack.enter_context(Stream(ask(access.server.url, path, **access.tokens.headers(name))))
            for name in ("read", "admin")
            for path in paths
        }
        waiting = stack.enter_context(
            ask(access.server.url, f"/v1/jobs/{job}?wait=60", **access.tokens.headers("read"))
        )
        wrong = {"Authorization": "Bearer wrong"}  # a failed-login limit must not delay the revocation
        eventually(
            lambda: access.server.http.get("/v1/jobs", headers=wrong).status_code == 429,
            what="the end of the failed-login limit",
        )
        _revoke(access, "read")
        for path in paths:
            *_, last = streams["read", path]
            assert (last.event, last.data["reason"]) == ("end", "unauthenticated")
        assert b"HTTP/1.1 401 " in waiting.recv(100)
        assert access.clients["admin"].post(f"/v1/jobs/{job}/cancel").status_code == 200
        *_, last = streams["admin", paths[1]]
        assert (last.event, last.data["reason"]) == ("end", "ended")


def test_revoked_token_ends_a_bulk_submit(access: Access) -> None:
    """A bulk submit can stay open as long as a stream."""
    with _bulk(access, "submit") as bulk:
        bulk.send('{"command":"true","name":"before"}')
        eventually(lambda: b'"line":1,"status":200' in bulk.read(), what="the first line's result")
        _revoke(access, "submit")
        eventually(lambda: access.clients["submit"].get("/v1/jobs").status_code == 401, what="end of the token")
        while bulk.read():
            pass
        with contextlib.suppress(OSError):
            bulk.send('{"command":"true","name":"after"}')
    assert access.clients["admin"].get("/v1/jobs", params={"name": "after"}).json()["jobs"] == []
    assert access.submit("admin")


def test_launchers_require_admin(access: Access) -> None:
    """A launcher runs beside the server, and could read everything that the server can."""
    body = {"command": "nextflow run", "is_launcher": True}
    assert "admin" in problem(access.clients["submit"].post("/v1/jobs/submit", json=body), 403)["detail"]


def test_duplicate_authorization_headers_are_rejected(access: Access) -> None:
    value = access.tokens.headers("read")["Authorization"]
    with httpx.Client(base_url=access.server.url, timeout=60) as http:
        assert http.get("/v1/jobs", headers=[("Authorization", value)]).status_code == 200
        twice = http.get("/v1/jobs", headers=[("Authorization", value), ("Authorization", "Bearer other")])
        problem(twice, 401)


def test_anonymous_requests_do_not_flood_the_audit_log(access: Access) -> None:
    before = len(audit(access.server))
    with httpx.Client(base_url=access.server.url, timeout=60) as anonymous:
        for _ in range(300):
            assert anonymous.post("/logout").status_code == 303
    assert 0 < len(audit(access.server)) - before < 100


def test_token_file_is_reloaded(access: Access) -> None:
    """Kubernetes replaces a mounted Secret as a whole; here the file is replaced under its name."""
    client = access.clients["read"]
    assert client.get("/v1/jobs").status_code == 200
    kept = [line for line in access.tokens.path.read_text().splitlines() if not line.startswith("read:")]
    new = access.tokens.path.with_name("new")
    new.write_text("\n".join(["# the next version", *kept, "broken line", ""]))
    later = TokenFile(new.parent / "more", later="read")
    new.write_text(new.read_text() + later.path.read_text())
    new.replace(access.tokens.path)
    eventually(lambda: client.get("/v1/jobs").status_code == 401, what="end of the revoked token")
    with later.client(access.server, "later") as later_client:
        assert later_client.get("/v1/whoami").json() == {
            "name": "later", "scopes": ["read"], "method": "token", "expires": None,
        }  # fmt: skip
    assert access.clients["admin"].get("/v1/jobs").status_code == 200
    assert "a line of the token file is left out" in access.server.text()
    access.tokens.path.unlink()
    eventually(lambda: access.clients["admin"].get("/v1/jobs").status_code == 401, what="end of all tokens")
