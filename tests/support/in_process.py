"""A server with the embedded engine in the tests' own process: on a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from sidecar.app import Server
from sidecar.http.listeners import app_runner
from tests.support.harness import API, PATIENCE
from tests.support.settings import make_settings


class InProcess(API):
    """A server that shares the tests' process: without signals, a log of its own, and a pid of its own.

    Args:
        directory: the run directory.
        options: of the server, by their names in :class:`~sidecar.config.settings.Settings`.
    """

    def __init__(self, directory: Path, **options: object) -> None:
        self._settings = make_settings(embedded=True, host="127.0.0.1", port=0, **options)
        self._settings.check()
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._urls: list[str] = []
        self._listens = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server")
        self._thread.start()
        assert self._listens.wait(PATIENCE), "the server does not listen"
        if self._failure:
            raise self._failure

    @property
    def url(self) -> str:
        return self._urls[0]

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as exc:
            self._failure = exc
            raise
        finally:
            self._listens.set()

    async def _serve(self) -> None:
        server = Server(self._settings, self._directory)
        async with app_runner(server.application()) as runner:
            self._urls = await server.components.listeners.listen(runner, None)
            self._listens.set()
            await self._stop.wait()

    def close(self) -> None:
        self.close_client()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server does not end"
