"""A reverse proxy that strips a prefix, as an ingress does; in a thread, on its own port."""

from __future__ import annotations

import asyncio
import threading

from aiohttp import ClientSession, ClientTimeout, web

from tests.support.loops import accept_all

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "content-encoding"}


class Prefix:
    """Listens while the context is active; its value is the URL with the prefix."""

    def __init__(self, target: str, prefix: str) -> None:
        self._target = target
        self._prefix = prefix
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._port = 0

    def __enter__(self) -> str:
        self._thread.start()
        assert self._ready.wait(60)
        return f"http://127.0.0.1:{self._port}{self._prefix}"

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False) as self._client:
            app = web.Application()
            app.router.add_route("*", self._prefix + "{path:/.*}", self._pass)
            runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._port = runner.addresses[0][1]
            self._ready.set()
            await self._end.wait()
            await accept_all()
            await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        url = self._target + request.rel_url.raw_path.removeprefix(self._prefix)
        if request.query_string:
            url += f"?{request.rel_url.raw_query_string}"
        async with self._client.request(
            request.method, url, headers=request.headers, data=await request.read(), allow_redirects=False
        ) as answer:
            headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP]
            response = web.StreamResponse(status=answer.status)
            for name, value in headers:
                response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response
