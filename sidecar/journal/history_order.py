"""Put the responses of the history in the order of their jobs, as far as memory allows.

Responses arrive unordered. To insert them like that changes another page of each index for every job, which makes a
large store several times as slow. So they are collected in runs, which are sorted. Each run may have as many jobs as
all runs before, up to 12 MiB, so that its jobs share pages; the first one is small, so that the first jobs are stored
early.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Queue

from sidecar.store.packing import packed, unpacked

_FIRST = 512  # jobs
_LARGEST = 12 * 1024 * 1024  # bytes of a run, compressed: some 30,000 jobs; up to three runs are in memory
_COMPRESSED = 1024 * 1024  # bytes of the largest response that is compressed
_BEFORE_ID = len(b'{"id":')

_Run = list[tuple[int, bytes]]
"""Jobs and their compressed responses."""


def in_order(responses: Iterable[bytes]) -> Iterator[bytes]:
    """Yield responses run by run; the next ones are read meanwhile, by another thread.

    Args:
        responses: each begins with the ID of its job. One that does not is yielded too.

    Raises:
        Exception: the iteration of the responses has failed.
    """
    runs: Queue[_Run | BaseException | None] = Queue(maxsize=1)

    def read() -> None:
        try:
            for run in _runs(responses):
                runs.put(run)
            runs.put(None)
        except BaseException as exc:  # it is raised by the other thread
            runs.put(exc)

    threading.Thread(target=read, name="history reader", daemon=True).start()
    while (run := runs.get()) is not None:
        if isinstance(run, BaseException):
            raise run
        run.sort(reverse=True)
        while run:
            yield unpacked(run.pop()[1])


def _runs(responses: Iterable[bytes]) -> Iterator[_Run]:
    run: _Run = []
    size, limit = 0, _FIRST
    before = 0
    for response in responses:
        cell = packed(response) if len(response) <= _COMPRESSED else response
        run.append((_jobid(response), cell))
        size += len(cell)
        if len(run) >= limit or size >= _LARGEST:
            before += len(run)
            yield run
            run, size, limit = [], 0, before
    if run:
        yield run


def _jobid(response: bytes) -> int:
    digits = response[_BEFORE_ID : response.find(b",")]
    return int(digits) if digits.isdigit() and len(digits) < 20 else 0
