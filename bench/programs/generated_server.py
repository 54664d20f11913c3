"""The server beside an instance that has a generated history (:mod:`bench.programs.generated_jobs`), without Flux.

Arguments: number of ended jobs, then options of ``serve --embedded``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sidecar.app import components, server
from sidecar.cli import main
from sidecar.config.settings import Settings


class _Components(components.Components):
    def __init__(self, settings: Settings, directory: Path) -> None:
        super().__init__(settings, directory)
        self.feed.history.open = self._open_generated

    async def _open_generated(self) -> tuple[int, list[str]]:
        return JOBS, [sys.executable, "-m", "bench.programs.generated_jobs", str(JOBS), str(self.store.path)]


if __name__ == "__main__":
    JOBS = int(sys.argv.pop(1))
    vars(server)["Components"] = _Components
    main()
