"""Members of JSON, counted in its text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain import json_size

TEXTS = st.text(st.sampled_from('a,[]{}"\\\n é'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=6),
    max_leaves=40,
)


def reference(value: Any) -> int:
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return len(value) + sum(map(reference, parts))
    return 0


@given(VALUES, st.integers(0, 30), st.sampled_from([None, 0, 2]), st.booleans())
def test_the_count_agrees_with_decoding(value: Any, limit: int, indent: int | None, ascii_: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode()
    right = reference(value)
    assert json_size.at_most(text) >= right
    assert (json_size.count(text, limit) > limit) == (right > limit and json_size.at_most(text) > limit)
    if json_size.at_most(text) > limit >= right:
        assert json_size.count(text, limit) == right


@pytest.mark.parametrize("value", [["a,"] * 100_000, {f"{n},[": '"\\",' for n in range(50_000)}, "," * 100_000])
def test_a_text_that_is_counted_in_parts(value: Any) -> None:
    assert json_size.count(json.dumps(value).encode(), 200_000 if isinstance(value, list) else 99_999) >= reference(
        value
    )
    assert json_size.count(json.dumps(value).encode(), reference(value)) == reference(value)
