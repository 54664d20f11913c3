"""The job filters that lists, event streams and cancels by filter share."""

from __future__ import annotations

import difflib
from typing import Annotated

import msgspec
from msgspec import Meta

from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import ACTIVE, RESULTS, STATES
from sidecar.http.faults import quote
from sidecar.store import Filter

_LONGEST = 20  # characters of a word that are compared with known words
EVERYTHING = Filter()

#: The names of flux-jobs(1) for several states.
_STATE_GROUPS = {
    "PENDING": ("DEPEND", "PRIORITY", "SCHED"),
    "RUNNING": ("RUN", "CLEANUP"),
    "ACTIVE": ACTIVE,
}


class Which(msgspec.Struct, kw_only=True, frozen=True):
    """Filters by properties that a job has from its submit on, and by its state."""

    state: Annotated[
        str | None,
        Meta(description="states, separated by commas; pending, running and active stand for several"),
    ] = None
    user: Annotated[str | None, Meta(description="user name or uid of the job's owner in Flux")] = None
    submitter: Annotated[str | None, Meta(description="caller that submitted the job through this server")] = None
    queue: Annotated[str | None, Meta(description="name of the queue")] = None
    name: Annotated[str | None, Meta(description="name of the job")] = None
    since: Annotated[float | None, Meta(description="submitted at or after this time, in Unix seconds")] = None
    until: Annotated[float | None, Meta(description="submitted before this time, in Unix seconds")] = None


class JobFilter(Which, kw_only=True, frozen=True):
    """Filters of jobs, ended ones included."""

    result: Annotated[str | None, Meta(description="results, separated by commas")] = None


def read(query: Which) -> Filter:
    """Return the filter that a query describes.

    Raises:
        InvalidRequest: a state or result is unknown.
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


def required(query: Which) -> Filter:
    """Return the filter of a command, which must name the jobs that it changes.

    Raises:
        InvalidRequest: no filter is set, one is empty, or a state is unknown.
    """
    for name in ("user", "submitter", "queue", "name"):
        if getattr(query, name) == "":  # for instance an unset shell variable, which would match nearly every job
            raise InvalidRequest(f"{name}: must not be empty; leave it out to match every {name}.")
    where = read(query)
    if where == EVERYTHING:
        raise InvalidRequest(
            "Set at least one of state, user, submitter, queue, name, since, until; state=active matches all jobs."
        )
    return where


def _words(name: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for word in (text or "").upper().split(",") if text is not None else ():
        word = word.strip()
        words = _STATE_GROUPS.get(word, (word,)) if name == "state" else (word,)
        if not set(words) <= set(known):
            choices = (*known, *_STATE_GROUPS) if name == "state" else known
            raise InvalidRequest(f"{name}: unknown {name} {quote(word)}; {_hint(name, word, choices)}.")
        found += words
    return tuple(dict.fromkeys(found))


def _hint(name: str, word: str, choices: tuple[str, ...]) -> str:
    """Return what to write instead of an unknown word."""
    for other, words in (("state", STATES), ("result", RESULTS)):
        if name != other and word in words:
            return f"it is a {other}: use {other}={word.lower()}"
    close = difflib.get_close_matches(word[:_LONGEST], choices, 1, 0.8)
    return f"did you mean {close[0]}? Use {', '.join(choices)}" if close else f"use {', '.join(choices)}"
