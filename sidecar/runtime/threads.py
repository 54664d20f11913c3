"""Threads for what may take long: each call goes to one of them, in the order of the calls.

The executors of the standard library are waited for when the interpreter ends, so a disk that answers nothing would
hold the process for good. These threads are daemons, and the owner waits for them within its own bound.
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
    """Some threads, and the calls that wait for one of them.

    Args:
        count: number of threads.
        name: what each is called, with its number.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._began: dict[int, float] = {}
        """When each busy thread began its call (:func:`time.monotonic`), by the thread's number."""

    @property
    def stuck(self) -> float:
        """How long the call has taken that was begun first and has not ended (seconds); 0 when all threads rest."""
        began = list(self._began.values())
        return time.monotonic() - min(began) if began else 0.0

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Call ``work`` in a thread, after the calls that were made before.

        Returns:
            A future with its result or its exception. A call whose future was cancelled before it began is left out.
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
        """End the threads when they have done what was asked of them before."""
        for _ in self._threads:
            self._calls.put(None)
        self._threads = []

    def _work(self, number: int) -> None:
        while (call := self._calls.get()) is not None:
            if call.future.cancelled():
                continue
            self._began[number] = time.monotonic()
            value, error = None, None
            try:
                value = call.work()
            except BaseException as exc:  # it is raised where the call is awaited
                error = exc
            del self._began[number]
            with contextlib.suppress(RuntimeError):  # the loop has closed: the caller has left
                call.loop.call_soon_threadsafe(_settle, call.future, value, error)
            del call, value, error


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
