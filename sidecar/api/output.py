"""``GET /v1/jobs/{uid}/output``: what a job has written so far, at once, running or not."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.jobs import unknown
from sidecar.api.routing import Answer, operation
from sidecar.instance import Instance
from sidecar.output import Output
from sidecar.store import Store

_RAW = ("text/plain", "application/octet-stream")
_MANY = 1000


class OutputQuery(msgspec.Struct, kw_only=True):
    """Which output."""

    stream: Annotated[Literal["stdout", "stderr", "both"], Meta(description="which stream")] = "both"


class OutputBody(msgspec.Struct, omit_defaults=False):
    """Lines with their newline; bytes that are not UTF-8 are shown as U+FFFD (ask for text/plain to get them)."""

    Output: list[str]


class NoOutput(msgspec.Struct):
    """There is no output, and why."""

    Output: list[str]
    Message: str


class JobOutput:
    """The output of jobs."""

    tag = "jobs"

    def __init__(self, store: Store, instance: Instance) -> None:
        self._store = store
        self._instance = instance

    @operation(
        "GET",
        "/v1/jobs/{uid}/output",
        query=OutputQuery,
        answers=(
            Answer(
                "The lines so far; as they are for Accept: text/plain",
                OutputBody | NoOutput,
                ("application/json", *_RAW),
            ),
        ),
        errors=(400, 404, 503),
    )
    async def output(self, request: web.Request, job: int, query: OutputQuery) -> web.Response | NoOutput | OutputBody:
        """Read a job's output so far.

        Answers at once, whether the job runs or not. For Accept: text/plain or application/octet-stream the body is
        what the job wrote, byte by byte.
        """
        if await self._store.state(job) is None:
            raise unknown(job)
        output = await self._instance.output(job, query.stream)
        if (wanted := request.headers.get("Accept", "").split(";")[0].strip()) in _RAW:
            return web.Response(body=b"".join(output.lines), content_type=wanted)
        if output.empty:
            return NoOutput([], _why_empty(output))
        if len(output.lines) > _MANY:  # a long output is decoded beside the loop
            body = await asyncio.to_thread(lambda: msgspec.json.encode(_body(output)))
            return web.Response(body=body, content_type="application/json")
        return _body(output)


def _body(output: Output) -> OutputBody:
    return OutputBody([line.decode(errors="replace") for line in output.lines])


def _why_empty(output: Output) -> str:
    if output.redirected:
        places = ", ".join(f"{stream} to {path}" for stream, path in output.redirected.items())
        return f"The output does not exist here: the job writes {places}."
    return "The output does not exist yet, or the job has written none."
