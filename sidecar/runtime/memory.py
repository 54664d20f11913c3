"""Memory that is given back to the machine when it is no longer needed.

glibc keeps what was freed between two things that are still in use, and raises by itself the size from which on a
block is one of its own, which is given back at once: after a burst of requests a process stays as large as it was.

A connection that is closed while its peer has more requests on their way is a cycle of references, with all that it has
read. The interpreter counts objects and not bytes: without a look from here such garbage would stay for minutes.
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
_BLOCK = 128 * 1024  # bytes from which on a block is one of its own
_ARENAS = 2  # as many heaps, whatever the number of threads; each takes 64 MiB of addresses
_INTERVAL = 2.0  # seconds
_COLLECT = 4.0  # seconds from one collection of garbage to the next, while more memory is taken than at the start
_WORTH_IT = 16 * 1024 * 1024  # bytes: to give memory back takes some milliseconds
_BEFORE = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")


class _Mallinfo2(ctypes.Structure):
    """What mallinfo2(3) returns."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (*_BEFORE, "fordblks", "keepcost"))


def return_early() -> None:
    """Have the C library give memory back early, where it is glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_THRESHOLD, _BLOCK)
    mallopt(_TRIM_THRESHOLD, _BLOCK)
    mallopt(_ARENA_MAX, _ARENAS)


async def trim_now_and_then() -> None:
    """Have the C library give back what is free between blocks that are in use, whenever that is much.

    Where the C library does not tell how much is free (glibc before 2.33, and others) this returns at once.
    """
    try:
        library = ctypes.CDLL(None)
        mallinfo, trim = library.mallinfo2, library.malloc_trim
    except (OSError, AttributeError):
        return
    mallinfo.restype = _Mallinfo2
    with _statm() as statm:  # which is kept open: later there may be no descriptor for it
        await _trim(statm, mallinfo, trim)


async def _trim(statm: IO[bytes], mallinfo: Callable[[], _Mallinfo2], trim: Callable[[int], int]) -> None:
    gc.collect()
    gc.freeze()  # what the start has made stays: a collection need not look at it
    least, free_then = _resident(statm), 0
    floor, collected = least, time.monotonic()
    while True:
        await asyncio.sleep(_INTERVAL)
        if _resident(statm) - floor >= _WORTH_IT and time.monotonic() - collected >= _COLLECT:
            gc.collect()
            collected = time.monotonic()
        resident, free = _resident(statm), mallinfo().fordblks
        least, free_then, floor = min(least, resident), min(free_then, free), min(floor, resident)
        # What was given back counts as free all the same, until it is used again: then one of the two has grown.
        if free >= _WORTH_IT and max(resident - least, free - free_then) >= _WORTH_IT:
            await asyncio.to_thread(trim, 0)
            least, free_then = _resident(statm), free


def _statm() -> IO[bytes]:
    return open("/proc/self/statm", "rb", buffering=0)


def _resident(statm: IO[bytes]) -> int:
    """Return how much memory this process has, in bytes."""
    statm.seek(0)
    return int(statm.read().split()[1]) * resource.getpagesize()
