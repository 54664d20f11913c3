"""Parts that are started in order and closed in the reverse order, and the event loop that they run on."""

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
_CANCEL = 1.0  # seconds for tasks that are left at the end


class Parts:
    """Closes what was started, whatever has failed before: an error or a hang of one part keeps no other open."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Return this."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all parts, those first that were added last."""
        await self._stack.aclose()

    def add(self, name: str, close: Callable[[], Coroutine[Any, Any, object]], timeout: float = _CLOSE) -> None:
        """Have a part closed at the end.

        Args:
            name: for the log.
            close: ends it.
            timeout: how long that may take, in seconds; what has not ended then is logged and left.
        """
        self._stack.push_async_callback(close_within, name, close, timeout)


async def close_within(name: str, close: Callable[[], Coroutine[Any, Any, object]], seconds: float) -> None:
    """Close a part within some seconds; log what goes wrong, and go on.

    :func:`asyncio.wait_for` would not do: it waits until what it has cancelled has really ended.
    """
    task = asyncio.create_task(close(), name=f"close {name}")
    _, pending = await asyncio.wait([task], timeout=seconds)
    if pending:
        task.cancel()
        log.error("a part of the server does not close; it is left behind", part=name, after=seconds)
    elif not task.cancelled() and (exc := task.exception()):
        log.error("a part of the server could not be closed", part=name, exc_info=exc)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as :func:`asyncio.run` does, but wait neither for tasks nor for threads that do not end."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            loop.run_until_complete(_cancel_the_rest())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


async def _cancel_the_rest() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    _, pending = await asyncio.wait(tasks, timeout=_CANCEL)
    if pending:
        log.error("tasks do not end; they are left behind", tasks=sorted(task.get_name() for task in pending))
