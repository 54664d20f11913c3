"""Close the parts of the server in reverse order of their start, and run the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger("server")

_CLOSE = 2.0  # seconds
_CANCEL = 1.0  # seconds, for tasks that are left at the end


class Parts:
    """A stack of started parts; an error or a hang of one does not prevent the others from being closed."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Return the stack."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all parts, the last one first."""
        await self._stack.aclose()

    def add(self, name: str, close: Callable[[], Coroutine[Any, Any, object]], timeout: float = _CLOSE) -> None:
        """Add a part.

        Args:
            name: for the log.
            close: closes the part.
            timeout: seconds; a part that takes longer is logged and abandoned.
        """
        self._stack.push_async_callback(close_within, name, close, timeout)


async def close_within(name: str, close: Callable[[], Coroutine[Any, Any, object]], seconds: float) -> None:
    """Close a part within some seconds; log an error or a timeout, and continue.

    :func:`asyncio.wait_for` would wait until the cancelled task has ended.
    """
    task = asyncio.create_task(close(), name=f"close {name}")
    _, pending = await asyncio.wait([task], timeout=seconds)
    if pending:
        task.cancel()
        log.error("a part of the server does not close; it is left behind", part=name, after=seconds)
    elif not task.cancelled() and (exc := task.exception()):
        log.error("a part of the server could not be closed", part=name, exc_info=exc)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like :func:`asyncio.run`, without waiting for tasks and threads that do not end."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            loop.run_until_complete(_cancel_remaining())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


async def _cancel_remaining() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    _, pending = await asyncio.wait(tasks, timeout=_CANCEL)
    if pending:
        log.error("tasks do not end; they are left behind", tasks=sorted(task.get_name() for task in pending))
