"""How a jobspec is sent to Flux: signed here by the instance's owner, or by libflux for every other user.

``flux_job_submit`` of libflux, where it is built without flux-security, never frees what it has signed: 4 kB for each
job, for good. The owner may sign with the mechanism ``none``, which takes no library.
"""

from __future__ import annotations

import base64
from typing import Any

import flux.job
import msgspec
from flux.core.inner import ffi, raw

from sidecar.instance.flux.thread import Finish, Start

TOPIC = "job-ingest.submit"


def submission(jobspec: bytes, urgency: int, *, userid: int, owner: bool) -> tuple[Start, Finish[int]]:
    """Return what sends a jobspec and what reads the job's id from the answer, for :meth:`FluxThread.call`.

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
    """Sign with the mechanism ``none`` (RFC 15): HEADER.PAYLOAD.SIGNATURE, the last being the name of the mechanism."""
    header = f"version\0i1\0userid\0i{userid}\0mechanism\0snone\0".encode()
    return f"{base64.b64encode(header).decode()}.{base64.b64encode(jobspec).decode()}.none"


def _submitted_id(future: Any) -> int:
    """Return the FLUID of a submit that was answered; ``get_id()`` would wait for what is there already."""
    fluid = ffi.new("flux_jobid_t[1]")
    raw.flux_job_submit_get_id(future.handle, fluid)
    return int(fluid[0])
