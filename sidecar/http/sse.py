"""Server-sent events, as every stream here sends them: ids, a heartbeat, an explicit end, no patience with the slow."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import structlog
from aiohttp import web
from aiohttp_sse import EventSourceResponse
from msgspec import Meta, Struct

from sidecar.auth.guard import ADMISSION
from sidecar.domain.errors import Closed, Problem, StoreError, Unauthenticated
from sidecar.http.responses import is_lost, start_response
from sidecar.runtime.clock import LoopClock

log = structlog.get_logger("stream")

EVENT_STREAM = "text/event-stream"
EVENT_STREAM_TYPE = f"{EVENT_STREAM}; charset=utf-8"
"""Without a charset clients that follow RFC 2616 take it for ISO 8859-1."""
_PIECE = 64 * 1024
_KERNEL = 128 * 1024
_RETRY = 1000  # milliseconds after which a browser comes back
_LAST_CHANCE = 5.0  # for a reader that is cut off to read what is on its way to it, and why


class StreamLimits(Struct, frozen=True):
    """How often a quiet stream says that it lives, and how long a reader may take nothing (seconds of ``clock``).

    ``dropped`` is called with the reason why a reader was cut off.
    """

    heartbeat: float
    send_timeout: float
    dropped: Callable[[str], None]
    clock: LoopClock


class TooSlow(Exception):
    """The reader has taken nothing for too long."""


class _Sink(web.StreamResponse):
    """What both kinds of streams have in common."""

    _pace: StreamLimits
    _separator: bytes
    """What ends a part that can be sent on its own."""

    async def push(self, data: bytes) -> None:
        """Send what is ready-made.

        Raises:
            TooSlow: the reader takes nothing; it was told so where that can be, and is cut off.
            ConnectionError: the reader has gone.
        """
        try:
            for piece in _pieces(data, self._separator):
                async with self._pace.clock.timeout(self._pace.send_timeout):
                    await self.write(piece)
        except TimeoutError:
            assert self._req is not None  # noqa: S101 - it was prepared
            self._pace.dropped("slow")
            log.warning("a reader was too slow", path=self._req.path, peer=self._req.remote)
            if self._req.transport is not None:
                self._cut_off(self._req.transport)
            raise TooSlow from None

    def _cut_off(self, transport: asyncio.Transport) -> None:
        transport.abort()

    async def end(self, **details: Any) -> None:
        """Say that there is no more, and why."""
        raise NotImplementedError

    async def start(self, last_id: str) -> None:
        """Send the id to come back with, where it was not known when the stream began."""

    async def notice(self, detail: str) -> None:
        """Say something about what the stream holds."""

    async def _feed(self, work: Awaitable[None]) -> None:
        """Do what feeds the stream, and end it as that ends."""
        assert self._req is not None  # noqa: S101 - it was prepared
        try:
            try:
                async with self._req[ADMISSION].while_authorized():
                    await work
            except Closed as exc:
                await self.end(reason=exc.reason, detail=exc.detail)
            except Unauthenticated as exc:
                self._pace.dropped("unauthenticated")
                await self.end(reason="unauthenticated", detail=exc.detail)
            except Problem as exc:
                await self.end(reason="unavailable", detail=exc.detail)
            except StoreError as exc:  # no problem of an answer that has not begun: this one has
                await self.end(reason="unavailable", detail=str(exc))
        except TooSlow:
            return  # it was told why
        except ConnectionError as exc:
            if not is_lost(self._req, exc):
                raise


class EventStream(EventSourceResponse, _Sink):
    """One stream of server-sent events.

    Args:
        pace: heartbeat and patience.
        hold: takes bytes that this reader alone has from a budget, while they are sent.
    """

    _separator = b"\n\n"

    def __init__(self, pace: StreamLimits, hold: Callable[[int], AbstractContextManager[object]] | None = None) -> None:
        # Longer than our own patience: the kernel would break the connection off, and the reader never hear why.
        last = pace.send_timeout + 2 * _LAST_CHANCE
        super().__init__(ping_interval=pace.heartbeat, send_timeout=last, sep="\n")
        self.headers["Content-Type"] = EVENT_STREAM_TYPE
        self._pace = pace
        self._hold = hold

    async def begin(self, request: web.Request, last_id: str | None) -> None:
        """Send the headers, and, where it is known, the id to come back with before anything has happened."""
        _keep_little(request)
        await start_response(request, self)
        await self.push(b"retry: %d\n%b\n" % (_RETRY, b"id: %b\n" % last_id.encode() if last_id else b""))

    async def start(self, last_id: str) -> None:
        """Send the id to come back with, before anything else."""
        await self.push(b"id: %b\n\n" % last_id.encode())

    async def notice(self, detail: str) -> None:
        """Send an event that says something about the others."""
        await self.push(_event("notice", {"detail": detail}))

    async def run(self, work: Awaitable[None]) -> EventStream:
        """Do what feeds the stream, to its end; cancelled when the reader goes."""
        async with self:
            await self._feed(work)
        return self

    async def push(self, data: bytes) -> None:
        """Send what is ready-made.

        Raises:
            TooSlow, ConnectionError: see above.
            TooMany, Overloaded: too much waits to be read by this caller, or by all.
        """
        with self._hold(len(data)) if self._hold else nullcontext():
            await super().push(data)

    async def end(self, **details: Any) -> None:
        """Send the last event: why there are no more, and how to go on."""
        await self.push(_event("end", details))

    def _cut_off(self, transport: asyncio.Transport) -> None:
        """Say why behind what waits to be read already, then close: nothing more is kept for such a reader."""
        detail = f"Nothing was read for {self._pace.send_timeout:g} s; come back with the last id."
        chunk = _event("end", {"reason": "slow", "detail": detail})
        transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk))
        transport.close()
        asyncio.get_running_loop().call_later(_LAST_CHANCE, transport.abort)


class TextStream(_Sink):
    """The same for a client that reads bytes instead of events.

    Args:
        pace: patience.
        content_type: of the body.
    """

    _separator = b"\n"

    def __init__(self, pace: StreamLimits, content_type: str) -> None:
        super().__init__(headers={"Content-Type": content_type, "X-Accel-Buffering": "no"})
        self._pace = pace

    async def begin(self, request: web.Request, last_id: str | None) -> None:
        """Send the headers."""
        _keep_little(request)
        await start_response(request, self)

    async def run(self, work: Awaitable[None]) -> TextStream:
        """Do what feeds the stream, to its end; cancelled when the reader goes."""
        await self._feed(work)
        return self

    async def end(self, **details: Any) -> None:
        """End the body, where the job's bytes end; cut it off where they do not."""
        if details.get("reason") not in ("ended", "so far") and self._req is not None and self._req.transport:
            self._req.transport.abort()


def _keep_little(request: web.Request) -> None:
    """Let the kernel keep little for one reader: it would take megabytes, and a reader that never reads look well.

    From here on it is the stream's own time-out that ends it, which says why.
    """
    connection: Any = request.protocol
    connection.unsent.lenient = True
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL)


def _pieces(data: bytes, separator: bytes) -> Iterator[bytes]:
    """Split what is sent, behind whole events: patience is for a piece, and no more than one is kept for the slow."""
    start = 0
    while len(data) - start > _PIECE:
        end = data.rfind(separator, start, start + _PIECE)
        if end < 0 and (end := data.find(separator, start)) < 0:
            break
        end += len(separator)
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:] if start else data


def _event(name: str, details: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(details))


#: What every stream's query may say about where it begins.
AFTER = Meta(description="go on behind this event's id; 0: from the first; the header Last-Event-ID counts more")
