"""Return unused memory to the operating system.

glibc retains freed memory between allocations that are still in use, and raises the size above which an allocation is
returned when it is freed: after a burst of requests a process would stay as large as it was.

A connection that is closed while its peer has more requests in flight is a reference cycle with all data that it has
read. The interpreter counts objects, not bytes: without an explicit collection such garbage would stay for minutes.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
import time
from collections.abc import Callable
from typing import IO

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt(3)
_BLOCK = 128 * 1024  # bytes; larger allocations are returned when they are freed
_ARENAS = 2  # heaps, for any number of threads; each reserves 64 MiB of addresses
_INTERVAL = 2.0  # seconds
_COLLECT = 4.0  # minimum of seconds between garbage collections, while memory use has grown
_WORTH_IT = 16 * 1024 * 1024  # bytes; a trim takes some milliseconds
_MALLINFO = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class _Mallinfo2(ctypes.Structure):
    """The result of mallinfo2(3)."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO)

    @property
    def used(self) -> int:
        """Bytes that are allocated, with those that are mapped on their own."""
        return int(self.uordblks + self.hblkhd)


def configure_malloc() -> None:
    """Make glibc return memory early; no effect with another C library."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _BLOCK)
    mallopt(_TRIM_THRESHOLD, _BLOCK)
    mallopt(_ARENA_MAX, _ARENAS)


async def trim_periodically() -> None:
    """Return free memory to the operating system whenever it is worth it.

    Returns immediately if the C library does not report free memory (glibc before 2.33, and others).
    """
    try:
        library = ctypes.CDLL(None)
        mallinfo, trim = library.mallinfo2, library.malloc_trim
    except (OSError, AttributeError):
        return
    mallinfo.restype = _Mallinfo2
    with _statm() as statm:  # stays open: later there may be no free file descriptor
        await _trim(statm, mallinfo, trim)


async def _trim(statm: IO[bytes], mallinfo: Callable[[], _Mallinfo2], trim: Callable[[int], int]) -> None:
    gc.collect()
    gc.freeze()  # objects of the start live as long as the process: exclude them from collections
    least, floor, collected = _resident(statm) - mallinfo().used, _resident(statm), time.monotonic()
    while True:
        await asyncio.sleep(_INTERVAL)
        if _resident(statm) - floor >= _WORTH_IT and time.monotonic() - collected >= _COLLECT:
            gc.collect()
            collected = time.monotonic()
        heap, resident = mallinfo(), _resident(statm)
        # Not the heap's free memory: that is counted as free also after it was returned.
        unused = resident - heap.used
        least, floor = min(least, unused), min(floor, resident)
        if heap.fordblks >= _WORTH_IT and unused - least >= _WORTH_IT:
            await asyncio.to_thread(trim, 0)
            after = _resident(statm)
            if resident - after < _WORTH_IT:  # the rest is between allocations, so that it cannot be returned
                least = after - mallinfo().used


def _statm() -> IO[bytes]:
    return open("/proc/self/statm", "rb", buffering=0)


def _resident(statm: IO[bytes]) -> int:
    """Return the resident memory of this process in bytes."""
    statm.seek(0)
    return int(statm.read().split()[1]) * resource.getpagesize()
