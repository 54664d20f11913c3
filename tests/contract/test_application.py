"""The application in the tests' event loop (pytest-aiohttp): concurrent requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from sidecar.app.server import Server
from tests.support.harness import PATIENCE
from tests.support.settings import make_settings

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(aiohttp_client: Callable[[web.Application], Awaitable[Client]], tmp_path: Path) -> Client:
    client = await aiohttp_client(Server(make_settings(embedded=True, cores=2), tmp_path).application())
    async with asyncio.timeout(PATIENCE):
        while (await client.get("/readyz")).status != 200:
            await asyncio.sleep(0)
    return client


async def submit(client: Client, command: list[str], **more: Any) -> str:
    async with client.post("/v1/jobs/submit", json={"command": command, **more}) as response:
        assert response.status == 200, await response.text()
        return str((await response.json())["f58id"])


async def job(client: Client, jobid: str, **query: str) -> dict[str, Any]:
    async with client.get(f"/v1/jobs/{jobid}", params=query) as response:
        assert response.status == 200, await response.text()
        return dict(await response.json())


async def test_job_from_submit_to_output(client: Client) -> None:
    jobid = await submit(client, ["echo", "hello"])
    assert (await job(client, jobid, wait="60"))["result"] == "COMPLETED"
    async with client.get(f"/v1/jobs/{jobid}/output") as response:
        assert (await response.json())["Output"] == ["hello\n"]


async def test_concurrent_submits_are_in_the_next_list(client: Client) -> None:
    """Each submit is visible to a read that is sent after its response, however far the journal has been read."""
    jobids = await asyncio.gather(*(submit(client, ["true"]) for _ in range(40)))
    assert len(set(jobids)) == 40
    async with client.get("/v1/jobs", params={"limit": "100"}) as response:
        listed = {each["f58id"] for each in (await response.json())["jobs"]}
    assert listed >= set(jobids)


async def test_concurrent_submits_with_one_key_create_one_job(client: Client) -> None:
    async def submit_once() -> str:
        headers = {"Idempotency-Key": "the same"}
        async with client.post("/v1/jobs/submit", json={"command": ["true"]}, headers=headers) as response:
            return str((await response.json())["f58id"])

    assert len(set(await asyncio.gather(*(submit_once() for _ in range(20))))) == 1


async def test_waiters_are_notified_of_a_cancel(client: Client) -> None:
    jobid = await submit(client, ["true"], urgency=0)
    waiters = [asyncio.create_task(job(client, jobid, wait="60")) for _ in range(10)]
    async with client.post(f"/v1/jobs/{jobid}/cancel") as response:
        assert response.status == 200
    assert {each["result"] for each in await asyncio.gather(*waiters)} == {"CANCELED"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("PUT", "/v1/jobs", 405), ("GET", "/v1/jobs?limit=x", 400), ("GET", "/v1/jobs/f1", 404)],
)
async def test_errors_are_problems(client: Client, method: str, path: str, status: int) -> None:
    async with client.request(method, path) as response:
        assert response.status == status
        assert response.content_type == "application/problem+json"
        assert (await response.json())["status"] == status


async def test_close_leaves_no_task(
    aiohttp_client: Callable[[web.Application], Awaitable[Client]], tmp_path: Path
) -> None:
    before = asyncio.all_tasks()
    client = await aiohttp_client(Server(make_settings(embedded=True), tmp_path).application())
    await submit(client, ["sleep", "600"])
    await client.close()
    assert asyncio.all_tasks() == before
