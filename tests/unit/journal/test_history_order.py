"""The order in which the history is folded and written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.journal import history_order
from sidecar.journal.history_order import in_order


def response(jobid: int, size: int = 0) -> bytes:
    return b'{"id":%d,"events":["%b"]}' % (jobid, b"a" * size)


def jobid(text: bytes) -> int:
    return int(text[6 : text.index(b",")])


@given(st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=60))
def test_runs_are_in_order_and_each_has_as_many_jobs_as_all_before(ids: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_order, "_FIRST", 4)
        found = [jobid(text) for text in in_order(map(response, ids))]
    begin, size = 0, 4
    while begin < len(ids):
        assert found[begin : begin + size] == sorted(ids[begin : begin + size])
        begin += size
        size = begin


def test_responses_come_back_as_they_were() -> None:
    """Whatever they contain: the decoder, which is tested with any input, finds what is wrong."""
    odd = [b"", b"{", b"null", b'{"id":"x","events":[]}', b'{"id":-5,', b'{"id":99999999999999999999999,', b"\xff\xfe"]
    large = [response(7, 80 * 1024 * 1024), response(8, 2_000_000)]
    assert sorted(in_order([*odd, *large])) == sorted([*odd, *large])


def test_run_is_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise large jobs would fill the memory."""
    monkeypatch.setattr(history_order, "_LARGEST", 3_000_000)
    monkeypatch.setattr(history_order, "_COMPRESSED", 0)
    taken = 0

    def responses() -> Iterator[bytes]:
        nonlocal taken
        for number in range(100, 0, -1):
            taken += 1
            yield response(number, 1_000_000)

    found = in_order(responses())
    assert jobid(next(found)) == 98, "a run of three"
    assert taken <= 10, "no more than three runs are read ahead"
    ids = [98, *map(jobid, found)]
    assert sorted(ids) == list(range(1, 101))
    assert sum(second < first for first, second in pairwise(ids)) == 33


def test_failure_ends_the_iteration() -> None:
    def responses() -> Iterator[bytes]:
        for number in range(600):
            yield response(number)
        raise OSError("the connection broke")

    found = in_order(responses())
    assert [jobid(next(found)) for _ in range(512)] == list(range(512))
    with pytest.raises(OSError, match="the connection broke"):
        list(found)
