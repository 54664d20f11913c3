"""Run one server in this process, from its start to its end."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import structlog

from sidecar.app.components import cluster
from sidecar.app.failures import SOFTWARE_ERROR, USAGE_ERROR
from sidecar.app.server import Server
from sidecar.cluster import end_file
from sidecar.config import secrets
from sidecar.config.rundir import make_run_directory
from sidecar.config.settings import Settings
from sidecar.config.values import SettingsError
from sidecar.http.listeners import app_runner
from sidecar.runtime import termination
from sidecar.runtime.memory import configure_malloc
from sidecar.runtime.parts import close_within
from sidecar.services.lifecycle import Lifecycle, ServerFailed

log = structlog.get_logger("server")

# Seconds.
_REMOVE, _END_FILE = 2.0, 3.0
_START_CONTINUES, _START_CANCELLED = 1.0, 2.0


async def serve(settings: Settings, announce: Callable[[list[str]], None]) -> None:
    """Run a server until it is stopped.

    Args:
        settings: checked options.
        announce: called with the addresses once the server listens.

    Raises:
        OSError: a file that is needed cannot be read or written.
        StoreError: the store cannot be opened.
        SettingsError: the address cannot be listened on, or the instance belongs to another user.
        ServerFailed: this pod has ended already, or a task that the server needs has died.
    """
    configure_malloc()
    if settings.kubernetes.end_file and (verdict := end_file.read(Path(settings.kubernetes.end_file))):
        raise ServerFailed(f"this pod has ended already: {verdict.reason}")
    directory = make_run_directory(settings)
    server = Server(settings, directory.path)
    components, lifecycle, signals = server.components, server.components.lifecycle, server.components.signals
    secrets.hide_secrets()
    if settings.authenticates:
        secrets.forbid_inspection()
    signals.install()
    try:
        async with AsyncExitStack() as stack:
            with _bounded(components.deadline):
                starting = asyncio.create_task(_start(stack, server, settings), name="start")
                if await _has_started(starting, lifecycle):
                    urls = starting.result()
                    components.store.note_address(" and ".join(urls))
                    announce(urls)
                await lifecycle.run()
        components.deadline.done()
        if settings.kubernetes.linger:
            await signals.linger(settings.kubernetes.linger)
    finally:
        if not directory.lasting and (lifecycle.instance_ended or not directory.shared):
            remove = functools.partial(shutil.rmtree, directory.path, ignore_errors=True)
            await close_within("run directory", lambda: asyncio.to_thread(remove), _REMOVE)
        await close_within("end file", components.pod.close, _END_FILE)


async def report_failure(settings: Settings, text: str) -> None:
    """Record a Kubernetes Event that says why the server did not start; outside a cluster do nothing."""
    if settings.kubernetes.no_cluster or settings.kubernetes.completion_index:
        return
    try:
        found = cluster(settings)
    except SettingsError:
        return
    try:
        await found.record_event("StartFailed", text, warning=True)
    finally:
        await found.close()


async def _start(stack: AsyncExitStack, server: Server, settings: Settings) -> list[str]:
    """Start all parts and listen; return the addresses."""
    runner = await stack.enter_async_context(app_runner(server.application()))
    metrics = None
    if settings.telemetry.metrics_port:
        metrics = await stack.enter_async_context(app_runner(server.metrics_application()))
    return await server.components.listeners.listen(runner, metrics)


async def _has_started(starting: asyncio.Task[list[str]], lifecycle: Lifecycle) -> bool:
    """Wait for the end of the start, or for a stop before it: a start may hang, for instance in a file system."""
    left = asyncio.create_task(lifecycle.wait_until_leaving(), name="left")
    await asyncio.wait([starting, left], return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if starting.done():
        return True
    log.info("the server leaves before it has started")
    for timeout in (_START_CONTINUES, _START_CANCELLED):  # parts that are half started are harder to close
        await asyncio.wait([starting], timeout=timeout)
        starting.cancel()
    return False


@contextmanager
def _bounded(deadline: termination.Deadline) -> Iterator[None]:
    """Start the deadline of the close at the latest when the block ends, and set its exit code from the error."""
    try:
        yield
    except ServerFailed:
        deadline.code = SOFTWARE_ERROR
        raise
    except Exception:
        deadline.code = USAGE_ERROR
        raise
    finally:
        deadline.begin()
