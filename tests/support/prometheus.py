"""A real Prometheus server, for tests: it scrapes every second, and is queried over HTTP as by Grafana."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.support.harness import PLAIN, Process, eventually

_CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: {rules}
scrape_configs:
{jobs}
"""


class Prometheus(Process):
    """Debian's package.

    Args:
        directory: for its data and log.
        jobs: what to scrape: the list ``scrape_configs``, as YAML.
        rules: files of rules.
    """

    def __init__(self, directory: Path, jobs: str, rules: Sequence[Path] = ()) -> None:
        directory.mkdir(parents=True)
        config = directory / "prometheus.yaml"
        config.write_text(_CONFIG.format(rules=[str(path) for path in rules], jobs=jobs))
        super().__init__(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            directory,
        )
        address = eventually(self._address, what="Prometheus's address")
        self._client = httpx.Client(base_url=f"http://{address}", timeout=60, verify=PLAIN)
        eventually(self._ready, what="Prometheus")

    def _address(self) -> str:
        assert self.popen.poll() is None, self.text()
        found = re.search(r"Listening on.* address=(\S+)", self.text())
        return found[1] if found else ""

    def _ready(self) -> bool:
        assert self.popen.poll() is None, self.text()
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current series of an expression."""
        answer = self._client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])

    def close(self) -> None:
        self._client.close()
        super().close()
