"""The output of running jobs, for who follows it: watched once for each job, however many readers there are.

A reader is only a line number. The last lines are kept in memory for all; who is further behind reads them from the
instance once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from sidecar.errors import Problem, Unavailable
from sidecar.feed import Feed
from sidecar.instance import Instance
from sidecar.output import Assembler, Line, Output, Stream
from sidecar.store import Store
from sidecar.tail import Wakeups

log = structlog.get_logger("output")

_KEPT = 4 * 1024 * 1024  # bytes of each job's last lines
_GATHER = 0.05  # lines that come within this time go out together
_AGAIN = 0.5
_FORGET = 5.0  # after the last read of somebody who is far behind
_RENDERED = 32


class Follower:
    """The output of one job, as it comes."""

    def __init__(self, job: int, instance: Instance, feed: Feed, store: Store) -> None:
        self._job = job
        self._instance = instance
        self._feed = feed
        self._store = store
        self._lines: list[Line] = []
        self._size = 0
        self._first = 0  # the number of the first line that is kept
        self._skip = 0
        self._watch = 0  # the number of the watch that is listened to; what another one still tells is not
        self._assembler = Assembler()
        self._all: list[Line] = []  # for who is far behind, while there is somebody
        self._reading = asyncio.Lock()
        self._forgetting: asyncio.TimerHandle | None = None
        self._waking = False
        self._wakeups = Wakeups()
        self._task = asyncio.create_task(self._run(), name=f"output of {job}")
        self.readers = 0
        self.rendered: dict[tuple[int, int, Stream, bool], bytes] = {}
        """What was sent last, ready-made: most readers are equally far."""
        self.ended = False
        """Whether the job has ended and every line is known."""

    @property
    def count(self) -> int:
        """How many lines there are so far."""
        return self._first + len(self._lines)

    def close(self) -> None:
        """Watch no longer."""
        self._task.cancel()
        if self._forgetting:
            self._forgetting.cancel()

    async def wait(self, after: int) -> None:
        """Wait until there are more than ``after`` lines, or no more will come."""
        while self.count <= after and not self.ended:
            if self._feed.tail.closed:
                raise self._feed.tail.closed
            await self._wakeups.wait()

    async def read(self, after: int, upto: int) -> Sequence[Line]:
        """Return the lines behind the first ``after``, to the one of number ``upto``."""
        if after >= self._first:
            return self._lines[after - self._first : upto - self._first]
        async with self._reading:  # once for all who are behind
            if len(self._all) < upto:
                output = await self._instance.output(self._job)
                self._all = [*output.lines, *output.rest] if self.ended else output.lines
            if self._forgetting:
                self._forgetting.cancel()
            self._forgetting = asyncio.get_running_loop().call_later(_FORGET, self._all_read)
            return self._all[after:upto]

    def _all_read(self) -> None:
        self._all = []

    def remember(self, key: tuple[int, int, Stream, bool], data: bytes) -> None:
        """Keep what was sent, for the next reader who is as far."""
        if len(self.rendered) >= _RENDERED:
            del self.rendered[next(iter(self.rendered))]
        self.rendered[key] = data

    async def _run(self) -> None:
        """Watch until the job has ended; then read once more, for that is all there will ever be."""
        while not self.ended:
            watching: asyncio.Task[None] | None = None
            try:
                while True:
                    with self._feed.change(self._job) as change:  # before the look: nothing comes between the two
                        state = await self._store.state(self._job) or "INACTIVE"
                        if state == "INACTIVE":
                            break
                        if state in ("RUN", "CLEANUP") and watching is None:
                            watching = asyncio.create_task(self._instance.watch_output(self._job, self._listen()))
                        await self._next(change, watching)
                self._finish(await self._instance.output(self._job))
            except Problem as exc:
                log.info("output cannot be followed, will retry", job=self._job, reason=exc.detail)
                self._wake()
                if self._feed.tail.closed:
                    return
                await asyncio.sleep(_AGAIN)
            finally:
                self._watch += 1
                if watching:
                    watching.cancel()

    async def _next(self, change: asyncio.Future[None], watching: asyncio.Task[None] | None) -> None:
        """Wait for the job's next event; a watch that fails is raised, one that ends has seen everything."""
        if self._feed.tail.closed:
            raise Unavailable("the server is stopping")
        waiting: set[asyncio.Future[None]] = {change}
        if watching is not None and not watching.done():
            waiting.add(watching)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if watching is not None and watching.done():
            watching.result()

    def _listen(self) -> Callable[[str], None]:
        """Return what takes the entries of a new watch, which tells the output from its beginning."""
        self._skip, self._assembler = self.count, Assembler()
        number = self._watch

        def take(eventlog: str) -> None:
            if number == self._watch:
                self._take(eventlog)

        return take

    def _take(self, eventlog: str) -> None:
        lines = self._assembler.feed(eventlog)
        if self._skip:
            skipped = min(self._skip, len(lines))
            self._skip -= skipped
            del lines[:skipped]
        self._keep(lines)

    def _finish(self, output: Output) -> None:
        self._watch += 1  # what it has told already may still be on its way here, and would come twice
        self._keep([*output.lines, *output.rest][self.count :])
        self.ended = True
        self._wake()

    def _keep(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        self.rendered.clear()
        self._lines += lines
        self._size += sum(len(line.data) for line in lines)
        if self._size > 2 * _KEPT:
            drop = 0
            while self._size > _KEPT and drop < len(self._lines) - 1:
                self._size -= len(self._lines[drop].data)
                drop += 1
            del self._lines[:drop]
            self._first += drop
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_later(_GATHER, self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._wakeups.wake()


class Followers:
    """One follower for each job that somebody follows."""

    def __init__(self, instance: Instance, feed: Feed, store: Store) -> None:
        self._instance = instance
        self._feed = feed
        self._store = store
        self._jobs: dict[int, Follower] = {}

    def join(self, job: int) -> Follower:
        """Return the follower of a job's output; give it back with :meth:`leave`."""
        follower = self._jobs.get(job)
        if follower is None:
            follower = self._jobs[job] = Follower(job, self._instance, self._feed, self._store)
        follower.readers += 1
        return follower

    def leave(self, job: int) -> None:
        """Stop watching when nobody follows any more."""
        follower = self._jobs[job]
        follower.readers -= 1
        if not follower.readers:
            follower.close()
            del self._jobs[job]
