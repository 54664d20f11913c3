"""Jobids and idsets, and their text forms."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain import fluid, idset
from tests.support.fluids import words

FLUIDS = st.integers(min_value=0, max_value=fluid.MAX)


@given(FLUIDS)
def test_every_text_form_of_a_jobid_is_read(number: int) -> None:
    f58, kvs = fluid.f58(number), fluid.kvs(number)
    for text in (
        str(number),
        f58,
        fluid.f58_ascii(number),
        fluid.f58_ascii(f58),
        hex(number),
        kvs,
        kvs.removeprefix("job."),
        words(number),
    ):
        assert fluid.parse(text) == number, text


@pytest.mark.parametrize(
    ("number", "f58", "expected"),
    [
        (0, "ƒ1", "academy-academy-academy--academy-academy-academy"),
        (9881780224, "ƒG4Dhz7", "alaska-risk-mustang--active-academy-academy"),
        (2**64 - 1, "ƒjpXCZedGfVQ", "natural-analyze-verbal--natural-analyze-verbal"),
    ],
)
def test_text_forms_of_flux(number: int, f58: str, expected: str) -> None:
    assert (fluid.f58(number), words(number)) == (f58, expected)


@given(st.text(max_size=40))
def test_any_text_is_a_jobid_or_an_error(text: str) -> None:
    try:
        assert 0 <= fluid.parse(text) <= fluid.MAX
    except ValueError as exc:
        assert "is not a job id" in str(exc)


@pytest.mark.parametrize(
    "text", ["", " 1", "+1", "1_0", "-1", "0x", "0xg", "ƒ", "f0", "1.2.3", "1.2.3.4.5", "a-b", "٣", "ƒƒ1"]
)
def test_texts_that_are_not_jobids(text: str) -> None:
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
def test_text_forms_that_flux_reads(text: str, number: int | None) -> None:
    """The same as JobID of flux-core."""
    if number is not None:
        assert fluid.parse(text) == number
        return
    with pytest.raises(ValueError, match="is not a job id"):
        fluid.parse(text)


def test_generated_jobids_increase() -> None:
    generate = fluid.Generator(int(time.time() * 1000) + 60_000)  # also after the clock was set back
    numbers = [generate() for _ in range(5000)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 2**63


@given(st.sets(st.integers(0, 300)))
def test_idsets_round_trip(ids: set[int]) -> None:
    assert idset.parse(idset.encode(ids)) == sorted(ids)
    assert idset.parse(idset.encode(ids, brackets=True)) == sorted(ids)


def test_idsets_of_flux() -> None:
    assert idset.encode([0, 1, 2, 5]) == "0-2,5"
    assert idset.encode([0, 1], brackets=True) == "[0-1]"
    assert idset.encode([3], brackets=True) == "3"
    assert idset.encode([]) == ""
