"""Drain and undrain of nodes, with both engines. Several nodes are tested in tests/flux."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.test_errors import problem
from tests.support.harness import Server, eventually


def node(server: Server) -> dict[str, Any]:
    (found,) = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"]
    return dict(found)


@pytest.mark.parametrize("by", ["name", "rank"])
def test_drained_node_gets_no_jobs(own_server: Callable[..., Server], by: str) -> None:
    server = own_server()
    name = node(server)[by]
    running = server.submit("sleep 600")
    server.state(running, "RUN")
    answer = server.http.post(f"/v1/nodes/{name}/drain", json={"reason": "a fan is loud"})
    assert answer.status_code == 200, answer.text
    (drained,) = answer.json()["nodes"]
    assert (drained["state"], drained["reason"], drained["rank"]) == ("drained", "a fan is loud", 0)
    assert drained["up"]
    assert answer.json()["updated"] > 0
    assert (node(server)["state"], node(server)["reason"]) == ("drained", "a fan is loud")
    waiting = server.submit("true")
    server.state(waiting, "SCHED")
    server.http.post(f"/v1/jobs/{running}/cancel")
    server.ended(running)
    assert server.job(waiting)["state"] == "SCHED"
    detail = problem(server.http.post(f"/v1/nodes/{name}/drain", json={"reason": "other"}), 409)["detail"]
    assert detail == "The node cannot be drained: rank 0 already drained."
    assert node(server)["reason"] == "a fan is loud"
    answer = server.http.post(f"/v1/nodes/{name}/undrain")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["nodes"][0]["reason"], node(server)["reason"]) == ("", "")
    assert node(server)["state"] != "drained"
    assert server.ended(waiting)["result"] == "COMPLETED"
    eventually(lambda: node(server)["state"] == "free")


def test_reason_can_be_added_later(own_server: Callable[..., Server]) -> None:
    server = own_server()
    assert server.http.post("/v1/nodes/0/drain").json()["nodes"][0]["reason"] == ""
    answer = server.http.post("/v1/nodes/0/drain", data={"reason": "now known"})
    assert answer.json()["nodes"][0]["reason"] == "now known"


@pytest.mark.parametrize("verb", ["drain", "undrain"])
@pytest.mark.parametrize("name", ["elsewhere", "1", "00", "-1", "0-1", "%00", "ƒ"])
def test_unknown_nodes(server: Server, verb: str, name: str) -> None:
    detail = problem(server.http.post(f"/v1/nodes/{name}/{verb}"), 404)["detail"]
    assert "There is no node" in detail
    assert f"the nodes are: {node(server)['name']}." in detail


def test_undrain_requires_a_drained_node(server: Server) -> None:
    detail = problem(server.http.post("/v1/nodes/0/undrain"), 409)["detail"]
    assert detail == "The node cannot be undrained: rank 0 not drained."


@pytest.mark.parametrize(("verb", "body", "text"), [
    ("drain", {"reason": "x" * 1001}, "reason: expected text of at most 1000 characters"),
    ("drain", {"reason": ["x"]}, "reason: expected text"),
    ("drain", {"message": "x"}, "'message' is not a parameter here"),
    ("undrain", {"reason": "x"}, "'reason' is not a parameter here"),
])  # fmt: skip
def test_invalid_parameters_change_nothing(server: Server, verb: str, body: dict[str, Any], text: str) -> None:
    assert text in problem(server.http.post(f"/v1/nodes/0/{verb}", json=body), 400)["detail"]
    assert node(server)["state"] != "drained"
