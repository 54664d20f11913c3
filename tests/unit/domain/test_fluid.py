"""FLUIDs and idsets: every spelling reads back as what was written."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain import fluid, idset

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


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("😃", 0),
        ("😄🆘🕙🌸🎾🍭", 123456789012345),
        ("😝😻🗿🏯🎃📣🌼", 477926703268626432),
        ("🚹💗💧👗😷📷📚", 2**64 - 1),
        ("PIANO-Copper-college--famous-album-ACADEMY", 123456789012345),
        ("piano-copper-college-famous-album-academy", 123456789012345),
        ("piano--copper--college----famous--album--academy", 123456789012345),
        ("job.0x7048860ddf79", 123456789012345),
        ("job.fxv12grS4", 123456789012345),
        ("job.123", 123),
        ("JOB.123", None),
        ("🚹💗💧👗😷📷📛", None),
        ("😃" * 250, None),
        ("😄1", None),
        ("🦄", None),
        ("a" * 60_000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_flux_reads(text: str, number: int | None) -> None:
    """As flux-core's own JobID has them."""
    if number is not None:
        assert fluid.parse(text) == number
        return
    with pytest.raises(ValueError, match="is not a job id"):
        fluid.parse(text)


def test_generated_fluids_rise() -> None:
    generate = fluid.Generator(int(time.time() * 1000) + 60_000)  # also where the clock was set back
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
