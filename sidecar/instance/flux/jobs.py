"""Submits to a Flux instance, and commands to its jobs."""

from __future__ import annotations

import base64
import errno
import os
import time
from typing import Any

import msgspec
import structlog

from sidecar.domain import feasibility, fluid, policy, resource_counts
from sidecar.domain import jobspec as jobspecs
from sidecar.domain.errors import Conflict, Ended, Gone, NotFound, Rejected, Unavailable
from sidecar.domain.jobspec import Prepared
from sidecar.instance.flux import submission
from sidecar.instance.flux.admin import FluxAdmin
from sidecar.instance.flux.client import FluxClient

log = structlog.get_logger("flux")

_RESOURCES_MAX_AGE = 30.0  # seconds; enough to estimate what fits: Flux is asked where nothing does


class FluxJobs:
    """Submits, checks, cancels, signals and prioritizes jobs.

    Args:
        client: sends the requests.
        admin: has the nodes and queues.
    """

    def __init__(self, client: FluxClient, admin: FluxAdmin) -> None:
        self._client = client
        self._admin = admin

    async def submit(self, jobspec: Prepared, urgency: int, *, owner: str) -> int:
        """Submit a job; see :class:`~sidecar.instance.base.Instance`.

        Args:
            jobspec: the job.
            urgency: 0 to 31.
            owner: uid of the instance's owner.
        """
        self._client.status.require_ready()
        await self._check_feasible(jobspec)
        self._client.status.require_ready()  # the broker may have fallen silent meanwhile
        userid = os.getuid()
        start, finish = submission.submission(jobspec.data, urgency, userid=userid, owner=owner == str(userid))
        try:
            return await self._client.call(submission.TOPIC, start, finish)
        except OSError as exc:
            raise Rejected(f"Flux refused the job: {exc.strerror}", errors=[str(exc.strerror)]) from None

    async def check(self, jobspec: Prepared) -> None:
        """Check the queue and its limits, and whether the job could ever run; see the protocol."""
        self._client.status.require_ready()
        await self._check_feasible(jobspec, always_ask=True)
        queues = {queue.name: queue for queue in (await self._admin.queues()).queues}
        name = jobspecs.get(jobspec.outline, "attributes.system.queue")
        queue = queues.get(name) if name else next((queue for queue in queues.values() if queue.default), None)
        if queue is None:
            problem = f"queue: unknown queue {name!r}" if name else "queue: a queue is required, there is no default"
            raise Rejected(f"{problem}; use one of {', '.join(queues)}.")
        if not queue.enabled:
            raise Rejected(f"queue: {queue.name!r} is disabled: {queue.enabled_reason}.")
        try:
            config = await self._client.rpc("config.get")
        except OSError as exc:
            raise Unavailable(f"Flux does not report its limits: {exc.strerror}.") from None
        if faults := policy.faults(config, jobspec.outline, resource_counts.read(jobspec.outline)):
            raise Rejected(" ".join(faults), errors=faults)

    async def _check_feasible(self, jobspec: Prepared, *, always_ask: bool = False) -> None:
        """Refuse a job that no set of nodes can ever run.

        Args:
            jobspec: the job.
            always_ask: send an RPC even if the job fits the known nodes.

        Raises:
            Rejected: it can never run.
        """
        counts = resource_counts.read(jobspec.outline)
        resources = self._admin.known_resources
        if not 0 <= time.time() - resources.updated <= _RESOURCES_MAX_AGE:  # the clock may be set back
            resources = await self._admin.resources()
        nodes = [node for node in resources.nodes if node.rank not in resources.lost]
        missing = feasibility.shortage(counts, nodes) if counts and nodes else None
        if missing is None and not always_ask:
            return
        try:
            await self._client.rpc("feasibility.check", b'{"jobspec":%b}' % jobspec.data)
        except OSError as exc:
            if exc.errno == errno.ENOSYS:  # this scheduler has no such service: it decides after the submit
                return
            errors = [*filter(None, [missing]), str(exc.strerror)]
            raise Rejected(". Flux: ".join(errors), errors=errors) from None

    async def cancel(self, jobid: int, reason: str) -> None:
        """Raise a cancel exception; see :class:`~sidecar.instance.base.Instance`."""
        await self._command("job-manager.raise", jobid, "cancelled", severity=0, type="cancel", note=reason)

    async def send_signal(self, jobid: int, signum: int) -> None:
        """Signal a running job; see :class:`~sidecar.instance.base.Instance`."""
        await self._command("job-manager.kill", jobid, "signalled", signum=signum)

    async def set_urgency(self, jobid: int, urgency: int) -> int:
        """Set the urgency of a pending job; see :class:`~sidecar.instance.base.Instance`."""
        response = await self._command("job-manager.urgency", jobid, "reprioritized", urgency=urgency)
        return int(response["old_urgency"])

    async def _command(self, topic: str, jobid: int, participle: str, **arguments: Any) -> Any:
        self._client.status.require_ready()
        try:
            return await self._client.rpc(topic, {"id": jobid, **arguments})
        except OSError as exc:
            raise _command_error(exc, jobid, participle) from None

    async def jobspec(self, jobid: int) -> dict[str, Any]:
        """Return a job's jobspec as it was submitted: only its signed envelope, J, contains the environment."""
        self._client.status.require_ready()
        try:
            envelope = (await self._client.rpc("job-info.lookup", {"id": jobid, "keys": ["J"], "flags": 0}))["J"]
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                raise Gone(f"Flux has purged job {fluid.f58(jobid)}, and the environment in its jobspec.") from None
            raise NotFound(f"Flux has no jobspec of {fluid.f58(jobid)}: {exc.strerror}.") from None
        try:
            payload = envelope.split(".")[1]  # HEADER.PAYLOAD.SIGNATURE, RFC 15
            spec = msgspec.json.decode(base64.b64decode(payload + "=" * (-len(payload) % 4)), type=dict[str, Any])
        except (AttributeError, IndexError, ValueError, RecursionError) as exc:
            log.warning("a jobspec cannot be read", job=fluid.f58(jobid), reason=str(exc))
            raise NotFound(f"The jobspec that Flux has of {fluid.f58(jobid)} cannot be read.") from None
        return spec


def _command_error(exc: OSError, jobid: int, participle: str) -> NotFound | Conflict:
    """Distinguish an unknown job from one in the wrong state: Flux has one errno for both and different messages."""
    if "unknown job" in str(exc.strerror):
        return NotFound(f"Flux has no job {fluid.f58(jobid)}: {exc.strerror}.")
    kind = Ended if "inactive" in str(exc.strerror) else Conflict
    return kind(f"Job cannot be {participle}: {exc.strerror}.")
