"""The store stays small: bytes of a job with its ten events."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.store import Filter, Store
from tests.support import typical

_JOBS = 4000


@pytest.mark.parametrize(
    ("batches", "most"),
    [(typical.history, 1300), (typical.live, 1660)],
    ids=["history", "live, and each event among those of other jobs"],
)
async def test_bytes_of_a_job(
    tmp_path: Path, batches: Callable[[int, int], Iterator[typical.Written]], most: int
) -> None:
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    for rows, logged in batches(0, _JOBS):
        await store.write(rows, logged)
    full = len((await store.lists.page(Filter(), _JOBS, "full")).json)
    await store.close()
    assert full > 700 * 1000, "documents are whole"
    assert (tmp_path / "s.sqlite").stat().st_size < most * _JOBS


async def test_events_of_one_job_in_a_row_are_one_row(tmp_path: Path) -> None:
    """Each event keeps its position."""
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    [(rows, logged)] = typical.history(0, 1)
    [each] = logged
    entries = [entry for _, entry in each.entries(0)]
    await store.write(rows, typical.one_by_one(each))
    stored = await store.events_between(0, 100, 100)
    assert [(number, entry) for part in stored for number, entry in part.entries(0)] == list(
        zip(itertools.count(1), entries, strict=False)
    )
    assert len(stored) == 1
    await store.close()
