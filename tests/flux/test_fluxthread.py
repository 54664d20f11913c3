"""The Flux thread: an error of one request, response or callback affects no other one, and not the thread."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from sidecar.domain.errors import ResponseTimeout, Unavailable
from tests.support.harness import FLUX, Broker, eventually

if FLUX:  # these tests are collected, and counted, without Flux too
    import flux
    import flux.job

    from sidecar.instance.flux import submission
    from sidecar.instance.flux.broker import Broker as Known
    from sidecar.instance.flux.callbacks import Callbacks
    from sidecar.instance.flux.thread import FluxThread

Start = Callable[[Any], Any]


class Recorder:
    """Records the callbacks of a thread."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.brokers: list[Known] = []
        self.events: list[Any] = []
        self.crashes: list[BaseException] = []
        self.interruptions = 0
        self.failures: list[str] = []

    def callbacks(self) -> Callbacks:
        return Callbacks(
            connected=self._connected,
            events=self.events.append,
            interrupted=self._interrupted,
            disconnected=self.failures.append,
            connect_failed=self.failures.append,
            refused=self.failures.append,
            crashed=self.crashes.append,
            backlog=lambda: 0,
        )

    def _interrupted(self) -> None:
        self.interruptions += 1

    def _connected(self, broker: Known) -> None:
        self.brokers.append(broker)
        self.connected.set()


@asynccontextmanager
async def running(uri: str, recorder: Recorder) -> AsyncIterator[FluxThread]:
    thread = FluxThread(uri, None, asyncio.get_running_loop(), recorder.callbacks())
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


def get_state(handle: Any) -> Any:
    return handle.rpc("state-machine.get", None, 0)


def state(rpc: Any) -> str:
    return str(rpc.get()["state"])


async def test_all_requests_are_answered_without_a_connection(tmp_path: Path) -> None:
    """The event loop keeps sending while the thread fails waiting requests: all are answered, and the thread survives."""
    async with asyncio.timeout(60), running(f"local://{tmp_path}/none", Recorder()) as thread:
        calls = []
        for _ in range(500):
            calls += [thread.requests.call(get_state, state) for _ in range(100)]
            await asyncio.sleep(0)
        responses = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(response, Unavailable) for response in responses)
        assert thread.is_alive()
    with pytest.raises(Unavailable, match="is lost"):
        async with asyncio.timeout(10):
            await thread.requests.call(get_state, state)


async def test_an_error_of_one_request(broker: Broker) -> None:
    recorder = Recorder()
    async with asyncio.timeout(60), running(broker.uri, recorder) as thread:
        await recorder.connected.wait()

        def fails(_: Any) -> Any:
            raise TypeError("no such request")

        before = thread.requests.call(get_state, state)
        failing, unread = thread.requests.call(fails, state), thread.requests.call(get_state, fails)
        after = thread.requests.call(get_state, state)
        with pytest.raises(TypeError, match="no such request"):
            await failing
        with pytest.raises(OSError, match="unexpected response"):
            await unread
        assert (await before, await after) == ("run", "run")
    assert (len(recorder.brokers), recorder.failures, recorder.crashes) == (1, [], [])


async def test_an_error_of_one_callback(broker: Broker) -> None:
    recorder = Recorder()
    callbacks = recorder.callbacks()

    def fails(_: Any) -> None:
        raise KeyError("nothing to do with the others")

    callbacks.events = fails
    thread = FluxThread(broker.uri, None, asyncio.get_running_loop(), callbacks)
    with structlog.testing.capture_logs() as logs:
        thread.start()
        async with asyncio.timeout(30):
            await recorder.connected.wait()
            assert await thread.requests.call(get_state, state) == "run"
            while not logs:
                await asyncio.sleep(0.01)
        thread.stop()
        await asyncio.to_thread(thread.join, 10)
    assert "nothing to do with the others" in logs[0]["reason"]


