"""The results of a bulk submit, sent in the order of the lines while later lines are still read."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.domain.errors import ProblemBody
from sidecar.http.streaming import ANSWERS, send

_UNSENT = 8 * 1024 * 1024  # bytes of results that may wait for the client to read them
_SMALL = 64 * 1024  # bytes that are always allowed: the connection buffers as much anyway


class BulkResult(msgspec.Struct, omit_defaults=True):
    """The result of one line: the job, or why there is none."""

    line: Annotated[int, Meta(description="number of the line, from 1")]
    status: Annotated[int, Meta(description="HTTP status, as for POST /v1/jobs/submit")]
    id: Annotated[int | None, Meta(description="job ID; may exceed 2^53")] = None
    f58id: Annotated[str | None, Meta(description="job ID as F58")] = None
    replayed: Annotated[bool, Meta(description="the job was submitted by an earlier request with this key")] = False
    problem: Annotated[ProblemBody | None, Meta(description="why the line was refused")] = None


class BulkResults:
    """Send results in the order of the lines.

    Sending does not block reading: a client may send its whole request before it reads anything. Only when many bytes
    wait for the client, or for all clients together, reading waits too.

    Args:
        request: the bulk submit.
        response: takes the results.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._response = response
        answers = request.app[ANSWERS]
        self._held = answers.budget.reserve(answers.name(request))
        self._tasks: deque[asyncio.Task[BulkResult]] = deque()
        self._unsent = bytearray()
        self._sending = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._disconnected = self._closed = False
        self.summary: dict[str, int | str] = {}
        """For the audit: how many lines were accepted and refused, and the first and the last job."""

    def add(self, task: asyncio.Task[BulkResult]) -> None:
        """Add the result of the next line."""
        self._tasks.append(task)
        task.add_done_callback(self._collect)

    @property
    def _size(self) -> int:
        return len(self._unsent) + self._sending

    async def wait_for_room(self) -> None:
        """Wait while too many bytes wait for the client."""
        while self._size > _UNSENT or (self._size > _SMALL and self._held.exceeded):
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Note that no more results follow."""
        self._closed = True
        self._more.set()

    def _collect(self, _: object) -> None:
        """Take the known results, up to the first line without one."""
        while self._tasks and self._tasks[0].done():
            line = self._encode(self._tasks.popleft().result())
            if not self._disconnected:
                self._unsent += line
        self._held.force(self._size)
        self._more.set()

    def _encode(self, result: BulkResult) -> bytes:
        if result.f58id is None:
            self.summary["refused"] = int(self.summary.get("refused", 0)) + 1
        else:
            self.summary["accepted"] = int(self.summary.get("accepted", 0)) + 1
            self.summary.setdefault("first", result.f58id)
            self.summary["last"] = result.f58id
        return msgspec.json.encode(result) + b"\n"

    async def send(self) -> None:
        """Send results until :meth:`close` was called and all are sent."""
        with self._held:
            while not self._closed or self._tasks:
                await self._more.wait()
                self._more.clear()
                while self._unsent:
                    await self._send()

    async def _send(self) -> None:
        data, self._unsent = self._unsent, bytearray()
        self._sending = len(data)
        try:
            await send(self._response, data)
        except ConnectionError:
            self._disconnected = True  # the jobs are submitted all the same
            self._unsent.clear()
        self._sending = 0
        self._held.force(self._size)
        self._room.set()
