"""Print all jobs as Flux reports them: job-list's attributes, `flux jobs --json`, eventlogs, jobspecs, R, outputs.

Its argument is the instance's URI; it prints a JSON object with one object per job.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from typing import Any

import flux
import flux.job
from flux.job import JobInfo
from flux.job.output import job_output

_KEYS = ("eventlog", "jobspec", "J", "guest.output")

handle = flux.Flux(sys.argv[1])


def lookup(jobid: int, key: str) -> Any:
    """Return a key as `flux job info` prints it, with all updates so far; None if it is missing."""
    try:
        found = flux.job.job_kvs_lookup(handle, jobid, keys=[key], decode=False)[key]
    except (OSError, TypeError, KeyError):
        return None
    if key == "J":  # signed: HEADER.PAYLOAD.SIGNATURE, RFC 15
        return base64.b64decode(found.split(".")[1]).decode()
    return found


def written(jobid: int) -> list[str] | None:
    """Return stdout, stderr and messages from Flux's library, or from `flux job attach` if the library fails."""
    try:
        return list(job_output(handle, jobid, nowait=True, log_stderr_level=-1))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # a message of a shell that has no rank yet
        done = subprocess.run(["flux", "job", "attach", str(jobid)], text=True, capture_output=True, timeout=60)
        return [done.stdout, "", "\n".join(re.findall(r"^[0-9.]+s: (flux-shell.*)$", done.stderr, re.MULTILINE))]


def plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | list | dict | None) else str(value)


found = {}
for job in handle.rpc("job-list.list", {"max_entries": 0, "attrs": ["all"]}, 0).get()["jobs"]:
    shown = {name: plain(value) for name, value in JobInfo(job).to_dict(filtered=False).items()}
    found[job["id"]] = {"job-list": job, "jobs": shown, "written": written(job["id"])}
    found[job["id"]] |= {key: lookup(job["id"], key) for key in _KEYS}
print(json.dumps(found))
