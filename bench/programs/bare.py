"""The limit of reads: aiohttp alone, which responds with prepared bytes.

It uses the same aiohttp with the same options (no access log, no signal handlers) and the same bytes as the server, so
the difference is the server's own work. Input is a JSON file of paths and their bodies.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import web


async def main(bodies: dict[str, bytes]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=bodies[request.path_qs], content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    print(f"listens on http://{host}:{port} ", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    texts = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(main({path: text.encode() for path, text in texts.items()}))
