"""Use a client that openapi-python-client has generated, as a program of its own: ``python generated_client.py URL``.

The package ``flux_sidecar_client`` is found by PYTHONPATH. Prints what it saw as JSON.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import httpx
from flux_sidecar_client import Client
from flux_sidecar_client.api.jobs import (
    jobs_bulk,
    jobs_cancel,
    jobs_cancel_many,
    jobs_get,
    jobs_list,
    jobs_output,
    jobs_search,
    jobs_stream,
    jobs_submit,
)
from flux_sidecar_client.api.nodes import nodes_list
from flux_sidecar_client.api.service import service_get, service_stop
from flux_sidecar_client.models import CancelMany, JobsGetUntil, SubmitBody
from flux_sidecar_client.types import File


def main(url: str) -> dict[str, Any]:
    """Submit, list, read, follow, cancel and stop.

    Args:
        url: of the server.

    Returns:
        What was seen, by the name of the step.
    """
    client = Client(base_url=url, timeout=httpx.Timeout(120))
    seen: dict[str, Any] = {}
    text = jobs_submit.sync(client=client, body=SubmitBody(command="echo 'one string'", envars={"A": "b"}))
    words = jobs_submit.sync(client=client, body=SubmitBody(command=["printf", "%s\\n", "a list", "of words"]))
    long = jobs_submit.sync(client=client, body=SubmitBody(command=["sleep", "600"], name="long"))
    for name, job in (("string", text), ("list", words)):
        found = jobs_get.sync(job.f58id, client=client, wait=60, until=JobsGetUntil.INACTIVE)
        output = jobs_output.sync(job.f58id, client=client)
        stream = jobs_stream.sync(job.f58id, client=client)
        lines = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
        seen[name] = {
            "id": found.id == job.id,
            "state": found.state,
            "result": found.result,
            "output": output.output,
            "stream": [line["data"] for line in lines if "data" in line],
        }
    ids = {job.f58id for job in (text, words, long)}
    seen["listed"] = ids <= {job.f58id for job in jobs_list.sync(client=client).jobs}
    details = jobs_list.sync(client=client, details=True).additional_properties
    seen["details"] = ids <= {job.f58id for job in details.values()}
    seen["searched"] = jobs_search.sync(client=client, query="long").records_filtered
    seen["nodes"] = len(nodes_list.sync(client=client).nodes)

    many = b"".join(json.dumps({"command": ["true"], "name": "many"}).encode() + b"\n" for _ in range(20))
    bulk = jobs_bulk.sync_detailed(client=client, body=File(payload=io.BytesIO(many + b'{"comand": 1}\n')))
    answers = [json.loads(line) for line in bulk.content.splitlines()]
    seen["bulk"] = [bulk.status_code, sum("f58id" in each for each in answers), answers[-1]["status"]]

    refused = jobs_submit.sync(client=client, body=SubmitBody(command="true", num_tasks=0))
    seen["refused"] = [refused.status, bool(refused.detail)]
    missing = jobs_get.sync("f1", client=client)
    seen["missing"] = [missing.status, missing.title]

    jobs_cancel.sync(long.f58id, client=client)
    seen["cancelled"] = jobs_get.sync(long.f58id, client=client, wait=60).result
    held = jobs_submit.sync(client=client, body=SubmitBody(command="true", urgency=0, name="held"))
    answer = jobs_cancel_many.sync(client=client, body=CancelMany(name="held"))
    seen["cancelled by name"] = [answer.matched, jobs_get.sync(held.f58id, client=client, wait=60).result]

    seen["service"] = service_get.sync(client=client).state
    stopping = service_stop.sync_detailed(client=client)
    seen["stop"] = [stopping.status_code, stopping.parsed.state]
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1]), default=str))
