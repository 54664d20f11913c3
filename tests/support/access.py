"""Servers that require credentials, and their callers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from sidecar.auth import passwords, tokens, users
from sidecar.auth.passwords import Cost
from tests.support.harness import Server

WEAK = Cost(10, 8, 1)
"""Of passwords in tests: some milliseconds."""
SCOPES = ("read", "submit", "admin")


class TokenFile:
    """A file of tokens, and the tokens themselves."""

    def __init__(self, directory: Path, **callers: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "tokens"
        self.path.touch()
        self.tokens: dict[str, str] = {}
        for name, scopes in callers.items():
            self.add(name, scopes)

    def add(self, name: str, scopes: str) -> str:
        token, line = tokens.make_token(name, scopes.split(","))
        tokens.append_line(self.path, line)
        self.tokens[name] = token
        return token

    @property
    def options(self) -> tuple[str, str]:
        return "--tokens", str(self.path)

    def headers(self, name: str) -> dict[str, Any]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}

    def client(self, server: Server, name: str) -> httpx.Client:
        """Return a client with the credential of a caller."""
        return httpx.Client(base_url=server.url, timeout=60, headers=self.headers(name), verify=server.verify)


class Users:
    """A file of users, and their passwords; the hashes are the weakest that a server accepts."""

    def __init__(self, directory: Path, **callers: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "users"
        self.path.touch()
        self.passwords: dict[str, str] = {}
        for name, scopes in callers.items():
            self.put(name, scopes, f"the password of {name}")

    def put(self, name: str, scopes: str, password: str) -> None:
        """Add a user, or replace one."""
        hashed = passwords.make_hash(password, WEAK)
        users.put(self.path, name, scopes.split(","), hashed, replace=True)
        self.passwords[name] = password

    @property
    def options(self) -> tuple[str, str]:
        return "--users", str(self.path)

    def basic(self, name: str) -> tuple[str, str]:
        return name, self.passwords[name]


def audit(server: Server) -> list[dict[str, Any]]:
    """Return the audit events so far, of a server that logs JSON."""
    lines = [line for line in server.text().splitlines() if line.startswith("{")]
    return [entry for line in lines if (entry := json.loads(line)).get("event") == "audit"]
