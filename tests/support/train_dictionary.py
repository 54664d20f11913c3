"""Make a dictionary for the store's cells: ``python -m tests.support.train_dictionary FILE``.

The samples have the forms in which jobs are stored, in every state and from every kind of client, with random words as
names, commands and paths: so the dictionary knows the forms, and no words of a site. It is trained once. A file that
was written with it needs the very same dictionary, so another one gets another number, see
:mod:`sidecar.store.dictionary`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import zstandard

from sidecar.domain.model import Entry, JobEvents
from sidecar.instance.flux import journal
from sidecar.journal import fold
from sidecar.journal.batch import event_rows, job_row
from sidecar.journal.record import Record

_JOBS = 12_000
_SIZE = 16 * 1024  # bytes of the dictionary
_PROGRAMS = (
    "true", "hostname", "sleep", "echo", "bash", "sh", "python3", "python", "mpirun", "srun", "./run.sh", "./a.out",
    "Rscript", "julia", "lmp", "gmx", "simulate", "train",
)  # fmt: skip
_OPTIONS = (
    "--seed", "--steps", "--input", "--output", "--config", "--threads", "--size", "--epochs", "--verbose", "-n", "-i",
    "-o", "-c", "-m", "-f", "-v",
)  # fmt: skip
_HOSTS = ("node", "node", "compute", "cn", "worker-", "flux-sample-")
_SHELLS = (["sh", "-c"], ["bash", "-c"], ["/bin/sh", "-c"], ["bash", "-s"])
_DIRECTORIES = ("/", "/home/", "/tmp/", "/scratch/", "/scratch/project-", "/data/", "/workflow/", "/p/lustre1/")
_RLIMIT = {
    "cpu": -1, "fsize": -1, "data": -1, "stack": 8388608, "core": 0, "nofile": 1048576, "as": -1, "rss": -1,
    "nproc": -1,
}  # fmt: skip


class _Samples:
    """Random jobs."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def word(self) -> str:
        source = self._random
        letters = "".join(source.choices("etaoinshrdlucmfwypvbgkjqxz", range(26, 0, -1), k=source.randrange(2, 10)))
        return letters + source.choice(("", "", "", f"-{source.randrange(100)}", f"_{source.randrange(10)}"))

    def responses(self) -> Iterator[dict[str, Any]]:
        """Yield journal responses, each with the whole eventlog of a job so far."""
        begin = self._random.uniform(1.7e9, 1.9e9)
        for _ in range(_JOBS):
            begin += self._random.expovariate(1)
            yield self._response(begin)

    def _response(self, begin: float) -> dict[str, Any]:
        source = self._random
        nodes, cores = 1 << max(0, source.randrange(-8, 6)), 1 << source.randrange(6)
        first = source.randrange(64)
        ranks = str(first) if nodes == 1 else f"{first}-{first + nodes - 1}"
        events = self._events(begin, ranks, cores)
        names = source.choice((f"{source.choice(_HOSTS)}[{ranks}]", f"{source.choice(_HOSTS)}{first}", self.word()))
        execution = {
            "R_lite": [{"rank": ranks, "children": {"core": f"0-{cores - 1}" if cores > 1 else "0"}}],
            "nodelist": [names],
            "starttime": round(begin, 1),
            "expiration": source.choice((0.0, round(begin + 3600, 6))),
        }
        response: dict[str, Any] = {
            "id": source.randrange(2**60),
            "events": events,
            "jobspec": self._jobspec(nodes, cores),
        }
        if any(event["name"] == "alloc" for event in events):
            response["R"] = {"version": 1, "execution": execution}
        return response

    def _events(self, begin: float, ranks: str, cores: int) -> list[dict[str, Any]]:
        source, time, user = self._random, begin, self._random.choice((0, 50_000 + self._random.randrange(10_000)))
        urgency = source.choice((16, 16, 16, 0, 31, source.randrange(32)))
        events: list[dict[str, Any]] = []

        def add(name: str, context: dict[str, Any] | None = None, scale: float = 0.02) -> None:
            nonlocal time
            events.append({"timestamp": round(time, 6), "name": name, **({"context": context} if context else {})})
            time += source.expovariate(1 / scale)

        add("submit", {"userid": user, "urgency": urgency, "flags": 0, "version": 1})
        add("validate")
        if source.random() < 0.05:
            description = f"{source.choice(('after-success', 'after-any', 'begin-time'))}={source.randrange(10**9)}"
            add("dependency-add", {"description": description})
            add("dependency-remove", {"description": description})
        add("depend")
        add("priority", {"priority": urgency}, 60)
        end = source.choice(("",) * 12 + ("wait", "wait", "cancel", "cancel-run", "timeout", "run", "fail"))
        note = source.choice(("", "", self.word()))
        if end == "cancel":
            add("exception", {"type": "cancel", "severity": 0, "note": note, "userid": user})
            add("clean")
        if end in ("cancel", "wait"):
            return events
        ranks = f"[{ranks}]" if source.random() < 0.5 else ranks
        summary = f"rank{ranks}/core{cores - 1 if cores == 1 else f'[0-{cores - 1}]'}"
        add("alloc", {"annotations": {"sched": {"resource_summary": summary}}})
        if source.random() < 0.05:
            add("memo", {self.word(): self.word()})
        add("start", scale=600)
        if end == "run":
            return events
        status = 0 if not end else source.choice((256, 256 * source.randrange(256), 15, 9, 36608, 35072))
        if end == "cancel-run":
            add("exception", {"type": "cancel", "severity": 0, "note": note, "userid": user})
        elif end == "timeout":
            note = f"resource allocation expired: {source.randrange(10**4)}"
            add("exception", {"type": "timeout", "severity": 0, "note": note, "userid": 0})
        elif end == "fail" and source.random() < 0.3:
            note = f"task {source.randrange(8)}: No such file or directory"
            add("exception", {"type": "exec", "severity": 0, "note": note, "userid": user})
        add("finish", {"status": status})
        add("release", {"ranks": source.choice(("all", "all", ranks)), "final": True})
        add("free")
        add("clean")
        return events

    def _jobspec(self, nodes: int, cores: int) -> dict[str, Any]:
        source = self._random
        core = {"type": "core", "count": cores}
        within = [core, {"type": "gpu", "count": 1}] if source.random() < 0.1 else [core]
        slot: dict[str, Any] = {"type": "slot", "count": source.randrange(1, 9), "with": within, "label": "task"}
        kind = source.choice(("plain", "plain", "node", "exclusive"))
        node: dict[str, Any] = {"type": "node", "count": nodes, "with": [slot]}
        resource = slot if kind == "plain" else node | ({"exclusive": True} if kind == "exclusive" else {})
        count = {"per_slot": 1} if source.random() < 0.7 else {"total": slot["count"] * nodes}
        system: dict[str, Any] = {"duration": source.choice((0, 0, 600, 60 * source.randrange(1, 2000)))}
        system["cwd"] = source.choice(_DIRECTORIES) + source.choice(("", self.word(), f"{self.word()}/{self.word()}"))
        if source.random() < 0.4:
            system["queue"] = source.choice(("batch", "debug", "gpu", "default", self.word()))
        system["shell"] = source.choice((
            {"options": {"input": {"stdin": {"type": "file", "path": "/dev/null"}}}},
            {"options": {"rlimit": _RLIMIT, "cpu-affinity": "per-task"}},
            {"options": {"rlimit": _RLIMIT}},
            {},
        ))  # fmt: skip
        command = self._command()
        system["job"] = {"name": source.choice((self.word(), command[0].rpartition("/")[2]))}
        if source.random() < 0.1:
            system["dependencies"] = [{"scheme": "afterok", "value": str(source.randrange(10**9))}]
        attributes: dict[str, Any] = {"system": {name: value for name, value in system.items() if value != {}}}
        if source.random() < 0.5:
            own = {
                "submitter": self.word(),
                "key": f"{source.randrange(2**64):x}",
                "request": f"{source.randrange(2**64):x}",
            }
            attributes["user"] = {"flux-sidecar": own if source.random() < 0.3 else {"submitter": own["submitter"]}}
        task = {"command": command, "slot": "task", "count": count}
        parts = {"version": 1, "resources": [resource], "tasks": [task], "attributes": attributes}
        if source.random() < 0.5:  # the bindings of Flux write the version last
            parts["version"] = parts.pop("version")
        return parts

    def _command(self) -> list[str]:
        source = self._random
        if source.random() < 0.2:
            return [*source.choice(_SHELLS), " ".join(self.word() for _ in range(source.randrange(1, 6)))]
        words = [source.choice(_PROGRAMS) if source.random() < 0.5 else self.word()]
        for _ in range(source.randrange(5)):
            option = source.choice((*_OPTIONS, f"--{self.word()}"))
            value = source.choice((str(source.randrange(10_000)), f"{source.randrange(2**32):08x}", self.word()))
            words += [option, value] if source.random() < 0.7 else [value]
        return words


def samples(seed: int = 1) -> Iterator[bytes]:
    """Yield documents, jobspecs, eventlog rows and responses, in equal numbers."""
    for number, response in enumerate(_Samples(seed).responses()):
        text = json.dumps(response, separators=(",", ":"))
        record, entries = _folded(journal.decode(text.encode()))
        row = job_row(record)
        yield row.json.encode()
        yield row.jobspec or b"{}"
        if number % 3 == 0:  # most rows of events have a form of their own, see packing.py
            yield from (json for _, json in event_rows(entries))
            yield text.encode()


def _folded(item: JobEvents) -> tuple[Record, list[Entry]]:
    record = fold.new_record(item)
    assert record
    return record, fold.extend(record, item)


if __name__ == "__main__":
    trained = zstandard.train_dictionary(_SIZE, list(samples()))
    Path(sys.argv[1]).write_bytes(trained.as_bytes())
