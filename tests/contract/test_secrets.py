"""Mounted Secrets, updated as by the kubelet: the files are links through ..data, which is replaced."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest

from tests.contract.test_tls import serial
from tests.support import odd_files
from tests.support.access import TokenFile
from tests.support.authority import Authority, options
from tests.support.harness import Server, embedded, eventually

Start = Callable[[Server], Server]


def mount(directory: Path, version: str, files: Mapping[str, Path]) -> None:
    """Write a version of a Secret, and replace the previous one as AtomicWriter does: one rename for all files."""
    (directory / version).mkdir(parents=True)
    for name, file in files.items():
        (directory / version / name).write_bytes(file.read_bytes())
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    new = directory / "..data_tmp"
    new.symlink_to(version)
    new.replace(directory / "..data")


def test_tokens(tmp_path: Path, started: Start) -> None:
    old, new = TokenFile(tmp_path / "old", old="read"), TokenFile(tmp_path / "new", new="read")
    secret = tmp_path / "secret"
    mount(secret, "..first", {"tokens": old.path})
    server = started(embedded(tmp_path, "--tokens", str(secret / "tokens"))).ready()
    with old.client(server, "old") as before, new.client(server, "new") as after:
        assert before.get("/v1/whoami").json()["name"] == "old"
        assert after.get("/v1/whoami").status_code == 401
        mount(secret, "..second", {"tokens": new.path})
        eventually(lambda: before.get("/v1/whoami").status_code == 401, what="end of the old token")
        assert after.get("/v1/whoami").json()["name"] == "new"


def test_certificate(tmp_path: Path, started: Start) -> None:
    authority = Authority(tmp_path)
    secret = tmp_path / "secret"
    names = ("tls.crt", "tls.key")
    mount(secret, "..first", dict(zip(names, authority.serve(), strict=True)))
    server = started(embedded(tmp_path, *options((secret / "tls.crt", secret / "tls.key"))))
    first = serial(server, authority)
    mount(secret, "..second", dict(zip(names, authority.serve(), strict=True)))
    eventually(lambda: serial(server, authority) != first, what="the new certificate")
    with httpx.Client(base_url=server.url, verify=authority.context()) as client:
        assert client.get("/livez").status_code == 200
    assert "is not used" not in server.text()


@pytest.mark.parametrize("how", odd_files.ODD)
def test_irregular_files(tmp_path: Path, started: Start, how: str) -> None:
    """The files become a FIFO, a device or an endless file: the server continues, and stops cleanly."""
    authority, tokens = Authority(tmp_path), TokenFile(tmp_path, alice="admin")
    pair = authority.serve()
    server = started(embedded(tmp_path, *tokens.options, *options(pair)))
    first = serial(server, authority)
    memory = server.memory
    with httpx.Client(base_url=server.url, verify=authority.context(), headers=tokens.headers("alice")) as client:
        assert client.get("/v1/jobs").status_code == 200
        why = odd_files.put(pair[1], how)
        eventually(lambda: f"server.key {why}" in server.text(), what="the log line about the key")
        assert client.get("/v1/jobs").status_code == 200
        why = odd_files.put(tokens.path, how)
        eventually(lambda: client.get("/v1/jobs").status_code == 401, what="the end of the tokens")
        assert f"{tokens.path} {why}" in server.text()
        assert serial(server, authority) == first
    assert server.memory - memory < 16 << 20
    server.signal(signal.SIGTERM)
    assert server.wait(20) == 0
