"""Submits of jobspecs to Flux: signed here for the instance's owner, by libflux for every other user.

``flux_job_submit`` of a libflux that was built without flux-security never frees its signature: 4 kB for each job. The
owner may sign with the mechanism ``none``, which needs no library.
"""

from __future__ import annotations

import base64
from typing import Any

import flux.job
import msgspec
from flux.core.inner import ffi, raw

from sidecar.instance.flux.requests import Finish, Start

TOPIC = "job-ingest.submit"


def submission(jobspec: bytes, urgency: int, *, userid: int, owner: bool) -> tuple[Start, Finish[int]]:
    """Return the functions that send a jobspec and read the jobid from the response, for :meth:`Requests.call`.

    Args:
        jobspec: its JSON.
        urgency: 0 to 31.
        userid: of this process.
        owner: whether that is the instance's owner.
    """
    if not owner:
        text = jobspec.decode()
        return (lambda handle: flux.job.submit_async(handle, text, urgency=urgency)), _submitted_id
    request = msgspec.json.encode({"J": sign(jobspec, userid), "urgency": urgency, "flags": 0})
    return (lambda handle: handle.rpc(TOPIC, request, 0)), lambda rpc: int(rpc.get()["id"])


def sign(jobspec: bytes, userid: int) -> str:
    """Sign with the mechanism ``none`` (RFC 15): HEADER.PAYLOAD.SIGNATURE, where the last is the mechanism's name."""
    header = f"version\0i1\0userid\0i{userid}\0mechanism\0snone\0".encode()
    return f"{base64.b64encode(header).decode()}.{base64.b64encode(jobspec).decode()}.none"


def _submitted_id(future: Any) -> int:
    """Return the jobid from the response to a submit; ``get_id()`` would wait although the response is there."""
    jobid = ffi.new("flux_jobid_t[1]")
    raw.flux_job_submit_get_id(future.handle, jobid)
    return int(jobid[0])
