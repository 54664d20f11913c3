"""Options that are read before the command line is parsed, and the role of a follower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config import early
from tests.support.settings import make_settings


@pytest.mark.parametrize(
    ("arguments", "variables", "role"),
    [
        ("serve --uri local:///run/local", {"JOB_COMPLETION_INDEX": "2"}, (2, "/run/local", 30)),
        ("serve --uri=local:///run/local", {"JOB_COMPLETION_INDEX": "2"}, (2, "/run/local", 30)),
        ("serve", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, (1, "/f", 30)),
        ("serve", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f", "FLUX_SIDECAR_URI": "local:///s"}, (1, "/s", 30)),
        ("serve --completion-index 3 --uri local:///f --follower-wait 5", {}, (3, "/f", 5)),
        ("serve", {"FLUX_SIDECAR_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f", "FLUX_SIDECAR_FOLLOWER_WAIT": "1.5"}, (1, "/f", 1.5)),
        ("serve --uri local:///f", {"JOB_COMPLETION_INDEX": "1", "FLUX_SIDECAR_LINGER": "9"}, (1, "/f", 30)),
        ("serve --uri local:///run/local", {}, None),
        ("serve --uri local:///run/local", {"JOB_COMPLETION_INDEX": "0"}, None),
        ("serve --uri local:///run/local", {"JOB_COMPLETION_INDEX": ""}, None),
        ("serve --completion-index 0 --uri local:///f", {"JOB_COMPLETION_INDEX": "1"}, None),
        ("serve --embedded", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, None),
        ("serve --help", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, None),
        ("serve --uri local:///f --follower-wait 1m30s", {"JOB_COMPLETION_INDEX": "1"}, (1, "/f", 90)),
        ("serve --uri local:///f --follower-wait soon", {"JOB_COMPLETION_INDEX": "1"}, None),
        ("serve --uri", {"JOB_COMPLETION_INDEX": "1"}, None),
        ("openapi", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, None),
        ("", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, None),
    ],
)  # fmt: skip
def test_the_role_of_a_follower(
    monkeypatch: pytest.MonkeyPatch, arguments: str, variables: dict[str, str], role: tuple[Any, ...] | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    actual = early.early_role(arguments.split())
    assert (actual and (actual.index, actual.socket, actual.wait)) == role
    assert actual is None or actual.linger == float(variables.get("FLUX_SIDECAR_LINGER", 0))


def test_the_uri_of_the_operators_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "OPERATOR", str(tmp_path))
    expected = f"local://{tmp_path}/run/flux/local"
    monkeypatch.delenv("FLUX_URI", raising=False)
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    assert make_settings().located().jobs.uri == ""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert make_settings().located().jobs.uri == expected
    assert make_settings(embedded=True).located().jobs.uri == ""
    assert make_settings(uri="local:///own").located().jobs.uri == "local:///own"
    # A follower's pod uses it without parsing the command line.
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    role = early.early_role(["serve"])
    assert role is not None
    assert (role.index, role.socket) == (2, expected.removeprefix("local://"))
    # A variable takes precedence, even if it is empty; a pod of another Job has no such directory.
    monkeypatch.setenv("FLUX_URI", "")
    assert early.operator_uri() == ""
    monkeypatch.delenv("FLUX_URI")
    monkeypatch.setattr(early, "OPERATOR", str(tmp_path / "none"))
    assert early.operator_uri() == ""
