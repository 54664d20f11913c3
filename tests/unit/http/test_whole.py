"""A response that is sent in one step equals the one that aiohttp sends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.http.headers import HEADERS
from sidecar.http.responses import RESPONSE_HEADERS, add_headers
from sidecar.http.whole import WholeResponse

_BODY = b'{"a":1}\n'


async def _ask(response: Callable[[], web.Response], request: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Return status line, sorted header lines without the time, and body."""

    async def handler(asked: web.Request) -> web.Response:
        asked[RESPONSE_HEADERS] = {"X-Request-Id": "id-1", "Vary": "Accept"}
        sent = response()
        if not isinstance(sent, WholeResponse):
            add_headers(asked, sent)
        return sent

    app = web.Application()
    app.router.add_route("*", "/", handler)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
        body = b"" if request.startswith(b"HEAD") else await reader.readexactly(len(_BODY))
        writer.close()
        await writer.wait_closed()
    status, *lines = head.split(b"\r\n")
    return status, sorted(re.sub(rb"(?<=^Date: ).*GMT$", b"TIME", line) for line in lines), body


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
)
@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Content-Type": "application/json"}),
        (200, {"Content-Type": "application/json", "Cache-Control": "private", "Vary": "*", "Link": "</v1>"}),
        (202, {"Content-Type": "application/json"}),
    ],
)
async def test_same_bytes(request_: bytes, status: int, headers: dict[str, str]) -> None:
    whole = await _ask(lambda: WholeResponse(body=_BODY, status=status, headers=headers), request_)
    assert whole == await _ask(lambda: web.Response(body=_BODY, status=status, headers=headers), request_)
    assert {line.partition(b":")[0].decode() for line in whole[1]} >= {*HEADERS, "X-Request-Id", "Content-Length"}


async def test_several_headers_of_one_name_and_cookies() -> None:
    def changed(response: web.Response) -> web.Response:
        response.headers.add("Link", "</v1>")
        response.headers.add("Link", "</v2>")
        response.set_cookie("a", "b")
        return response

    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    whole = await _ask(lambda: changed(WholeResponse(body=_BODY)), request)
    assert whole == await _ask(lambda: changed(web.Response(body=_BODY)), request)


async def test_no_header_is_injected() -> None:
    async def handler(request: web.Request) -> web.Response:
        request[RESPONSE_HEADERS] = {}
        response = WholeResponse(body=_BODY, headers={"Link": "a\r\nSet-Cookie: b=c"})
        with pytest.raises(ValueError, match="injection"):
            await response.prepare(request)
        return web.Response(text="refused")

    app = web.Application()
    app.router.add_get("/", handler)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"refused" in await reader.read()
        writer.close()
        await writer.wait_closed()
