"""Whether this pod can still do its part, by the Job's completed indexes.

A pod is not created again for an index that has succeeded. So a lead that starts after followers have succeeded would
wait for its quorum for ever, and so would a follower after its lead has succeeded. The first fails, with an Event; the
second has nothing left to do. Both write the end file, which ends the broker beside them.

In the lead's server :class:`Outlook` polls the Job. For :mod:`sidecar.follower`, which must stay small, this module is
also a process: ``python -m sidecar.cluster.outlook INDEX END_FILE``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from sidecar.cluster import end_file
from sidecar.cluster.client import ApiServer
from sidecar.cluster.cluster import MAX_RESPONSE, Cluster
from sidecar.cluster.end_file import FAILURE, Verdict
from sidecar.cluster.objects import Job
from sidecar.cluster.obstacles import obstacles
from sidecar.config.early import CREDENTIALS, early_value
from sidecar.config.environment import api_server
from sidecar.domain import idset
from sidecar.domain.errors import ClusterForbidden, Conflict, NotFound, Problem
from sidecar.runtime.log_writer import log_line, use_json

log = structlog.get_logger("outlook")

OVER = 3
"""Exit code of the process when this pod's part is over."""

_BEFORE_RUN = frozenset({"join", "config-sync", "init", "quorum"})
_PERIOD = 5.0  # seconds; the API server is requested only while the instance does not run
_EVENT_AFTER = 30.0  # seconds that a start may take before an Event says what it waits for


class InstanceLost(Exception):
    """The instance can never run again; the text says why."""


def verdict(job: Job, index: int, quorum: int = 0) -> Verdict | None:
    """Return what a Job's completed indexes mean for a pod while its broker does not run.

    Args:
        job: as the API server has it.
        index: the pod's completion index.
        quorum: brokers that the instance needs; 0: one for each index.

    Returns:
        The exit code of the pod; None: it may go on.
    """
    completed = idset.parse(job.completed_indexes)
    if index:
        if 0 not in completed:
            return None
        return Verdict(0, "the lead has completed: there is no instance to join, and nothing left to do")
    followers = [each for each in completed if each]
    size = job.completions or 1
    if not followers or size - len(followers) >= (quorum or size):
        return None
    return Verdict(
        FAILURE,
        f"the followers {idset.encode(followers)} of {size} brokers have completed and are not started again, and the "
        f"instance needs {quorum or size}: the Job fails; install a new release to start again",
    )


async def judge(cluster: Cluster, index: int, quorum: int) -> Verdict | None:
    """Read the Job; record an Event where this pod's part is over by a failure.

    Returns:
        The content of the end file; None: the pod may go on.

    Raises:
        Problem: the Job cannot be read.
    """
    found = verdict((await cluster.snapshot(fresh=True)).job, index, quorum)
    if found and found.code:
        await cluster.record_event("InstanceLost", found.reason, warning=True)
    return found


class Outlook:
    """Has the Job run one lead at a time, and polls whether that can still run; in the server of the lead.

    Args:
        cluster: of this server's pod.
        broker_state: returns the state of the broker.
        quorum: brokers that the instance needs; 0: one for each index of the Job.
        give_up: ends the broker when the instance can never run.
    """

    def __init__(
        self,
        cluster: Cluster,
        broker_state: Callable[[], Awaitable[str]],
        *,
        quorum: int,
        give_up: Callable[[Verdict], Awaitable[None]],
    ) -> None:
        self._cluster = cluster
        self._broker_state = broker_state
        self._quorum = quorum
        self._give_up = give_up
        self.waits_for = ""
        """What keeps the instance from running; empty where it runs, or where that is unknown."""
        self._recorded = ""
        self._since = time.monotonic()

    async def run(self) -> None:
        """Poll until the instance can never run.

        Raises:
            InstanceLost: it cannot; the server ends with this.
        """
        job_changed = False
        while True:
            job_changed = job_changed or await self._change_job()
            await asyncio.sleep(_PERIOD)
            state = await self._state()
            if state and state not in _BEFORE_RUN:
                self.waits_for, self._since = "", time.monotonic()
                continue
            try:
                found = await judge(self._cluster, 0, self._quorum) if state else None
                await self._explain()
            except Problem as exc:
                log.debug("the Job cannot be read", reason=exc.detail)
                continue
            if found:
                await self._give_up(found)
                raise InstanceLost(found.reason)

    async def _state(self) -> str:
        """Return the state of the broker; empty: it does not respond."""
        try:
            return await self._broker_state()
        except Problem as exc:
            log.debug("the broker does not respond", reason=exc.detail)
            return ""

    async def _explain(self) -> None:
        """Note what the instance waits for; after a while record an Event, and another one when that changes."""
        snapshot = await self._cluster.snapshot()
        self.waits_for = obstacles(snapshot.job, snapshot.pods)
        if self.waits_for in ("", self._recorded) or time.monotonic() - self._since < _EVENT_AFTER:
            return
        self._recorded = self.waits_for
        log.warning("the instance does not run yet", reason=self.waits_for)
        message = f"The instance does not run yet: {self.waits_for}"
        await self._cluster.record_event("WaitingForBrokers", message, warning=True)

    async def _change_job(self) -> bool:
        """Return whether nothing is left to change in the Job."""
        try:
            await self._cluster.wait_for_pods()
        except (ClusterForbidden, NotFound, Conflict) as exc:
            log.warning("a lead that is deleted may run twice for a while", reason=exc.detail)
        except Problem as exc:
            log.debug("the Job cannot be read", reason=exc.detail)
            return False
        return True


async def _once(index: int, path: Path) -> int:
    credentials = Path(early_value("kubernetes_credentials", CREDENTIALS))
    cluster = Cluster(
        ApiServer(api_server(early_value("kubernetes_api")), credentials, max_response=MAX_RESPONSE),
        namespace=early_value("kubernetes_namespace"),
        job=early_value("kubernetes_job") or early_value("minicluster"),
        index=index,
    )
    try:
        found = await judge(cluster, index, int(early_value("quorum", "0")))
        if found:
            await asyncio.to_thread(end_file.write, path, found)
    except OSError as exc:
        log_line(f"cannot write the end file, will retry: {exc}", "warning")
        return 0
    except Problem as exc:
        log_line(f"cannot read the Job: {exc.detail}", "warning")
        return 0
    finally:
        await cluster.close()
    return OVER if found else 0


def main() -> None:
    """Judge once; exit with 3 when this pod's part is over."""
    index, path = sys.argv[1:]
    use_json(early_value("log_format") == "json")
    sys.exit(asyncio.run(_once(int(index), Path(path))))


if __name__ == "__main__":
    main()
