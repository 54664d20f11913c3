"""Create jobs as in an instance that has run for a while, through Flux's own bindings.

Every third job ends, the others are held. One in thirty runs to its end in mock execution (Flux schedules it and
starts no process); the others that end are canceled, as Flux runs only some dozens of jobs a second when it holds very
many. The searched texts are created here too, see :func:`words`. Arguments: URI, number of jobs, and
``all`` if all of them are to end.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from typing import Any

_WINDOW = 1000
_FIRST = ("bor", "cel", "dra", "fen", "gal", "hyd", "kel", "lum", "nov", "tar")
_SECOND = ("anis", "beth", "dion", "ecta", "imos", "oran", "ulus", "ygra", "zeph", "wick")

#: About as large as the environment in a pod.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/home/researcher",
    "USER": "researcher",
    "LANG": "C.UTF-8",
    "HOSTNAME": "simulation-0",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "LD_LIBRARY_PATH": "/opt/view/lib:/opt/view/lib64:/usr/local/cuda/lib64",
    "PYTHONPATH": "/opt/view/lib/python3.11/site-packages",
    "OMP_NUM_THREADS": "1",
    "SCRATCH": "/scratch/researcher",
}


def words(number: int) -> dict[str, str]:
    """Return the searchable texts of a job: ``rare`` matches this one, ``middling`` 1 % of all, ``common`` all.

    ``rare`` is a hash that no other job has. ``middling`` is a word, ``numbered`` one that begins like all the
    others: an index of trigrams has to work for the latter.
    """
    hundredth = number % 100
    return {
        "rare": f"{number * 2654435761 % 2**32:08x}",
        "middling": _FIRST[hundredth // 10] + _SECOND[hundredth % 10],
        "numbered": f"project-{hundredth:02d}",
        "common": "simulate",
    }


def ends(number: int) -> bool:
    """Return whether a job ends."""
    return number % 3 == 2


def runs(number: int) -> bool:
    """Return whether an ending job runs to its end."""
    return number % 30 == 2


def jobspec(number: int, mock: bool) -> str:
    """Return the jobspec of a job, RFC 25, as JSON."""
    known = words(number)
    system: dict[str, Any] = {
        "duration": 0,
        "cwd": f"/scratch/{known['numbered']}",
        "environment": ENVIRONMENT,
        "job": {"name": known["middling"]},
    }
    if mock:
        system["exec"] = {"test": {"run_duration": "0.001s"}}
    slot = {"type": "slot", "count": 1, "label": "task", "with": [{"type": "core", "count": 1}]}
    command = [known["common"], "--seed", known["rare"], "--steps", str(1000 + number % 7)]
    task = {"command": command, "slot": "task", "count": {"per_slot": 1}}
    return json.dumps({"version": 1, "resources": [slot], "tasks": [task], "attributes": {"system": system}})


def main(uri: str, jobs: int, which: str = "") -> None:
    import flux
    import flux.job

    handle = flux.Flux(uri)
    submitted: deque[tuple[int, Any]] = deque()
    cancelled: deque[Any] = deque()

    def take() -> None:
        number, future = submitted.popleft()
        job = future.get_id()
        if (which == "all" or ends(number)) and not runs(number):
            cancelled.append(flux.job.cancel_async(handle, job))

    for number in range(jobs):
        mock = runs(number)
        submitted.append((number, flux.job.submit_async(handle, jobspec(number, mock), urgency=16 if mock else 0)))
        if len(submitted) > _WINDOW:
            take()
        if len(cancelled) > _WINDOW:
            cancelled.popleft().get()
    while submitted:
        take()
    while cancelled:
        cancelled.popleft().get()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
