"""Servers that require credentials, and their callers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from sidecar.auth import tokens
from tests.support.harness import Server

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


def audit(server: Server) -> list[dict[str, Any]]:
    """Return the audit events so far, of a server that logs JSON."""
    lines = [line for line in server.text().splitlines() if line.startswith("{")]
    return [entry for line in lines if (entry := json.loads(line)).get("event") == "audit"]
