"""Read the jobs that had ended before the journal was followed, in a process of their own.

The journal begins with the active jobs, so that the server is ready at once. All others come from here, as frames that
another process has folded and encoded (:mod:`sidecar.history`): the server only writes them. If that process ends
before the history does, another one continues: it leaves out the jobs that the store has by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog

from sidecar.journal import history_frame
from sidecar.journal.history_frame import Frame
from sidecar.runtime.tasks import Supervised, Supervisor

log = structlog.get_logger("feed")

_AHEAD = 2  # frames that wait to be written; the process waits meanwhile
_TAKEN = 60.0  # seconds until the process is killed if its frame is not taken: the broker queues responses for it
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds before the next process is started
_END_TIMEOUT = 0.8  # seconds in which a killed process ends, unless a disk hangs
_LOG_INTERVAL = 10.0  # seconds
_READ = 1024 * 1024  # bytes that are read ahead

Open = Callable[[], Awaitable[tuple[int, Sequence[str]]]]
"""Returns the number of ended jobs that the instance has, and the command that reads them."""


class HistoryProgress(NamedTuple):
    """How far the history is read."""

    read: int
    """Number of ended jobs that were read."""
    total: int
    """Number of ended jobs that the instance had when the reading began; 0 while it is not known."""
    problem: str
    """Why the history is not read now; empty while it is."""

    def __str__(self) -> str:
        """Return a sentence for people."""
        amount = f"{self.read:,} of {self.total:,} jobs" if self.total else f"{self.read:,} jobs"
        return f"The history is being read: {amount} that have ended{f'; {self.problem}' if self.problem else ''}."


class History:
    """The process that reads the history, and its frames that wait to be written.

    Args:
        available: called when there is a frame to take.
    """

    def __init__(self, available: Callable[[], None]) -> None:
        self.open: Open | None = None
        """Opens the history of the instance; None: the journal had all jobs."""
        self._available = available
        self._frames: deque[Frame] = deque()
        self._writing = False
        self._changed = asyncio.Event()
        self._task: Supervised | None = None
        self._logged = 0.0
        self.progress = HistoryProgress(0, 0, "")
        """How far the history is read."""

    def __len__(self) -> int:
        """Return the number of frames that can be taken."""
        return len(self._frames)

    async def restart(self, tasks: Supervisor) -> None:
        """Start to read the history from its beginning; the last frame has ``complete`` set."""
        await self.stop()
        self.progress, self._logged = HistoryProgress(0, 0, ""), time.monotonic()
        self._task = tasks.start(self._run, "history reader")

    async def stop(self) -> None:
        """End the process and drop its frames; it no longer has the store open when this returns."""
        if self._task:
            await self._task.close()
            self._task = None
        self._frames.clear()
        self._writing = False

    def take(self) -> Frame:
        """Remove the first frame, to be followed by :meth:`written`."""
        frame, self._writing = self._frames.popleft(), True
        total = max(frame.read, self.progress.total)  # further jobs may have ended
        self.progress = HistoryProgress(frame.read, total, "")
        if time.monotonic() - self._logged > _LOG_INTERVAL and not frame.complete:
            log.info("history is being read", jobs=frame.read, of=total)
            self._logged = time.monotonic()
        return frame

    def written(self) -> None:
        """Note that the frame that was taken last is in the store."""
        self._writing = False
        self._changed.set()

    async def drained(self) -> None:
        """Wait until the store has all frames: the next process looks up there what it can leave out."""
        while self._frames or self._writing:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # ------------------------------------------------------------------------------------------------ the task

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            read = self.progress.read
            failure = await self._attempt()
            if not failure:
                return
            log.warning("the history is not read; this is retried", reason=failure, after=pause, jobs=read)
            self.progress = self.progress._replace(problem=failure)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _attempt(self) -> str:
        """Read the history; return why that has failed, or an empty text."""
        await self.drained()
        try:
            total, command = await self.open() if self.open else (0, ())
            self.progress = HistoryProgress(0, total, "")
            if not total:
                await self.put(Frame(0, complete=True))
                return ""
            return await self._read(command)
        except Exception as exc:  # the instance does not respond, or the process cannot be started
            return f"{type(exc).__name__}: {exc}"

    async def _read(self, command: Sequence[str]) -> str:
        """Run the process and take its frames; it has ended when this returns."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=_READ)
        try:
            while True:
                frame = await _next_frame(process.stdout)
                if frame.failure:
                    return frame.failure
                try:
                    async with asyncio.timeout(_TAKEN):
                        await self.put(frame)
                except TimeoutError:
                    return f"the jobs that were read have not been stored for {_TAKEN:g} s"
                if frame.complete:
                    return ""
        except (asyncio.IncompleteReadError, msgspec.DecodeError, ValueError) as exc:
            if not isinstance(exc, asyncio.IncompleteReadError):
                return f"the process that reads it has sent no frame: {exc}"
            _kill(process)
            return f"the process that reads it has ended, with {await process.wait()}"
        finally:
            await _end(process)

    async def put(self, frame: Frame) -> None:
        """Add a frame; wait while enough of them wait to be written."""
        while len(self._frames) >= _AHEAD:
            await self._change()
        self._frames.append(frame)
        self._available()


async def _next_frame(stream: asyncio.StreamReader | None) -> Frame:
    """Read a frame.

    Raises:
        IncompleteReadError: the stream ends.
        ValueError: it is no frame.
    """
    if stream is None:
        raise ValueError("it has no standard output")
    [size] = history_frame.HEADER.unpack(await stream.readexactly(history_frame.HEADER.size))
    if size > history_frame.LARGEST:
        raise ValueError(f"its size would be {size} bytes")
    return history_frame.decode(await stream.readexactly(size))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a process and wait for its end; a task that is cancelled meanwhile waits all the same."""
    _kill(process)
    ending = asyncio.create_task(process.communicate(b""))  # reads what is left, so that its pipes are closed
    try:
        await asyncio.wait([ending], timeout=_END_TIMEOUT)
    except asyncio.CancelledError:
        await asyncio.wait([ending], timeout=_END_TIMEOUT)
        raise


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process; not by its own method, which may reap the process before asyncio's watcher does."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
