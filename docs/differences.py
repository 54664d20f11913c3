"""Differences between the API and Flux's own commands, with reasons: a part of docs/api.md, checked by a test."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """One difference."""

    what: str
    flux: str
    api: str
    why: str


#: By the names in tests/flux/test_same_answers.py.
DIFFERENCES = {
    "absent": Difference(
        "An attribute without a value",
        "left out, or `0.0` (`flux jobs --json`)",
        '`""`, in `waitstatus`, `returncode`, `priority`, `result`, `ntasks`, `ncores`, `nnodes`, `exception.severity` '
        "and texts",
        "flux-restful-api had them, and its clients read these members without a check: a number may be text "
        "without any",
    ),
    "names": Difference(
        "Names",
        "`jobid`, `uri`, `status`, `t_remaining` of `flux jobs --json`",
        "`f58id`, `annotations.user.uri`, `result` or else `state`, `expiration`",
        "they are the same values",
    ),
    "begin time": Difference(
        "A dependency on a time",
        "`begin@22:11:44` (`flux jobs --json`)",
        "`begin-time=1795731104.507`",
        "it is the value of Flux's job-list, and includes the day",
    ),
    "volatile": Difference(
        "Volatile memos",
        "no entry of the eventlog",
        "an event like any other",
        "they are in the journal, and a reader of events would miss the change otherwise",
    ),
    "invalid jobspec": Difference(
        "A jobspec that is not valid, and was submitted past Flux's validators",
        "nothing of it, from the first invalid member on",
        "each member that can be read: a name, a time limit of 0 where there is none",
        "one error must not hide the other members",
    ),
    "purged": Difference(
        "Jobs that Flux has purged",
        "not in lists",
        "listed for as long as the store is kept; their output is 410, `gone`",
        "the store is the history",
    ),
    "environment": Difference(
        "The environment in a jobspec",
        "left out by `flux job info ID jobspec`",
        "left out, and included with `environment=true`",
        "it may hold secrets",
    ),
    "lines": Difference(
        "Parts of a line",
        "`flux job attach` prints each at once",
        "a line is sent when it is complete; one without newline is sent last, when the job has ended, or on request",
        "so that the lines of several tasks are not mixed, and a stream can resume at a line's number",
    ),
    "shell": Difference(
        "Messages of the job's shell",
        "`flux job attach` prints it among the lines of stderr",
        "`Log` and `Redirected` in JSON, events named `log` and `redirect`, `stream=log` as text",
        "the job's own output stays unchanged, byte by byte",
    ),
    "bounds": Difference(
        "Very long values",
        "complete",
        "names over 1,024 bytes, commands and contexts of events over 16 KiB are truncated; the jobspec is complete",
        "one job must not use the memory of all others",
    ),
}


_HEAD = """
## Differences from Flux

The API shows the same values as `flux jobs --json`, `flux job eventlog`, `flux job info` and `flux job attach`. A test
compares them for every kind of job in flux-core's tests. These differ:

| | Flux | the API | why |
|---|---|---|---|
"""
_TAIL = """
`runtime` is the time that a job has run, as in `flux jobs`; in a submit, as flux-restful-api named it, it is the time
limit, which a job has as `duration`. `returncode` is 128 + N for a task that signal N has ended (137: SIGKILL), since
the job's shell exits so; only a shell that is itself ended by a signal makes it negative.
"""


def section() -> str:
    """Return the section of docs/api.md."""
    rows = [f"| {each.what} | {each.flux} | {each.api} | {each.why} |\n" for each in DIFFERENCES.values()]
    return "".join([_HEAD, *rows, _TAIL])
