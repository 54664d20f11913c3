"""Where the API says something else than Flux's own commands, and why: a part of docs/api.md, which a test holds to."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """What differs."""

    what: str
    flux: str
    api: str
    why: str


#: By the names under which tests/flux/test_same_answers.py knows them.
DIFFERENCES = {
    "absent": Difference(
        "An attribute without a value",
        "left out, or `0.0` (`flux jobs --json`)",
        '`""`, in `waitstatus`, `returncode`, `priority`, `result`, `ntasks`, `ncores`, `nnodes`, `exception.severity` '
        "and texts",
        "flux-restful-api answered so, and its clients index these members without asking: a number may be text "
        "without any",
    ),
    "names": Difference(
        "Names",
        "`jobid`, `uri`, `status`, `t_remaining` of `flux jobs --json`",
        "`f58id`, `annotations.user.uri`, `result` or else `state`, `expiration`",
        "they are the same values a second time",
    ),
    "begin time": Difference(
        "A dependency on a time",
        "`begin@22:11:44` (`flux jobs --json`)",
        "`begin-time=1795731104.507`",
        "it is what Flux's job list has, with the day",
    ),
    "volatile": Difference(
        "Volatile memos",
        "no entry of the eventlog",
        "an event like any other",
        "the journal tells of them, and a reader of events would miss the change",
    ),
    "invalid jobspec": Difference(
        "A jobspec that is not valid, and was submitted past Flux's validators",
        "nothing of it, from the first member on that is wrong",
        "each member that can be read: a name, a time limit of 0 where there is none",
        "one fault must not hide what else there is",
    ),
    "purged": Difference(
        "Jobs that Flux has purged",
        "gone from lists",
        "listed for as long as the store is kept; their output is 410, `gone`",
        "the store is the history",
    ),
    "environment": Difference(
        "The environment in a jobspec",
        "left out by `flux job info ID jobspec`",
        "left out, and there with `environment=true`",
        "it may hold secrets",
    ),
    "lines": Difference(
        "Parts of a line",
        "`flux job attach` prints each as it comes",
        "a line comes when it is complete; what has no newline comes last, when the job has ended, or is asked for",
        "so that the lines of several tasks are not mixed, and a line's number is a place to come back to",
    ),
    "shell": Difference(
        "What the job's shell says",
        "`flux job attach` prints it among the lines of stderr",
        "`Log` and `Redirected` in JSON, events named `log` and `redirect`, `stream=log` as text",
        "what the job itself wrote stays what it is, byte by byte",
    ),
    "bounds": Difference(
        "What is very long",
        "whole",
        "names over 1,024 bytes, commands over 16 KiB and contexts of events over 16 KiB are cut; the jobspec is whole",
        "one job must not take the memory of all others",
    ),
}


_HEAD = """
## Differences from Flux

The API shows what `flux jobs --json`, `flux job eventlog`, `flux job info` and `flux job attach` show, which a test
compares for every kind of job that flux-core's tests know. These differ:

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
