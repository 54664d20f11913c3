"""Tokens of a Secret: a change takes effect before the kubelet has updated the mounted file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from sidecar.auth import tokens
from sidecar.cluster.rules import SECRET
from tests.support.access import TokenFile
from tests.support.cluster_api import ClusterAPI
from tests.support.harness import Server, eventually
from tests.support.kubernetes_api import FAILING, GARBAGE

NAME = "mc-callers"


@pytest.fixture
def file(tmp_path: Path, api: ClusterAPI) -> TokenFile:
    """The file as mounted by the kubelet."""
    made = TokenFile(tmp_path / "mounted", alice="admin", bob="read")
    api.secrets[NAME] = {"tokens": made.path.read_text()}
    return made


embedded = pytest.mark.parametrize("own_server", ["embedded"], indirect=True)  # allocation is not under test


def serve(own_server: Callable[..., Server], api: ClusterAPI, file: TokenFile) -> Server:
    return own_server(*api.options, *file.options, "--tokens-secret", NAME)


def status(server: Server, file: TokenFile, name: str) -> int:
    return httpx.get(f"{server.url}/v1/whoami", headers=file.headers(name), timeout=30).status_code


@embedded
def test_revoked_token_is_rejected_before_the_file_changes(
    own_server: Callable[..., Server], api: ClusterAPI, file: TokenFile
) -> None:
    server = serve(own_server, api, file)
    assert [status(server, file, name) for name in ("alice", "bob")] == [200, 200]
    old = file.path.read_text()
    token, line = tokens.make_token("carol", ["submit"])
    file.tokens["carol"] = token
    api.secrets[NAME]["tokens"] = f"{old.splitlines()[0]}\n{line}\n"
    eventually(lambda: status(server, file, "bob") == 401, within=15, what="the end of the revoked token")
    assert [status(server, file, name) for name in ("alice", "carol")] == [200, 200]

    # The kubelet writes an older version later: revoked tokens stay revoked.
    file.path.write_text(f"{old}# written again\n")
    asked = len(api.requests)
    eventually(lambda: len(api.requests) > asked + 1, within=15, what="more reads of the Secret")
    assert status(server, file, "bob") == 401

    # The Secret is deleted: none of its tokens is valid any more.
    del api.secrets[NAME]
    eventually(lambda: status(server, file, "alice") == 401, within=15, what="the end of all tokens")


@embedded
def test_file_is_used_if_the_secret_cannot_be_read(
    own_server: Callable[..., Server], api: ClusterAPI, file: TokenFile
) -> None:
    api.role.discard("get secrets")
    server = serve(own_server, api, file)
    eventually(
        lambda: str(SECRET) in server.text().replace("\\", ""), within=15, what="the log line about the missing rule"
    )
    second = file.path.read_text().partition("\n")[2]
    file.path.write_text(second)
    eventually(lambda: status(server, file, "alice") == 401, within=15, what="the file to be read")
    assert status(server, file, "bob") == 200


@embedded
@pytest.mark.parametrize("trouble", [FAILING, GARBAGE])
def test_failing_api_server_revokes_no_tokens(
    own_server: Callable[..., Server], api: ClusterAPI, file: TokenFile, trouble: object
) -> None:
    api.trouble["get secrets"] = trouble  # type: ignore[assignment]
    server = serve(own_server, api, file)
    eventually(lambda: "cannot be read" in server.text(), within=15, what="the log line about the failure")
    assert status(server, file, "alice") == 200
    del api.trouble["get secrets"]
    api.secrets[NAME]["tokens"] = "# none"
    eventually(lambda: status(server, file, "alice") == 401, within=15, what="the Secret to be read")
