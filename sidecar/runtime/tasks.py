"""Background tasks that are supervised, after kopf's guarded tasks.

:func:`asyncio.create_task` alone keeps an exception until the task object is collected, and nothing else notices that
the task has ended. Here each death is logged once with its cause and traceback, counted, shown in ``/readyz?verbose``,
and answered as fits: the task starts again after a pause, or the server ends.
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
"""What follows a death: ``restart`` runs the task again, with a growing pause; ``end`` ends the server with a failure;
``note`` does nothing else, for what must not run twice or has its own answer."""

CLOSE_TIMEOUT = 2.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # seconds before a task that has died runs again
_HEALTHY = 60.0  # seconds that a task has to run before its deaths no longer count as deaths in a row
_HOPELESS = 5  # deaths in a row
_LONGEST_CAUSE = 500  # characters


class Record:
    """What has become of the tasks of one name."""

    def __init__(self, name: str, *, vital: bool) -> None:
        self.name = name
        self.vital = vital
        """Whether the server is not ready while a task of this name is dead."""
        self.deaths = 0
        self.in_a_row = 0
        """Deaths since a task of this name last ran for a minute."""
        self.down = False
        """Whether the task that died last has not been started again."""
        self.cause = ""
        """Of the last death."""
        self.died = 0.0
        """When that was (:func:`time.monotonic`)."""

    @property
    def hopeless(self) -> bool:
        """Whether to start the task again has not helped, so that only a restart of the process may."""
        return self.vital and self.in_a_row >= _HOPELESS

    def __str__(self) -> str:
        """Return the line of ``/readyz?verbose``."""
        times = f"{self.deaths} times" if self.deaths > 1 else "once"
        again = "is not running" if self.down else "runs again"
        ago = time.monotonic() - self.died
        return f"task {self.name} has died {times}, last {ago:.0f} s ago, and {again}: {self.cause}"


class Supervised:
    """A task that a :class:`Supervisor` runs."""

    def __init__(self, name: str, task: asyncio.Task[None]) -> None:
        self.name = name
        self.task = task
        """Ends when the work has ended and will not be run again."""

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> bool:  # noqa: ASYNC109 - logged, not raised
        """Cancel the task and wait for its end.

        Args:
            timeout: how long to wait, in seconds; what has not ended then is logged and left.

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
        end: called with the cause when a task dies without which the server must not go on (``on_death="end"``).
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
        """Run a task. It may return, which is its end; an exception, or a cancellation from inside, is a death.

        Args:
            work: returns a new coroutine for each time that the task is run.
            name: of the task, or of all tasks of its kind: it is a label of a metric.
            on_death: what follows a death, see :data:`OnDeath`.
            vital: the server is not ready while the task is dead, and not alive when it has died again and again.
            context: for the log lines, such as what tells one task of this name from another.
        """
        record = self._records.setdefault(name, Record(name, vital=vital))
        task = asyncio.create_task(self._run(work, record, on_death, context), name=name)
        supervised = self._running[task] = Supervised(name, task)
        task.add_done_callback(self._running.pop)
        return supervised

    def note(self, name: str, exc: BaseException) -> None:
        """Note a death that something else than this supervisor has answered, such as a thread that begins anew."""
        record = self._records.setdefault(name, Record(name, vital=False))
        self._died(record, exc, {}, None)
        record.down = False

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> None:  # noqa: ASYNC109 - logged, not raised
        """Cancel every task that still runs, and wait for all of them at once; see :meth:`Supervised.close`."""
        await asyncio.gather(*(each.close(timeout) for each in list(self._running.values())))

    @property
    def dead(self) -> list[Record]:
        """Vital tasks that are not running."""
        return [each for each in self._records.values() if each.vital and each.down]

    @property
    def hopeless(self) -> list[Record]:
        """Vital tasks that have died again and again: only a restart of the process may help."""
        return [each for each in self._records.values() if each.hopeless and each.down]

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
            begin = time.monotonic()
            try:
                await work()
            except asyncio.CancelledError as exc:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                cause: BaseException = exc  # what it waited for was cancelled, not the task
            except Exception as exc:
                cause = exc
            else:
                record.down = False
                return
            if time.monotonic() - begin > _HEALTHY:
                record.in_a_row, pause = 0, _FIRST_PAUSE
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
        record.deaths, record.in_a_row, record.down, record.died = (
            record.deaths + 1, record.in_a_row + 1, True, time.monotonic(),
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
