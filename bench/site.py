"""The volume: brokers that hold many jobs, and their servers, started when a row first needs them."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bench.processes import MeasurementError, Memory, Probe, program, result, run, say
from bench.programs.submit_many import ends
from tests.support.harness import Broker, Process, Server, beside, eventually

P = TypeVar("P", bound=Process)

HERE = {"PYTHONPATH": str(Path(__file__).parent.parent)}
"""Environment in which :mod:`bench.programs` are found."""
_CORES = 16  # of mock execution; no process runs on them


class Site:
    """A broker with jobs, and a server beside it that has read all of them."""

    def __init__(self, broker: Broker, server: Server, jobs: int, *, all_end: bool = False) -> None:
        self.broker, self.server, self.jobs = broker, server, jobs
        self.held = 0 if all_end else sum(not ends(number) for number in range(jobs))

    @cached_property
    def ids(self) -> list[str]:
        """The jobs' IDs as browsers write them (f58, in ASCII), newest first."""
        jobs = self.server.http.get("/v1/jobs").json()["jobs"]
        if len(jobs) < self.jobs:
            raise MeasurementError(f"the store has {len(jobs)} of {self.jobs} jobs")
        return [job["f58id"].replace("ƒ", "f") for job in jobs]


class Volume:
    """All brokers and servers that the rows measure. All its processes end with ``stack``."""

    def __init__(self, directory: Path, jobs: int, stack: ExitStack) -> None:
        self.directory, self.jobs, self._stack = directory, jobs, stack
        self.random = random.Random(88)  # noqa: S311 - the same questions in every run
        self._number = 0

    def new_directory(self, name: str) -> Path:
        """Return an unused directory."""
        self._number += 1
        path = self.directory / f"{self._number}-{name}"
        path.mkdir()
        return path

    @cached_property
    def full(self) -> Site:
        """All the jobs: two thirds held, one third ended."""
        return self._site("full", self.jobs)

    @cached_property
    def ended(self) -> Site:
        """As many jobs, all ended: the history of an instance that has run for a while."""
        return self._site("ended", self.jobs, all_end=True)

    @cached_property
    def small(self) -> Site:
        """A tenth of the jobs, beside its own broker: it is measured in turns with the full one."""
        return self._site("small", max(10, self.jobs // 10))

    @cached_property
    def thousand(self) -> Site:
        """A thousand jobs, beside their own broker."""
        return self._site("thousand", 1000)

    @cached_property
    def empty(self) -> Site:
        """No jobs."""
        broker = self._broker("empty")
        return Site(broker, self.server(broker, "empty-server").ready(), 0)

    @cached_property
    def bare(self) -> Broker:
        """A broker with as many jobs of the same kinds and without a server: the limit of submits.

        The duration of a submit grows with Flux's KVS: a broker whose jobs are all held, and were submitted in half the
        time, responds in two thirds of the time.
        """
        broker = self._broker("bare")
        self._submit(broker, self.jobs)
        ended = re.compile(r"(?<!\d)0 running")
        eventually(
            lambda: ended.search(broker.run("jobs", "--stats-only").stdout), within=600, what="the jobs that end"
        )
        return broker

    def start(self, process: P) -> P:
        """End a process with the volume, or earlier by ``close()``."""
        self._stack.callback(process.close)
        return process

    def server(self, broker: Broker, name: str) -> Server:
        """Start a server with its own store, which does not stop the broker when it ends."""
        directory = self.new_directory(name)
        store = directory / "jobs.sqlite"
        return self.start(beside(broker, directory, "--store", str(store), "--no-stop-on-signal", "--rate-limit", "0"))

    def generated(self, name: str, ended: int, rate: float, *options: str) -> tuple[Server, Path]:
        """Start a server whose jobs are generated, without Flux, see :mod:`bench.programs.generated_server`.

        Args:
            name: of its directory.
            ended: number of jobs in the history.
            rate: new jobs per second.
            options: further options of the server.

        Returns:
            The server, and the path of its store.
        """
        directory = self.new_directory(name)
        store = directory / "jobs.sqlite"
        argv = [sys.executable, "-m", "bench.programs.generated_server", str(ended), str(rate), "serve", "--embedded"]
        argv += ["--port", "0", "--store", str(store), "--rate-limit", "0", *options]
        return self.start(Server(argv, directory, **HERE)), store

    def discard(self, server: Server) -> None:
        """End a server that is no longer needed, and remove its store."""
        server.close()
        shutil.rmtree(server.log.parent, ignore_errors=True)

    def _broker(self, name: str) -> Broker:
        directory = self.new_directory(name)
        (directory / "run").mkdir()  # otherwise the files of a killed broker would remain
        broker = self.start(Broker(directory, f"-Srundir={directory}/run", cores=_CORES)).running()
        eventually(lambda: " run " in broker.run("uptime").stdout, what="a broker that accepts jobs")
        return broker

    def _site(self, name: str, jobs: int, *, all_end: bool = False) -> Site:
        broker = self._broker(name)
        server = self.server(broker, f"{name}-server").ready()
        site = Site(broker, server, jobs, all_end=all_end)
        self._submit(broker, jobs, lambda: self._active(site), *(("all",) if all_end else ()))
        patience = time.monotonic() + 60 + jobs / 20
        while (active := self._active(site)) > site.held:
            say(f"  {name}: {active - site.held} jobs have yet to end")
            if time.monotonic() > patience:
                raise MeasurementError(f"{active - site.held} jobs do not end")
            time.sleep(2)
        total = server.http.get("/v1/jobs/search", params={"length": 0}).json()["recordsTotal"]
        if total != jobs:
            raise MeasurementError(f"the store has {total} of {jobs} jobs")
        return site

    def _active(self, site: Site) -> int:
        return int(site.server.http.get("/v1/service").json()["active_jobs"])

    def _submit(self, broker: Broker, jobs: int, active: Callable[[], int] | None = None, *which: str) -> None:
        say(f"submitting {jobs} jobs")
        begin = time.monotonic()
        with program("submit_many", broker.uri, jobs, *which) as process:
            while process.poll() is None:
                time.sleep(0.2)
                if active and int(time.monotonic() - begin) % 10 == 9:
                    say(f"  {active()} jobs are active")
                    time.sleep(1)
            result(process)
        say(f"  submitted in {time.monotonic() - begin:.0f} s")


class Fill(NamedTuple):
    """A fill of a new store."""

    server: Server
    ready: float
    """Seconds from the start of the server to the first 200 of /readyz."""
    seconds: float
    """Seconds from its connection to the end of the history."""
    probes: dict[str, Probe]
    """Latencies meanwhile, by path."""
    memory: float
    """Largest resident memory of all its processes together, in MB."""


def fill(volume: Volume, site: Site) -> Fill:
    """Replace a site's server by one with a new store, and wait until that has read all jobs.

    An instance has one server at a time: a second one is refused.
    """
    volume.discard(site.server)
    begin = time.time()
    server = site.server = volume.server(site.broker, "fill")
    paths = ("/livez", "/v1/jobs?limit=1", "/")
    with ExitStack() as stack:
        ready = stack.enter_context(Probe(server.url, "/readyz"))
        memory = stack.enter_context(Memory(server.pid, children=True))
        probes = {path: stack.enter_context(Probe(server.url, path)) for path in paths}
        eventually(lambda: "history is read" in server.text(), within=60 + volume.jobs / 100, what="the whole history")
    for path, probe in probes.items():
        if probe.status != 200:
            raise MeasurementError(f"{path} is {probe.status} while the store is filled")
    seconds = logged(server, "history is read") - logged(server, "connected")
    return Fill(server, ready.since - begin, seconds, probes, memory.most)


def logged(server: Server, event: str) -> float:
    """Return the time of a line in the server's log, ``time.time()``."""
    found = re.search(rf"(\d{{4}}-\d\d-\d\dT[\d:.]+Z) \[info +\] {event}", server.text())
    if not found:
        raise MeasurementError(f"the server's log has no line {event!r}")
    return datetime.fromisoformat(found[1]).timestamp()


def load(url: str, connections: int, requests: list[list[Any]], directory: Path) -> dict[str, Any]:
    """Send requests ``[method, path, headers, body]``; see :mod:`bench.programs.clients`."""
    file = directory / "requests.json"
    file.write_text(json.dumps(requests))
    return dict(run("clients", url, connections, file))
