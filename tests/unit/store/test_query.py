"""Sorts that would read very many jobs are refused; plans of queries that must use an index."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from sidecar.store.query import Filter, Search, sort_problem
from sidecar.store.schema import connect


@pytest.mark.parametrize(
    ("name", "most"), [("id", 10**9), ("name", 10**9), ("runtime", 200_000), ("queue", 200_000), ("urgency", 10_000)]
)
def test_sorts_of_very_many_jobs(name: str, most: int) -> None:
    assert sort_problem(((name, True),), most) == ""
    if most < 10**9:
        assert f"cannot be sorted by {name}, at most {most}" in sort_problem((("id", True), (name, True)), most + 1)


@pytest.mark.parametrize(
    "where",
    [
        Filter(states=("RUN",), before_id=5),
        Filter(results=("FAILED",), before_id=5),
        Filter(name="n", before_id=5),
        Filter(submitter="s", before_id=5),
    ],
)
def test_filters_find_the_newest_jobs_by_an_index(tmp_path: Path, where: Filter) -> None:
    """Although no index names the ID: it is the key of the table, and so the last column of each index."""
    condition, values = where.where()
    with closing(connect(tmp_path / "s.sqlite")) as db:
        sql = f"EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE {condition} ORDER BY id DESC LIMIT 10"
        [[*_, plan]] = db.execute(sql, values)
    assert "INDEX" in plan
    assert "rowid<?" in plan


@pytest.mark.parametrize("name", ["t_submit", "state", "result", "name", "username"])
def test_sorts_by_an_index(tmp_path: Path, name: str) -> None:
    sql, values = Search(order=((name, True),)).select("id")
    with closing(connect(tmp_path / "s.sqlite")) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", (*values, 10, 0))]
    assert f"SCAN jobs USING COVERING INDEX jobs_{name}" in plan
