"""Row ``predecessor``: the same requests to flux-restful 1.1.0 from PyPI, beside the same broker.

Both servers are started with their defaults, without authentication, and get the same requests from the same clients in
turns. The broker has 1,000 jobs, which is the most that the predecessor lists. The queue is stopped during the submits,
so that the jobs of both wait and none runs. The row needs PyPI: it installs the predecessor into an environment of its
own, so that its dependencies do not meet those of this server.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from bench.processes import MeasurementError, say
from bench.programs.submit_many import words
from bench.row import Row, number
from bench.site import Site, Volume, load
from tests.support.harness import Process, eventually

_RELEASE = "flux-restful==1.1.0"
_BINDINGS = ("cffi", "ply", "pyyaml")  # flux-python imports them and declares none
_FEW, _MANY = 4, 32  # clients; a submit mostly waits for Flux


class _Kind(NamedTuple):
    """One kind of request."""

    work: str
    method: str
    paths: list[str]
    theirs: int
    """Requests of a round to the predecessor, and to this server."""
    ours: int
    at_least: float
    clients: int = _FEW


class _Predecessor(Process):
    """flux-restful, beside a broker."""

    @property
    def url(self) -> str:
        """The URL at which it listens, once it does."""

        def announced() -> str | None:
            if self.popen.poll() is not None:
                raise MeasurementError(f"flux-restful ended: {self.text().strip().splitlines()[-1]}")
            found = re.search(r"running on (http://[\d.]+:\d+)", self.text())
            return found[1] if found else None

        return eventually(announced, what="flux-restful")


def predecessor(volume: Volume, rounds: int) -> list[Row]:
    """Submits, lists, searches and single jobs."""
    site = volume.thousand
    other = volume.start(_start(volume, site))
    rows = []
    for kind in _kinds(site):
        row = Row(
            key="predecessor",
            work=f"{kind.work}, {kind.clients} clients",
            unit="req/s",
            to_reach=("≥", kind.at_least),
            limit_is=_RELEASE.replace("==", " "),
        )
        stopped = kind.method == "POST"
        if stopped:
            _queue(site, "stop")
        for round_ in range(rounds + 1):
            limit, figure = (
                _rate(volume, url, kind, count)
                for url, count in ((other.url, kind.theirs), (site.server.url, kind.ours))
            )
            if round_:  # the first one is the warm-up
                row.limits.append(limit)
                row.figures.append(figure)
                say(f"  {kind.work}: flux-restful {number(limit)}/s, server {number(figure)}/s")
        if stopped:
            site.broker.run("cancel", "--all", "-f")
            _queue(site, "start")
        rows.append(row)
    return rows


def _kinds(site: Site) -> list[_Kind]:
    """Return the kinds of requests; the submits come last, as they add jobs."""
    text = quote(words(17)["rare"])
    return [
        _Kind("read one job", "GET", [f"/v1/jobs/{jobid}" for jobid in site.ids[:100]], 200, 2000, 10),
        _Kind("list of 1,000 jobs", "GET", ["/v1/jobs"], 8, 400, 50),
        _Kind("list of 1,000 jobs, all fields", "GET", ["/v1/jobs?details=true"], 8, 100, 50),
        _Kind("search, first 10 matches", "GET", [f"/v1/jobs/search?search={text}&start=0&length=10"], 8, 400, 100),
        _Kind("submit, one job a request", "POST", ["/v1/jobs/submit?command=true"], 200, 400, 3, _MANY),
    ]


def _rate(volume: Volume, url: str, kind: _Kind, count: int) -> float:
    requests = [[kind.method, kind.paths[index % len(kind.paths)], {}, ""] for index in range(count)]
    return count / float(load(url, kind.clients, requests, volume.directory)["seconds"])


def _queue(site: Site, command: str) -> None:
    done = site.broker.run("queue", command)
    if done.returncode:
        raise MeasurementError(f"flux queue {command}: {done.stderr.strip()}")


def _start(volume: Volume, site: Site) -> _Predecessor:
    directory = volume.new_directory("predecessor")
    environment = directory / "venv"
    say(f"  installing {_RELEASE}")
    venv.create(environment, with_pip=True)
    argv = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", _RELEASE, *_BINDINGS]
    done = subprocess.run(argv, text=True, capture_output=True, timeout=900)
    if done.returncode:
        raise MeasurementError(f"{_RELEASE} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    bindings = subprocess.run(["flux", "env", "printenv", "PYTHONPATH"], text=True, capture_output=True, timeout=60)
    return _Predecessor(
        [str(environment / "bin/flux-restful"), "serve", "--host", "127.0.0.1", "--port", "0"],
        directory,
        FLUX_URI=site.broker.uri,
        FLUX_AUTH_BACKEND="none",
        PYTHONPATH=os.pathsep.join([bindings.stdout.strip(), *_own_bindings()]),
    )


def _own_bindings() -> list[str]:
    """Return where this Python finds ``flux``, if that is not the path that ``flux env`` shows."""
    found = subprocess.run(
        [sys.executable, "-c", "import flux; print(flux.__path__[0])"], text=True, capture_output=True, timeout=60
    )
    return [str(Path(found.stdout.strip()).parent)] if found.returncode == 0 else []
