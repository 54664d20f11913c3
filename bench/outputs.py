"""Rows ``outputs-*``: long outputs, read by ten clients at once in every form, while another client submits.

Output becomes an eventlog in Flux of two to fifty times its size, so the length of the lines matters: 60 MB in lines of
40 bytes are 200 MB of it, 10 MB in lines of two bytes 500 MB. Each reader must get every byte. The submits use their
own connection, ten a second; the row ``latency`` shows their latency without readers.
"""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from bench.processes import MeasurementError, Memory, Probe, program, result, say
from bench.row import Row, number, percentile
from bench.site import Volume

_READERS = 10
_LINES = {
    "outputs-40": ("60 MB in lines of 40 bytes", "seq -f %039.0f {}", 1_500_000, lambda n: b"%039d\n" % n),
    "outputs-2": ("10 MB in lines of 2 bytes", "yes | head -n {}", 5_000_000, lambda n: b"y\n"),
}


class Submits(Probe):
    """A client that submits held jobs, one after another, while the context is active."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "/livez")
        self._interval = 0.1

    def look(self) -> None:
        """Submit once."""
        begin = time.perf_counter()
        body = b'{"command":"true","urgency":0}'
        self._connection.request("POST", "/v1/jobs/submit", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise MeasurementError(f"a submit was answered {answer.status}")
        self.latencies.append(time.perf_counter() - begin)


def outputs(volume: Volume, rounds: int) -> list[Row]:
    """Ten readers of a long output, in four forms."""
    return [row for key in _LINES for row in _rows(volume, rounds, key)]


def _rows(volume: Volume, rounds: int, key: str) -> list[Row]:
    what, command, count, line = _LINES[key]
    memory = Row(key=f"{key}-memory", work=f"{what}, 10 readers: memory", unit="MB", to_reach=("≤", 60.0),
                 beside="alone", judge=max)  # fmt: skip
    submit = Row(key=f"{key}-submit", work=f"{what}, 10 readers: submits meanwhile, p99", unit="ms",
                 to_reach=("≤", 500.0), beside="alone", judge=max)  # fmt: skip
    tail = Row(key=f"{key}-tail", work=f"{what}: its last 10 lines", unit="ms", to_reach=("≤", 500.0),
               beside="alone")  # fmt: skip
    server = volume.empty.server
    job = server.run(["sh", "-c", command.format(count)], within=1800)["id"]
    digest = _digest(count, line)
    for _ in range(rounds):
        tail.figures.append(_tail(server.url, job) * 1000)
        with (
            Memory(server.pid) as growth,
            Submits(server.url) as submits,
            program("outputs", server.url, job, _READERS) as process,
        ):
            found = result(process)
        if wrong := [each["kind"] for each in found if each["digest"] != digest]:
            raise MeasurementError(f"not every byte has arrived: {', '.join(wrong)}")
        memory.figures.append(growth.growth)
        submit.figures.append(percentile(submits.latencies, 0.99) * 1000)
        took = {each["kind"]: number(each["seconds"]) for each in sorted(found, key=lambda each: each["seconds"])}
        memory.note = ", ".join(f"{kind} {seconds} s" for kind, seconds in took.items())
        submit.note = f"{len(submits.latencies)} submits, worst {number(max(submits.latencies) * 1000)} ms"
        say(f"  {key}: +{number(growth.growth)} MB, {submit.note}, tail {number(tail.figures[-1])} ms; {memory.note}")
    return [memory, submit, tail]


def _digest(count: int, line: Callable[[int], bytes]) -> str:
    digest = hashlib.sha256()
    for first in range(1, count + 1, 10_000):
        digest.update(b"".join(line(each) for each in range(first, min(first + 10_000, count + 1))))
    return digest.hexdigest()


def _tail(url: str, job: int) -> float:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
    begin = time.perf_counter()
    connection.request("GET", f"/v1/jobs/{job}/output/stream?tail=10&follow=false", headers={"Accept": "text/plain"})
    lines = connection.getresponse().read().splitlines()
    if len(lines) != 10:
        raise MeasurementError(f"{len(lines)} lines instead of 10")
    return time.perf_counter() - begin
