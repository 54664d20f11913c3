"""Threads for operations that may block; calls are executed in order.

When the interpreter ends, it waits for the executors of the standard library, so a disk that does not respond would
keep the process alive. These threads are daemons, and their owner waits for them with a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Call(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    work: Callable[[], Any]


class Workers:
    """Some threads, and the queue of their calls.

    Args:
        count: number of threads.
        name: prefix of the threads' names.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._started: dict[int, float] = {}
        """Start of the current call of each busy thread (:func:`time.monotonic`), by the thread's number."""

    @property
    def longest_call(self) -> float:
        """Seconds since the start of the oldest call that has not ended; 0 if all threads are idle."""
        started = list(self._started.values())
        return time.monotonic() - min(started) if started else 0.0

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Call ``work`` in a thread, after all calls before.

        Returns:
            A future with the result or the exception. A call is skipped if its future is cancelled before it starts.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._threads:
            for number in range(self._count):
                name = f"{self._name}-{number}"
                thread = threading.Thread(target=self._work, args=(number,), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._calls.put(_Call(loop, future, work))
        return future

    def close(self) -> None:
        """End the threads after all calls before."""
        for _ in self._threads:
            self._calls.put(None)
        self._threads = []

    def _work(self, number: int) -> None:
        while (call := self._calls.get()) is not None:
            if call.future.cancelled():
                continue
            self._started[number] = time.monotonic()
            value, error = None, None
            try:
                value = call.work()
            except BaseException as exc:  # raised where the future is awaited
                error = exc
            del self._started[number]
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                call.loop.call_soon_threadsafe(_complete, call.future, value, error)
            del call, value, error


def _complete(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
