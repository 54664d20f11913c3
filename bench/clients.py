"""Many clients, each with a connection of its own and one job a request. Prints jobs a second."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

import aiohttp


async def _client(url: str, work: Iterator[int]) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in work:
            async with session.post(f"{url}/v1/jobs/submit", json={"command": ["true"], "urgency": 0}) as answer:
                body = await answer.json()
                assert answer.status == 200, body


async def main(url: str, jobs: int, clients: int) -> None:
    work = iter(range(jobs))
    begin = time.perf_counter()
    await asyncio.gather(*(_client(url, work) for _ in range(clients)))
    print(jobs / (time.perf_counter() - begin))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