async def test_journal_survives_the_cycle_collector(broker: Broker) -> None:
    """flux-python drops its own reference to the future with the first response."""
    recorder = Recorder()
    async with asyncio.timeout(60), running(broker.uri, recorder):
        await recorder.connected.wait()
        gc.collect()
        submitted = await asyncio.to_thread(broker.run, "submit", "true")
        assert submitted.returncode == 0
        while not any(each.id > 0 for each in recorder.events):
            await asyncio.sleep(0.01)


async def test_a_journal_while_nothing_is_stored(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is canceled while too much waits to be stored; later its history is read again."""
    monkeypatch.setattr("sidecar.instance.flux.journal_reader._TOO_FAR", 99)
    recorder, backlog = Recorder(), [0]
    callbacks = recorder.callbacks()
    callbacks.backlog = lambda: backlog[0]
    submit = "import flux.job,sys; [flux.job.submit(flux.Flux(), flux.job.JobspecV1.from_command(['true']), urgency=0) for _ in range(5)]"

    async def submitted() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", submit, env={**os.environ, "FLUX_URI": broker.uri}
        )
        assert await process.wait() == 0

    thread = FluxThread(broker.uri, None, asyncio.get_running_loop(), callbacks)
    with structlog.testing.capture_logs() as logs:
        thread.start()
        async with asyncio.timeout(60):
            await recorder.connected.wait()
            backlog[0] = 100
            await submitted()
            while not logs:
                await asyncio.sleep(0.01)
            assert await thread.requests.call(get_state, state) == "run"
            await submitted()
            assert await thread.requests.call(get_state, state) == "run"
            assert len({each.id for each in recorder.events if each.id > 0}) <= 5
            backlog[0] = 0
            while len(recorder.brokers) < 2 or len({each.id for each in recorder.events if each.id > 0}) < 10:
                await asyncio.sleep(0.01)
        thread.stop()
        await asyncio.to_thread(thread.join, 10)
    assert [line["event"] for line in logs] == ["the journal is not followed: too much of it waits to be stored"]
    assert recorder.failures == ["the history is read again"]
    assert recorder.interruptions == 1


async def test_a_service_that_never_responds(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of waiting requests is bounded: the thread reconnects, and all of them fail."""
    monkeypatch.setattr("sidecar.instance.flux.thread._MOST_LATE", 20)
    recorder = Recorder()
    async with asyncio.timeout(60), running(broker.uri, recorder) as thread:
        await recorder.connected.wait()
        version = {"rootseq": 10**9, "namespace": "primary"}
        calls = [
            thread.requests.call(lambda handle: handle.rpc("kvs.wait-version", version, 0), state) for _ in range(30)
        ]
        assert await thread.requests.call(get_state, state) == "run"
        thread.expire_before(time.monotonic(), "no response")
        expired = await asyncio.gather(*calls, return_exceptions=True)
        late = [cast(ResponseTimeout, response).result for response in expired]
        ended = await asyncio.gather(*late, return_exceptions=True)
        assert all(isinstance(response, Unavailable) for response in ended)
        while len(recorder.brokers) < 2:
            await asyncio.sleep(0.01)
    assert not thread.requests.late


async def test_an_expired_request_that_was_not_sent_never_is(broker: Broker) -> None:
    """Its caller repeats it: sent later, a submit would be a second job."""
    recorder, sent, hangs = Recorder(), threading.Event(), threading.Event()

    def hang(handle: Any) -> Any:
        hangs.set()
        assert sent.wait(60), "the test has failed"
        return get_state(handle)

    def note(handle: Any) -> Any:
        calls.append("sent")
        return get_state(handle)

    calls: list[str] = []
    async with asyncio.timeout(60), running(broker.uri, recorder) as thread:
        await recorder.connected.wait()
        started = thread.requests.call(hang, state)
        while not hangs.is_set():
            await asyncio.sleep(0.01)
        waiting = thread.requests.call(note, state)
        thread.expire_before(time.monotonic(), "The Flux thread has done nothing for 2 s.")
        with pytest.raises(ResponseTimeout, match="may still be carried out") as expired:
            await started
        with pytest.raises(Unavailable, match="was not sent"):
            await waiting
        sent.set()
        assert await expired.value.result == "run"
        assert await thread.requests.call(get_state, state) == "run"
    assert calls == []


async def test_an_error_while_connecting(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread retries, and reports the error."""
    tries: list[None] = []
    recorder = Recorder()
    connect = FluxThread._connect

    def sometimes(self: FluxThread) -> Known:
        tries.append(None)
        if len(tries) < 3:
            raise KeyError("state")  # as a response without it would
        return connect(self)

    monkeypatch.setattr(FluxThread, "_connect", sometimes)
    async with asyncio.timeout(60), running(broker.uri, recorder) as thread:
        await recorder.connected.wait()
        assert await thread.requests.call(get_state, state) == "run"
    assert [repr(exc) for exc in recorder.crashes] == ["KeyError('state')"] * 2
    assert recorder.failures == []


# ------------------------------------------------------------------------------------------------------ submits

SPEC = {
    "version": 1,
    "resources": [{"type": "slot", "count": 1, "label": "t", "with": [{"type": "core", "count": 1}]}],
    "tasks": [{"command": ["true"], "slot": "t", "count": {"per_slot": 1}}],
    "attributes": {"system": {"duration": 0, "cwd": "/", "environment": {}}},
}


def test_the_signature_equals_that_of_libflux(broker: Broker) -> None:
    text = json.dumps(SPEC).encode()
    handle = flux.Flux(broker.uri)
    job = flux.job.submit(handle, text.decode(), urgency=0)
    theirs = handle.rpc("job-info.lookup", {"id": job, "keys": ["J"], "flags": 0}).get()["J"]
    assert submission.sign(text, os.getuid()) == theirs


BAD: list[tuple[Any, int]] = [
    ({**SPEC, "version": 99}, 16),
    ({**SPEC, "attributes": {"system": {"duration": 0, "queue": "nope"}}}, 16),
    ({**SPEC, "attributes": {"system": {"duration": 0, "dependencies": [{"scheme": "no", "value": "1"}]}}}, 16),
    (SPEC, 32),
    (SPEC, -2),
    ("text", 16),
]


@pytest.mark.parametrize("owner", [True, False])
async def test_submits(broker: Broker, owner: bool) -> None:
    """A jobspec that is signed here is accepted or refused as one that libflux signs, with the same message."""
    recorder = Recorder()

    async with asyncio.timeout(60), running(broker.uri, recorder) as thread:
        await recorder.connected.wait()

        async def submit(spec: Any, urgency: int, owner: bool) -> int | str:
            request = submission.submission(json.dumps(spec).encode(), urgency, userid=os.getuid(), owner=owner)
            try:
                return await thread.requests.call(*request)
            except OSError as exc:
                return str(exc.strerror)

        job = await submit(SPEC, 0, owner)
        assert isinstance(job, int)
        listed = broker.run("jobs", "-a", "-n", "-o", "{id.dec} {urgency}").stdout.split()
        assert listed == [str(job), "0"]
        for spec, urgency in BAD:
            refusal = await submit(spec, urgency, owner)
            assert isinstance(refusal, str)
            assert refusal == await submit(spec, urgency, not owner)
    spec = base64.b64decode(broker.run("job", "info", str(job), "J").stdout.split(".")[1])
    assert json.loads(spec) == SPEC


class Result:
    """The result of a response."""


async def test_a_response_is_freed_after_it_was_read(broker: Broker) -> None:
    """Without the cycle collector, which counts some hundred responses of megabytes as some hundred objects."""
    recorder = Recorder()
    gc.disable()
    try:
        async with running(broker.uri, recorder) as thread:
            await recorder.connected.wait()
            kept = [weakref.ref(await thread.requests.call(get_state, lambda _: Result())) for _ in range(3)]
            await asyncio.to_thread(eventually, lambda: not any(each() for each in kept), what="no result in memory")
    finally:
        gc.enable()
