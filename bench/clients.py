"""Many clients, each with a connection of its own and one job a request. Prints jobs a second.

The load must cost little, since it shares the cores with what it measures: so this is no client library but the bare
protocol, with a request made once, and answers that are only checked for their status.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit


async def _client(host: str, port: int, work: Iterator[int]) -> None:
    body = json.dumps({"command": ["true"], "urgency": 0}).encode()
    request = b"POST /v1/jobs/submit HTTP/1.1\r\nHost: %b:%d\r\n" % (
        host.encode(),
        port,
    ) + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    reader, writer = await asyncio.open_connection(host, port)
    for _ in work:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"a submit failed: {answer.decode()}")
    writer.close()
    await writer.wait_closed()


async def main(url: str, jobs: int, clients: int) -> None:
    """Submit ``jobs`` jobs over ``clients`` connections."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    work = iter(range(jobs))
    begin = time.perf_counter()
    await asyncio.gather(*(_client(address.hostname, address.port, work) for _ in range(clients)))
    print(jobs / (time.perf_counter() - begin))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
