"""FLUIDs and idsets: every spelling reads back as what was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import fluid, idset

FLUIDS = st.integers(min_value=0, max_value=fluid.MAX)


@given(FLUIDS)
def test_every_spelling_of_a_fluid_reads_back(number: int) -> None:
    f58, kvs = fluid.f58(number), fluid.kvs(number)
    for text in (
        str(number),
        f58,
        f58.replace("ƒ", "f"),
        hex(number),
        kvs,
        kvs.removeprefix("job."),
        fluid.words(number),
    ):
        assert fluid.parse(text) == number, text


@pytest.mark.parametrize(
    ("number", "f58", "words"),
    [
        (0, "ƒ1", "academy-academy-academy--academy-academy-academy"),
        (9881780224, "ƒG4Dhz7", "alaska-risk-mustang--active-academy-academy"),
        (2**64 - 1, "ƒjpXCZedGfVQ", "natural-analyze-verbal--natural-analyze-verbal"),
    ],
)
def test_what_flux_itself_writes(number: int, f58: str, words: str) -> None:
    assert (fluid.f58(number), fluid.words(number)) == (f58, words)


@given(st.text(max_size=40))
def test_any_text_is_an_id_or_an_error_that_says_so(text: str) -> None:
    try:
        assert 0 <= fluid.parse(text) <= fluid.MAX
    except ValueError as exc:
        assert "is not a job id" in str(exc)


@pytest.mark.parametrize(
    "text", ["", " 1", "+1", "1_0", "-1", "0x", "0xg", "ƒ", "f0", "1.2.3", "1.2.3.4.5", "a-b", "٣", "ƒƒ1"]
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="is not a job id"):
        fluid.parse(text)


def test_generated_fluids_rise() -> None:
    generate = fluid.Generator()
    numbers = [generate() for _ in range(5000)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 2**63


@given(st.sets(st.integers(0, 300)))
def test_idsets_read_back(ids: set[int]) -> None:
    assert idset.parse(idset.encode(ids)) == sorted(ids)
    assert idset.parse(idset.encode(ids, brackets=True)) == sorted(ids)


def test_idsets_as_flux_writes_them() -> None:
    assert idset.encode([0, 1, 2, 5]) == "0-2,5"
    assert idset.encode([0, 1], brackets=True) == "[0-1]"
    assert idset.encode([3], brackets=True) == "3"
    assert idset.encode([]) == ""
