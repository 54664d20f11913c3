"""Supervised background tasks, after kopf's guarded tasks.

With :func:`asyncio.create_task` alone, an exception is not reported until the task object is collected, and nothing
else notices that the task has ended. The supervisor logs each death once with its cause and traceback, counts it,
shows it in ``/readyz?verbose``, and restarts the task after a pause or ends the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal

import structlog

log = structlog.get_logger("tasks")

Work = Callable[[], Coroutine[Any, Any, None]]
OnDeath = Literal["restart", "end", "note"]
"""Reaction to a death: ``restart`` runs the task again, after a pause that grows; ``end`` ends the server with a
failure; ``note`` only records it, for tasks that must not run twice or have their own error handling."""

CLOSE_TIMEOUT = 2.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # seconds before a task is restarted
_HEALTHY = 60.0  # seconds after which the deaths of a running task no longer count as consecutive
_CRASH_LOOP = 5  # consecutive deaths
_LONGEST_CAUSE = 500  # characters


class Record:
    """The deaths of the tasks of one name."""

    def __init__(self, name: str, *, vital: bool) -> None:
        self.name = name
        self.vital = vital
        """Whether the server is not ready while a task of this name is not running."""
        self.deaths = 0
        self.consecutive = 0
        """Deaths since a task of this name last ran for a minute."""
        self.down = False
        """Whether the task that died last has not been restarted."""
        self.cause = ""
        """Cause of the last death."""
        self.died = 0.0
        """Time of the last death (:func:`time.monotonic`)."""

    @property
    def crash_looping(self) -> bool:
        """Whether restarts do not help, so that only a restart of the process may."""
        return self.vital and self.consecutive >= _CRASH_LOOP

    def __str__(self) -> str:
        """Return the line of ``/readyz?verbose``."""
        times = f"{self.deaths} times" if self.deaths > 1 else "once"
        again = "is not running" if self.down else "runs again"
        ago = time.monotonic() - self.died
        return f"task {self.name} has died {times}, last {ago:.0f} s ago, and {again}: {self.cause}"


class Supervised:
    """A task of a :class:`Supervisor`."""

    def __init__(self, name: str, task: asyncio.Task[None]) -> None:
        self.name = name
        self.task = task
        """Ends when the work has ended and will not be restarted."""

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> bool:  # noqa: ASYNC109 - logged, not raised
        """Cancel the task and wait for its end.

        Args:
            timeout: seconds; a task that takes longer is logged and abandoned.

        Returns:
            Whether it has ended.
        """
        self.task.cancel()
        _, pending = await asyncio.wait([self.task], timeout=timeout)
        if pending:
            log.error("a background task does not end; it is left behind", task=self.name, after=timeout)
        return not pending


class Supervisor:
    """Runs all background tasks of one server.

    Args:
        died: called with the name of a task that has died, to count it.
        end: called with the cause if the server cannot continue without the task (``on_death="end"``).
    """

    def __init__(self, died: Callable[[str], None] | None = None, end: Callable[[str], None] | None = None) -> None:
        self._count = died
        self._end = end
        self._records: dict[str, Record] = {}
        self._running: dict[asyncio.Task[None], Supervised] = {}

    def start(
        self,
        work: Work,
        name: str,
        *,
        on_death: OnDeath = "restart",
        vital: bool = False,
        **context: object,
    ) -> Supervised:
        """Run a task. If it returns, it has ended; an exception, or a cancellation from inside, is a death.

        Args:
            work: returns a new coroutine each time the task is run.
            name: of the task, or of all tasks of its kind; the label of a metric.
            on_death: see :data:`OnDeath`.
            vital: the server is not ready while the task is not running, and not alive while it is crash-looping.
            context: for the log, such as what distinguishes tasks of the same name.
        """
        record = self._records.setdefault(name, Record(name, vital=vital))
        task = asyncio.create_task(self._run(work, record, on_death, context), name=name)
        supervised = self._running[task] = Supervised(name, task)
        task.add_done_callback(self._running.pop)
        return supervised

    def record_death(self, name: str, exc: BaseException) -> None:
        """Record a death outside of this supervisor that was already handled, such as that of a restarted thread."""
        record = self._records.setdefault(name, Record(name, vital=False))
        self._died(record, exc, {}, None)
        record.down = False

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> None:  # noqa: ASYNC109 - logged, not raised
        """Cancel all running tasks, and wait for all of them; see :meth:`Supervised.close`."""
        await asyncio.gather(*(each.close(timeout) for each in list(self._running.values())))

    @property
    def dead(self) -> list[Record]:
        """Vital tasks that are not running."""
        return [each for each in self._records.values() if each.vital and each.down]

    @property
    def crash_looping(self) -> list[Record]:
        """Vital tasks that have died again and again."""
        return [each for each in self._records.values() if each.crash_looping and each.down]

    def __iter__(self) -> Iterator[Record]:
        """All tasks that have ever died."""
        return (each for each in self._records.values() if each.deaths)

    async def _run(
        self,
        work: Work,
        record: Record,
        on_death: OnDeath,
        context: dict[str, object],
    ) -> None:
        pause = _FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                await work()
            except asyncio.CancelledError as exc:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                cause: BaseException = exc  # a future that the task awaits was cancelled, not the task
            except Exception as exc:
                cause = exc
            else:
                record.down = False
                return
            if time.monotonic() - started > _HEALTHY:
                record.consecutive, pause = 0, _FIRST_PAUSE
            self._died(record, cause, context, pause if on_death == "restart" else None)
            if on_death == "end" and self._end:
                self._end(f"task {record.name}: {record.cause}")
            if on_death != "restart":
                return
            del cause  # it refers to this frame
            await asyncio.sleep(pause)
            record.down, pause = False, min(2 * pause, _LONGEST_PAUSE)

    def _died(self, record: Record, exc: BaseException, context: dict[str, object], pause: float | None) -> None:
        cause, again = f"{type(exc).__name__}: {exc}"[:_LONGEST_CAUSE], record.deaths > 0
        same, record.cause = cause == record.cause, cause
        record.deaths, record.consecutive, record.down, record.died = (
            record.deaths + 1, record.consecutive + 1, True, time.monotonic(),
        )  # fmt: skip
        if self._count:
            self._count(record.name)
        if again and same:  # its traceback was logged the first time
            log.error(
                "a background task has died again", task=record.name, cause=cause, deaths=record.deaths,
                again_after=pause, **context,
            )  # fmt: skip
        else:
            log.error(
                "a background task has died", task=record.name, cause=cause, again_after=pause, exc_info=exc, **context
            )
