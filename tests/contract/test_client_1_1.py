"""The client of flux-restful 1.1.0 from PyPI, unchanged: its library and its command line, with and without a login."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.test_login import LOGIN, PASSWORD, SECRET, USER
from tests.support import predecessor
from tests.support.harness import Server, eventually

_COMMAND = "from flux_restful.client.commands import run_flux_restful_client as run; run()"
_LIBRARY = """
import json, sys
from flux_restful.client.main import get_client
client = get_client(**json.loads(sys.argv[1]))
calls = json.loads(sys.argv[2])
print(json.dumps([getattr(client, name)(*arguments, **named) for name, arguments, named in calls]))
"""


def _python(server: Server, code: str, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(predecessor.installed()), "FLUX_RESTFUL_HOST": server.url}
    return subprocess.run(
        [sys.executable, "-c", code, *argv], env=environment | variables, text=True, capture_output=True, timeout=120
    )


def _calls(server: Server, *calls: tuple[str, list[Any], dict[str, Any]], **login: str) -> list[Any]:
    done = _python(server, _LIBRARY, json.dumps({"host": server.url, **login}), json.dumps(calls))
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.mark.parametrize("login", [{}, {"user": USER, "token": PASSWORD, "secret_key": SECRET}], ids=["open", "login"])
def test_library(own_server: Callable[..., Server], login: dict[str, str]) -> None:
    server = own_server(**(LOGIN if login else {}))
    options = {"envars": {"A": "b c"}, "option_flags": {"verbose": "1"}, "num_tasks": 1, "exclusive": False}
    [submitted] = _calls(server, ("submit", ["printenv A"], options), **login)
    job = submitted["id"]

    def ended() -> bool:
        [found] = _calls(server, ("jobs", [job], {}), **login)
        return bool(found["state"] == "INACTIVE")

    eventually(ended)
    output, one, plain, keyed, listed, found, nodes, cancelled, missing = _calls(
        server,
        ("output", [job], {}),
        ("jobs", [job], {}),
        ("jobs", [], {}),
        ("jobs", [], {"detail": True}),
        ("jobs", [], {"detail": True, "listing": True}),
        ("search", ["printenv"], {"start": 0, "length": 5}),
        ("list_nodes", [], {}),
        ("cancel", [job], {}),
        ("jobs", [12345], {}),
        **login,
    )
    assert output["Output"] == ["b c\n"]
    assert (one["returncode"], one["submitter"]) == (0, USER if login else "")
    assert [each["id"] for each in plain["jobs"]] == [job]
    assert list(keyed) == [str(job)]
    assert [each["id"] for each in listed] == [job]
    assert found["recordsFiltered"] == 1
    assert len(nodes["nodes"]) == 1
    assert "cannot be cancelled" in cancelled["Message"]
    assert missing is None
    [stopped] = _calls(server, ("stop_service", [], {}), **login)
    assert "Message" in stopped
    assert server.wait() == 0


@pytest.mark.parametrize("login", [False, True], ids=["open", "login"])
def test_command(own_server: Callable[..., Server], login: bool) -> None:
    variables = LOGIN if login else {}
    server = own_server(**variables)

    def cli(*arguments: str) -> str:
        done = _python(server, _COMMAND, *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    job = json.loads(
        cli("submit", "--num_tasks", "2", "--workdir", "/usr", "--env", "GREETING=hello world", "printenv", "GREETING")
    )["id"]
    eventually(lambda: json.loads(cli("info", str(job)))["state"] == "INACTIVE")
    assert json.loads(cli("info", str(job)))["cwd"] == "/usr"
    assert cli("logs", str(job)) == "hello world\nhello world\n"
    assert [each["id"] for each in json.loads(cli("list-jobs"))["jobs"]] == [job]
    assert len(json.loads(cli("list-nodes"))["nodes"]) == 1
    assert "cannot be cancelled" in json.loads(cli("cancel", str(job)))["Message"]
    cli("stop-service")
    assert server.wait() == 0


def test_stream_of_the_client_is_broken_by_itself(server: Server) -> None:
    """It fails before it sends a request; the request that it means is answered."""
    done = _python(server, _LIBRARY.replace("getattr(client, name)(", "list(getattr(client, name)(").replace("named) for", "named)) for"),
                   json.dumps({"host": server.url}), json.dumps([("stream_output", [1], {})]))  # fmt: skip
    assert "AttributeError" in done.stderr
    job = server.run(["echo", "hello"])["id"]
    server.ended(job)
    answer = server.http.get(f"/v1/jobs/{job}/output/stream")
    assert answer.status_code == 200
    assert '"data":"hello\\n"' in answer.text


def test_body_of_envars(server: Server) -> None:
    """1.1 reads the parameters from the query, and the whole JSON body as the environment."""
    answer = server.http.post(
        "/v1/jobs/submit", params={"command": "env", "num_tasks": 1}, json={"A": "1", "http_proxy": "x", "NAME": "n"}
    )
    assert answer.status_code == 200, answer.text
    server.ended(answer.json()["id"])
    output = "".join(server.http.get(f"/v1/jobs/{answer.json()['id']}/output").json()["Output"]).splitlines()
    assert {"A=1", "http_proxy=x", "NAME=n"} <= set(output)


@pytest.mark.parametrize(
    ("query", "body", "text"),
    [
        ({"command": "env"}, {"num_task": "2"}, "did you mean num_tasks?"),
        ({"command": "env"}, {"A": "1", "num_task": "2"}, "did you mean num_tasks?"),
        ({"command": "env"}, {"name": "x", "A": "1"}, "'A' is not a parameter here"),
        ({"command": "env"}, {"A": 1}, "envars"),
        ({"command": "env"}, {"A": {"B": "1"}}, "envars"),
        ({"num_tasks": "1"}, {"A": "1"}, "'command' is minimally required"),
        ({"command": "env", "envars": '{"B": "1"}'}, {"A": "1"}, "'A' is not a parameter here"),
    ],
    ids=str,
)
def test_bodies_that_are_no_envars(server: Server, query: dict[str, str], body: dict[str, Any], text: str) -> None:
    answer = server.http.post("/v1/jobs/submit", params=query, json=body)
    assert answer.status_code == 400, answer.text
    assert text in answer.json()["detail"]


def test_parameters_in_query_and_body(server: Server) -> None:
    """Our own form: the body has parameters, and so may the query."""
    answer = server.http.post("/v1/jobs/submit", params={"command": "true"}, json={"name": "mine", "urgency": 0})
    assert answer.status_code == 200, answer.text
    assert server.http.get(f"/v1/jobs/{answer.json()['id']}").json()["name"] == "mine"
