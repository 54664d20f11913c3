"""Connection errors: of the request's own connection, or of another one."""

from __future__ import annotations

import asyncio
import os

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.http.responses import is_closed, is_lost

_HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
_CHUNK = b"a" * 65536


async def _write(request: web.Request) -> None:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(_CHUNK)


async def _read(request: web.Request) -> None:
    while await request.content.readany():
        pass


async def _pipe(request: web.Request) -> None:
    """Write to a pipe without a reader, as that of a launcher or the log may be."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        os.write(writer, b"a")
    finally:
        os.close(writer)


async def _connect(request: web.Request) -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def _after_the_close(request: web.Request) -> None:
    while not is_closed(request):
        await asyncio.sleep(0.01)
    await _pipe(request)


@pytest.mark.parametrize(
    ("work", "own"),
    [(_write, True), (_read, True), (_pipe, False), (_connect, False), (_after_the_close, False)],
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_errors_of_the_own_connection(work: object, own: bool, reset: bool) -> None:
    result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def carry_out(request: web.Request) -> None:
        try:
            await work(request)  # type: ignore[operator]
        except ConnectionError as exc:
            result.set_result(is_lost(request, exc))

    async def handle(request: web.Request) -> web.Response:
        await asyncio.shield(asyncio.ensure_future(carry_out(request)))  # as commands are handled
        return web.Response()

    app = web.Application()
    app.router.add_post("/", handle)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(_HEAD)
        if work in (_pipe, _connect):
            assert await result is False
        if reset:
            writer.transport.abort()
        writer.close()
        assert await asyncio.wait_for(result, 30) is own
        del reader
