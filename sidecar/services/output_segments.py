"""Decoded chunks of output eventlogs: each is read and decoded once for all readers and cached within a limit."""

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
from sidecar.domain.output import Run
from sidecar.domain.output_eventlog import Assembler
from sidecar.domain.partial import hold, release

log = structlog.get_logger("output")

_CACHE_SIZE = 6 * 1024 * 1024  # bytes of decoded chunks, for all logs
_CONCURRENT = 2  # chunks that are read and decoded at the same time
RUN_COST = 250  # bytes of memory for a run, besides its data
_OPEN_LINE_COST = 200  # bytes of memory for an incomplete line, besides its data
_SLICE = 256 * 1024  # bytes of a chunk that the decoding thread processes before it yields to other threads
_IN_THREAD = 16 * 1024  # bytes from which on a chunk is decoded in a thread
_MANY_OPEN_LINES = 200  # incomplete lines from which on every chunk is decoded in a thread
_MAX_REPORTED = 1000  # jobs


class Segment:
    """The content of one chunk of an eventlog, for a reader that has read the chunk before it.

    Args:
        runs: the lines that end in the chunk.
        after: the state of the assembler after the chunk.
        read: size of the chunk in bytes.
    """

    def __init__(self, runs: Sequence[Run], after: Assembler, read: int) -> None:
        self.runs = runs
        self.ends = list(accumulate(run.length for run in runs))
        self.count = self.ends[-1] if runs else 0
        self.after = after if after.state else None
        """The state after the chunk; None if no line or entry is incomplete there."""
        self.redirected = after.redirected
        self.read = read
        self.unreadable = after.unreadable, after.reason
        self.size = sum(len(run.data) + RUN_COST for run in runs) + len(after.open_lines) * _OPEN_LINE_COST + RUN_COST
        """Bytes in memory, without the incomplete lines, which segments share."""


#: Jobid, index and cache key of a chunk, and the state before it.
Key = tuple[int, int, tuple[int, int], bytes]
Load = Callable[[], Awaitable[bytes]]


class Segments:
    """The segments of all logs that were used last."""

    def __init__(self) -> None:
        self._cache: OrderedDict[Key, Segment] = OrderedDict()
        self.size = 0
        """Bytes in the cache."""
        self._states: weakref.WeakValueDictionary[tuple[int, bytes], Assembler] = weakref.WeakValueDictionary()
        self._loading: dict[Key, asyncio.Task[Segment]] = {}
        self._slots = asyncio.Semaphore(_CONCURRENT)
        self._thread = ThreadPoolExecutor(1, "output")  # one: each thread has memory of its own
        self._reported: OrderedDict[int, None] = OrderedDict()

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._cache.values())

    async def get(self, key: Key, state: Assembler | None, load: Load | None) -> Segment:
        """Return a segment. Concurrent requests for the same one share the read and the decoding.

        Args:
            key: which segment.
            state: the state before the chunk.
            load: reads the chunk; None at the end of the log, for the lines without a newline.

        Raises:
            Problem: the chunk cannot be read.
        """
        segment = self._cache.get(key)
        if segment is not None:
            self._cache.move_to_end(key)
            return segment
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.create_task(self._load(key, state, load), name="output chunk")
            loading.add_done_callback(lambda done: done.cancelled() or done.exception())  # all readers may have left
        return await asyncio.shield(loading)

    async def _load(self, key: Key, state: Assembler | None, load: Load | None) -> Segment:
        try:
            async with self._slots:
                data = await load() if load else None
                large = len(data or b"") > _IN_THREAD
                if large or (state and (state.waiting > _IN_THREAD or len(state.open_lines) > _MANY_OPEN_LINES)):
                    segment = await asyncio.get_running_loop().run_in_executor(self._thread, _decode, state, data)
                else:
                    segment = _decode(state, data)
            if segment.unreadable[0]:
                self._report_unreadable(key[0], segment.unreadable[1])
            self._add(key, segment)
            return segment
        except Problem:
            raise
        except Exception as exc:
            log.exception("a chunk of a job's output cannot be read", job=key[0], piece=key[1])
            raise Problem(f"The output cannot be read: {type(exc).__name__}.") from exc
        finally:
            del self._loading[key]

    def _report_unreadable(self, jobid: int, reason: str) -> None:
        """Log once per job that entries of its log were skipped."""
        if jobid not in self._reported:
            log.warning("entries of an output log are left out: they cannot be read", job=jobid, reason=reason)
        self._reported[jobid] = None
        self._reported.move_to_end(jobid)
        if len(self._reported) > _MAX_REPORTED:
            self._reported.popitem(last=False)

    def _add(self, key: Key, segment: Segment) -> None:
        if segment.after:  # share the state that readers still have of an evicted segment
            segment.after = self._states.setdefault((key[0], segment.after.state), segment.after)
        self._cache[key] = segment
        self.size += segment.size + (hold(segment.after.parts) if segment.after else 0)
        while self.size > _CACHE_SIZE and len(self._cache) > 1:
            _, evicted = self._cache.popitem(last=False)
            self.size -= evicted.size + (release(evicted.after.parts) if evicted.after else 0)


def _decode(state: Assembler | None, data: bytes | None) -> Segment:
    """Decode a chunk in slices: other threads wait for the GIL meanwhile."""
    if data is None:
        return Segment(state.rest() if state else [], Assembler(), 0)
    assembler = state.copy() if state else Assembler()
    runs: list[Run] = []
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + _SLICE) + 1 or len(data)
        runs += assembler.feed(data[start:end])
        start = end
        time.sleep(0)
    return Segment(runs, assembler, len(data))
