"""The filters that lists, event streams and bulk cancels share."""

from __future__ import annotations

import difflib
from typing import Annotated

import msgspec
from msgspec import Meta

from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import ACTIVE, RESULTS, STATES
from sidecar.http.faults import quote
from sidecar.store import Filter

_LONGEST = 20  # characters that are compared with what is known
EVERYTHING = Filter()

#: flux-jobs(1)'s names for several states.
_STATE_GROUPS = {
    "PENDING": ("DEPEND", "PRIORITY", "SCHED"),
    "RUNNING": ("RUN", "CLEANUP"),
    "ACTIVE": ACTIVE,
}


class Which(msgspec.Struct, kw_only=True, frozen=True):
    """Which jobs, by what they are from their submit on, and by their state."""

    state: Annotated[
        str | None,
        Meta(description="states, separated by commas; pending, running, active stand for several"),
    ] = None
    user: Annotated[str | None, Meta(description="user name or uid")] = None
    submitter: Annotated[str | None, Meta(description="who has submitted it by way of this server")] = None
    queue: str | None = None
    name: str | None = None
    since: Annotated[float | None, Meta(description="submitted at or after, Unix seconds")] = None
    until: Annotated[float | None, Meta(description="submitted before, Unix seconds")] = None


class JobFilter(Which, kw_only=True, frozen=True):
    """Which jobs, ended ones too."""

    result: Annotated[str | None, Meta(description="results, separated by commas")] = None


def read(query: Which) -> Filter:
    """Return the filter that was asked for.

    Raises:
        InvalidRequest: a state or result that is none.
    """
    return Filter(
        states=_words("state", query.state, STATES),
        results=_words("result", getattr(query, "result", None), RESULTS),
        user=query.user,
        submitter=query.submitter,
        queue=query.queue,
        name=query.name,
        since=query.since,
        until=query.until,
    )


def _words(name: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for word in (text or "").upper().split(",") if text is not None else ():
        word = word.strip()
        words = _STATE_GROUPS.get(word, (word,)) if name == "state" else (word,)
        if not set(words) <= set(known):
            choices = (*known, *_STATE_GROUPS) if name == "state" else known
            raise InvalidRequest(f"{name}: {quote(word)} is not a {name}; {_hint(name, word, choices)}.")
        found += words
    return tuple(dict.fromkeys(found))


def _hint(name: str, word: str, choices: tuple[str, ...]) -> str:
    """Return what to write instead of a word."""
    for other, words in (("state", STATES), ("result", RESULTS)):
        if name != other and word in words:
            return f"it is a {other}: use {other}={word.lower()}"
    close = difflib.get_close_matches(word[:_LONGEST], choices, 1, 0.8)
    return f"did you mean {close[0]}? Use {', '.join(choices)}" if close else f"use {', '.join(choices)}"
