"""Numbers of jobs: unique, in the order of job IDs, and the same for a job that is written again."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.store.numbers import numbers
from sidecar.store.schema import connect


def insert(db: sqlite3.Connection, found: dict[int, int]) -> None:
    for jobid, num in found.items():
        db.execute("INSERT OR IGNORE INTO documents (num, job, json) VALUES (?, ?, '')", (num, jobid))
        db.execute(
            "INSERT OR IGNORE INTO jobs (id, num, f58id, t_submit, state, result, userid, username, submitter, queue, "
            "name, nevents) VALUES (?, ?, '', 0, '', '', 0, '', '', '', '', 0)",
            (jobid, num),
        )


@pytest.mark.parametrize("size", [1, 7, 512])
@pytest.mark.parametrize("per_millisecond", [1, 4])
def test_order_of_jobs(tmp_path: Path, size: int, per_millisecond: int) -> None:
    jobids = [1000 + 7 * clock << 24 | seq for clock in range(300) for seq in range(per_millisecond)]
    shuffled = random.Random(1).sample(jobids, len(jobids))
    with closing(connect(tmp_path / "s.sqlite")) as db:
        found: dict[int, int] = {}
        for start in range(0, len(shuffled), size):
            some = numbers(db, shuffled[start : start + size])
            insert(db, some)
            found |= some
        assert sorted(found, key=found.__getitem__) == jobids
        assert numbers(db, jobids) == found


def test_many_jobs_of_one_millisecond(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "s.sqlite")) as db:
        found: dict[int, int] = {}
        for start in range(0, 2000, 100):
            some = numbers(db, range(start, start + 100))
            insert(db, some)
            found |= some
        later = numbers(db, [5000 << 24])
        assert len(set(found.values())) == 2000
        assert max(found.values()) < later[5000 << 24]
        assert [found[jobid] for jobid in range(0, 2000, 100)] == sorted(found[jobid] for jobid in range(0, 2000, 100))


@pytest.mark.parametrize("seed", range(20))
def test_no_job_gets_the_number_of_another(tmp_path: Path, seed: int) -> None:
    """Jobs of several brokers, submitted within some milliseconds, in any order: a number of two would lose a document."""
    chance = random.Random(seed)
    jobids = [clock << 24 | broker << 10 | seq for clock in range(9) for broker in range(3) for seq in range(3)]
    chance.shuffle(jobids)
    with closing(connect(tmp_path / "s.sqlite")) as db:
        found: dict[int, int] = {}
        while jobids:
            some = numbers(db, [jobids.pop() for _ in range(min(len(jobids), chance.randint(1, 9)))])
            assert not set(some.values()) & set(found.values())
            assert len(set(some.values())) == len(some)
            insert(db, some)
            found |= some
