"""Jobs in the dialect of flux-rest-server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.domain import rest_info
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import ExceptionInfo, Job

ALL = rest_info.parse_attributes("")


def described(attrs: str = "", **fields: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "id": 1000, "f58id": "ƒHF", "userid": 1, "username": "alice", "submitter": "", "urgency": 16, "state": "SCHED",
        "name": "true", "command": ["true"], "cwd": "/", "queue": "", "t_submit": 1.0,
    }  # fmt: skip
    info = rest_info.describe(Job(**{**defaults, **fields}), rest_info.parse_attributes(attrs), 100.0)
    decoded = msgspec.json.decode(msgspec.json.encode(info))
    assert isinstance(decoded, dict)
    return decoded


def test_unknown_values_are_left_out() -> None:
    assert described() == {
        "id": "fJF", "userid": 1, "username": "alice", "urgency": 16, "state": "SCHED", "status": "SCHED", "name": "true",
        "cwd": "/", "t_submit": 1.0, "dependencies": [], "annotations": {}, "exception": {"occurred": False},
    }  # fmt: skip


def test_times_of_a_running_job() -> None:
    running: dict[str, Any] = {"state": "RUN", "t_run": 40.0, "duration": 100.0}
    found = described("runtime,t_remaining,expiration", expiration=140.0, **running)
    assert found == {"id": found["id"], "runtime": 60.0, "t_remaining": 40.0, "expiration": 140.0}
    assert "t_remaining" not in described(expiration=0.0, **running)
    assert "t_remaining" not in described(expiration=90.0, **running)
    assert described("runtime", **{**running, "state": "CLEANUP"}, t_cleanup=45.0)["runtime"] == 5.0


def test_return_codes() -> None:
    assert described(state="CLEANUP", waitstatus=3 << 8)["returncode"] == 3
    assert described(state="CLEANUP", waitstatus=9)["returncode"] == -9
    assert described(state="INACTIVE", result="CANCELED", returncode=-128)["returncode"] == -128
    assert "returncode" not in described(state="INACTIVE", result="TIMEOUT")


def test_uri_of_an_instance_is_a_member_of_its_own() -> None:
    uri = "ssh://host/tmp/flux"
    found = described(annotations={"sched": {"x": 1}, "user": {"uri": uri, "note": "n"}})
    assert (found["uri"], found["annotations"]) == (uri, {"sched": {"x": 1}, "user": {"note": "n"}})
    assert described("annotations", annotations={"user": {"uri": uri}})["annotations"] == {}
    odd = {"user": ["uri"]}
    assert described(annotations=odd)["annotations"] == odd


def test_exception() -> None:
    exception = ExceptionInfo(True, 0, "cancel", "")
    found = described("exception_type", state="INACTIVE", exception=exception)
    assert found == {
        "id": found["id"],
        "exception": {"occurred": True, "severity": 0, "type": "cancel", "note": ""},
    }


@pytest.mark.parametrize("attrs", ["colour", "state,colour", "jobid", "exception_", "state;name", "\0"])
def test_unknown_attributes(attrs: str) -> None:
    with pytest.raises(InvalidRequest, match="unknown attribute"):
        rest_info.parse_attributes(attrs)


def test_all_attributes() -> None:
    assert rest_info.parse_attributes("all") == rest_info.parse_attributes(" , ") == ALL
