"""Pieces of output eventlogs, read and decoded once for all readers, and kept for them up to a bound."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import structlog

from sidecar.domain.errors import Problem
from sidecar.domain.output import Assembler, Run
from sidecar.domain.partial import hold, release

log = structlog.get_logger("output")

_KEPT = 6 * 1024 * 1024  # bytes of decoded pieces, of all logs
_AT_ONCE = 2  # pieces that are read and decoded at a time
RUN_COST = 250  # bytes that a run costs beside its data
_LINE_COST = 200  # bytes that a line which is begun costs beside its own
_TURN = 256 * 1024  # bytes of a piece after which the thread that decodes lets others go on
_IN_THREAD = 16 * 1024  # a piece of more bytes is decoded in a thread
_OPEN_LINES = 200  # behind more lines that are begun, every piece is decoded in a thread
_REMEMBERED = 1000  # jobs whose unreadable entries were logged


class Segment:
    """What one piece of an eventlog holds, for a reader that comes from the piece before.

    Args:
        runs: the lines that are completed in it.
        after: what is behind it.
        read: how many bytes it has.
    """

    def __init__(self, runs: Sequence[Run], after: Assembler, read: int) -> None:
        self.runs = runs
        self.ends = list(accumulate(run.length for run in runs))
        self.count = self.ends[-1] if runs else 0
        self.after = after if after.state else None
        """What is begun at the end of the piece; None: nothing."""
        self.redirected = after.redirected
        self.read = read
        self.unreadable = after.unreadable, after.reason
        self.size = sum(len(run.data) + RUN_COST for run in runs) + len(after.open_lines) * _LINE_COST + RUN_COST
        """Bytes in memory, without what other segments may share of what is begun."""


#: Job, number and extent of a piece, and the state before it.
Key = tuple[int, int, tuple[int, int], bytes]
Load = Callable[[], Awaitable[bytes]]


class Segments:
    """The pieces of all logs that were decoded last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, Segment] = OrderedDict()
        self.size = 0
        """How many bytes are kept."""
        self._states: weakref.WeakValueDictionary[tuple[int, bytes], Assembler] = weakref.WeakValueDictionary()
        self._making: dict[Key, asyncio.Task[Segment]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._thread = ThreadPoolExecutor(1, "output")  # one: each thread keeps memory of its own
        self._reported: OrderedDict[int, None] = OrderedDict()

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._kept.values())

    async def get(self, key: Key, state: Assembler | None, load: Load | None) -> Segment:
        """Return a piece for a reader that comes with a state; it is read and decoded once for all waiters.

        Args:
            key: which.
            state: what is begun before it.
            load: reads the piece; None: there is none, the log ends here.

        Raises:
            Problem: it cannot be read.
        """
        segment = self._kept.get(key)
        if segment is not None:
            self._kept.move_to_end(key)
            return segment
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._make(key, state, load), name="output piece")
            making.add_done_callback(lambda done: done.cancelled() or done.exception())  # no reader may be left
        return await asyncio.shield(making)

    async def _make(self, key: Key, state: Assembler | None, load: Load | None) -> Segment:
        try:
            async with self._slots:
                data = await load() if load else None
                large = len(data or b"") > _IN_THREAD
                if large or (state and (state.waiting > _IN_THREAD or len(state.open_lines) > _OPEN_LINES)):
                    segment = await asyncio.get_running_loop().run_in_executor(self._thread, _decode, state, data)
                else:
                    segment = _decode(state, data)
            if segment.unreadable[0]:
                self._report(key[0], segment.unreadable[1])
            self._keep(key, segment)
            return segment
        except Problem:
            raise
        except Exception as exc:
            log.exception("a piece of a job's output cannot be read", job=key[0], piece=key[1])
            raise Problem(f"The output cannot be read: {type(exc).__name__}.") from exc
        finally:
            del self._making[key]

    def _report(self, job: int, reason: str) -> None:
        """Log once for each job that some of its log cannot be read."""
        if job not in self._reported:
            log.warning("entries of an output log are left out: they cannot be read", job=job, reason=reason)
        self._reported[job] = None
        self._reported.move_to_end(job)
        if len(self._reported) > _REMEMBERED:
            self._reported.popitem(last=False)

    def _keep(self, key: Key, segment: Segment) -> None:
        if segment.after:  # what a reader still has, of a segment that was forgotten meanwhile, is not kept twice
            segment.after = self._states.setdefault((key[0], segment.after.state), segment.after)
        self._kept[key] = segment
        self.size += segment.size + (hold(segment.after.parts) if segment.after else 0)
        while self.size > _KEPT and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self.size -= gone.size + (release(gone.after.parts) if gone.after else 0)


def _decode(state: Assembler | None, data: bytes | None) -> Segment:
    """Decode a piece, a part at a time: other threads wait for the interpreter's lock."""
    if data is None:
        return Segment(state.rest() if state else [], Assembler(), 0)
    assembler = state.copy() if state else Assembler()
    runs: list[Run] = []
    begin = 0
    while begin < len(data):
        end = data.rfind(b"\n", begin, begin + _TURN) + 1 or len(data)
        runs += assembler.feed(data[begin:end])
        begin = end
        time.sleep(0)
    return Segment(runs, assembler, len(data))
