"""Streams: server-sent events with IDs, heartbeats and an explicit end, and the same as plain bytes."""

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
from sidecar.domain.closed import Closed
from sidecar.domain.errors import Problem, StoreError, Unauthenticated
from sidecar.http.responses import is_lost, start_response
from sidecar.runtime.clock import LoopClock

log = structlog.get_logger("stream")

EVENT_STREAM = "text/event-stream"
EVENT_STREAM_TYPE = f"{EVENT_STREAM}; charset=utf-8"
"""Without a charset, clients that follow RFC 2616 assume ISO 8859-1."""
AFTER = Meta(
    description="continue after the event with this ID; 0: from the first event; Last-Event-ID takes precedence"
)
"""Description of the parameter that sets where a stream starts."""

_CHUNK = 64 * 1024  # bytes
_SEND_BUFFER = 128 * 1024  # bytes
_RETRY = 1000  # milliseconds until a browser reconnects
_FAREWELL = 5.0  # seconds for a slow reader to read the data on its way, and the reason of the end


class StreamLimits(Struct, frozen=True):
    """Limits of streams, in seconds of ``clock``."""

    heartbeat: float
    """Time between comments in a stream without events."""
    send_timeout: float
    """Time in which a reader must take some data."""
    dropped: Callable[[str], None]
    """Called with the reason when a reader is disconnected."""
    clock: LoopClock


class TooSlow(Exception):
    """The reader has taken no data for too long."""


class _Stream(web.StreamResponse):
    """A response that is sent until its reader leaves or its subject ends."""

    _limits: StreamLimits
    _separator: bytes
    """End of a part that can be sent on its own."""

    async def push(self, data: bytes) -> None:
        """Send encoded data.

        Raises:
            TooSlow: the reader takes no data and is disconnected; it was sent the reason where the format has one.
            ConnectionError: the reader has disconnected.
        """
        try:
            for chunk in _chunks(data, self._separator):
                async with self._limits.clock.timeout(self._limits.send_timeout):
                    await self.write(chunk)
        except TimeoutError:
            assert self._req is not None  # noqa: S101 - it was prepared
            self._limits.dropped("slow")
            log.warning("a reader was too slow", path=self._req.path, peer=self._req.remote)
            if self._req.transport is not None:
                self._disconnect(self._req.transport)
            raise TooSlow from None

    def _disconnect(self, transport: asyncio.Transport) -> None:
        transport.abort()

    async def end(self, **details: Any) -> None:
        """Send the end of the stream and its reason."""
        raise NotImplementedError

    async def start(self, last_id: str) -> None:
        """Send the ID to resume from, if it was not known when the headers were sent."""

    async def notice(self, detail: str) -> None:
        """Send a remark about the content of the stream."""

    async def _run(self, work: Awaitable[None]) -> None:
        """Run the task that sends the content, and end the stream as the task ends."""
        assert self._req is not None  # noqa: S101 - it was prepared
        try:
            try:
                async with self._req[ADMISSION].while_authorized():
                    await work
            except Closed as exc:
                await self.end(reason=exc.reason, detail=exc.detail)
            except Unauthenticated as exc:
                self._limits.dropped("unauthenticated")
                await self.end(reason="unauthenticated", detail=exc.detail)
            except Problem as exc:
                await self.end(reason="unavailable", detail=exc.detail)
            except StoreError as exc:  # the response has started: no problem details can be sent
                await self.end(reason="unavailable", detail=str(exc))
        except TooSlow:
            return  # the reader was sent the reason
        except ConnectionError as exc:
            if not is_lost(self._req, exc):
                raise


class EventStream(EventSourceResponse, _Stream):
    """A stream of server-sent events.

    Args:
        limits: of all streams.
        hold: reserves bytes that are in memory for this reader alone while they are sent.
    """

    _separator = b"\n\n"

    def __init__(
        self, limits: StreamLimits, hold: Callable[[int], AbstractContextManager[object]] | None = None
    ) -> None:
        # Longer than the stream's own timeout: the kernel would break the connection without sending the reason.
        kernel_timeout = limits.send_timeout + 2 * _FAREWELL
        super().__init__(ping_interval=limits.heartbeat, send_timeout=kernel_timeout, sep="\n")
        self.headers["Content-Type"] = EVENT_STREAM_TYPE
        self._limits = limits
        self._hold = hold

    async def begin(self, request: web.Request, last_id: str | None) -> None:
        """Send the headers, and the ID to resume from before any event, if it is known."""
        _limit_buffers(request)
        await start_response(request, self)
        await self.push(b"retry: %d\n%b\n" % (_RETRY, b"id: %b\n" % last_id.encode() if last_id else b""))

    async def start(self, last_id: str) -> None:
        """Send the ID to resume from before any event."""
        await self.push(b"id: %b\n\n" % last_id.encode())

    async def notice(self, detail: str) -> None:
        """Send an event with a remark about the others."""
        await self.push(_event("notice", {"detail": detail}))

    async def run(self, work: Awaitable[None]) -> EventStream:
        """Run the task that sends the events to its end; it is cancelled if the reader disconnects."""
        async with self:
            await self._run(work)
        return self

    async def push(self, data: bytes) -> None:
        """Send encoded events.

        Raises:
            TooSlow, ConnectionError: see the base class.
            TooManyRequests, Overloaded: this caller, or all together, have too many unsent bytes.
        """
        with self._hold(len(data)) if self._hold else nullcontext():
            await super().push(data)

    async def end(self, **details: Any) -> None:
        """Send the last event: the reason, and how to continue."""
        await self.push(_event("end", details))

    def _disconnect(self, transport: asyncio.Transport) -> None:
        """Send the reason behind the data that waits already, then close: nothing more is buffered for this reader."""
        detail = f"Nothing was read for {self._limits.send_timeout:g} s; come back with the last id."
        chunk = _event("end", {"reason": "slow", "detail": detail})
        transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk))
        transport.close()
        asyncio.get_running_loop().call_later(_FAREWELL, transport.abort)


class TextStream(_Stream):
    """A stream of bytes.

    Args:
        limits: of all streams.
        content_type: of the body.
    """

    _separator = b"\n"

    def __init__(self, limits: StreamLimits, content_type: str) -> None:
        super().__init__(headers={"Content-Type": content_type, "X-Accel-Buffering": "no"})
        self._limits = limits

    async def begin(self, request: web.Request, last_id: str | None) -> None:
        """Send the headers."""
        _limit_buffers(request)
        await start_response(request, self)

    async def run(self, work: Awaitable[None]) -> TextStream:
        """Run the task that sends the bytes to its end; it is cancelled if the reader disconnects."""
        await self._run(work)
        return self

    async def end(self, **details: Any) -> None:
        """End the body, if the job's bytes have ended too; else abort it."""
        if details.get("reason") not in ("ended", "so far") and self._req is not None and self._req.transport:
            self._req.transport.abort()


def _limit_buffers(request: web.Request) -> None:
    """Limit the kernel's buffer of a reader: it would take megabytes, and hide that the reader never reads.

    From now on the stream's own timeout applies, which sends the reason.
    """
    connection: Any = request.protocol
    connection.watchdog.suspended = True
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def _chunks(data: bytes, separator: bytes) -> Iterator[bytes]:
    """Split data after complete events: the timeout applies to a chunk, and at most one is buffered for a reader."""
    start = 0
    while len(data) - start > _CHUNK:
        end = data.rfind(separator, start, start + _CHUNK)
        if end < 0 and (end := data.find(separator, start)) < 0:
            break
        end += len(separator)
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:] if start else data


def _event(name: str, details: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(details))
