"""Whether this pod can still do its part, as the Job's completed indexes tell.

No pod is made again for an index that has succeeded. So a lead that starts when followers have succeeded would wait for
its quorum for ever, and so would a follower whose lead has succeeded. The first fails, with an Event that says why; the
second has nothing left to do. Both write the end file, which ends the broker beside them.

In the lead's server :class:`Outlook` looks; for :mod:`sidecar.follower`, which has no room for what this needs, the
module runs as a process of its own: ``python -m sidecar.outlook INDEX END_FILE``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from sidecar.cluster.client import ApiServer
from sidecar.cluster.cluster import Cluster
from sidecar.cluster.objects import Job
from sidecar.cluster.obstacles import obstacles
from sidecar.config.early import CREDENTIALS, early_value
from sidecar.config.environment import api_server
from sidecar.domain import idset
from sidecar.domain.errors import ClusterForbidden, Conflict, NotFound, Problem
from sidecar.domain.untrusted import digits
from sidecar.runtime.log_writer import say, write_json

log = structlog.get_logger("outlook")

OVER = 3
"""Exit code of the process that has found that this pod's part is over."""

_BEFORE_RUN = frozenset({"join", "config-sync", "init", "quorum"})
_PERIOD = 5.0  # seconds; the API server is asked only while the instance does not run
_TELL_AFTER = 30.0  # seconds that a start may take before an Event says what it waits for
_FAILURE = 1


class InstanceLost(Exception):
    """The instance can never run again; the text says why."""


class Verdict(NamedTuple):
    """What this pod is to end with."""

    code: int
    reason: str


def verdict(job: Job, index: int, quorum: int = 0) -> Verdict | None:
    """Say what the completed indexes of a Job mean for a pod whose broker does not run.

    Args:
        job: as the API server shows it.
        index: the pod's.
        quorum: how many brokers the instance needs; 0: one for each index.

    Returns:
        What the pod is to end with; None: it may go on.
    """
    completed = idset.parse(job.status.completed_indexes)
    if index:
        if 0 not in completed:
            return None
        return Verdict(0, "the lead has completed: there is no instance to join, and nothing left to do")
    gone = [each for each in completed if each]
    size = job.spec.completions or 1
    if not gone or size - len(gone) >= (quorum or size):
        return None
    return Verdict(
        _FAILURE,
        f"the followers {idset.encode(gone)} of {size} brokers have completed and do not come back, and the instance "
        f"needs {quorum or size}: the Job fails; install a new release to begin again",
    )


def write(path: Path, found: Verdict) -> None:
    """Write the end file, whole or not at all; of a failure without a draft where there is no room for one.

    Raises:
        OSError: it cannot be written.
    """
    text = f"{found.code} {' '.join(found.reason.split())}\n"
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()  # what was written of it takes room too
        if not found.code:
            raise
        with contextlib.suppress(OSError):
            path.write_text(text)
        if not path.is_file():  # one that is empty, on a full disk, is read as a failure too
            raise


def read(path: Path) -> Verdict | None:
    """Return what an end file says; None where there is none."""
    try:
        code, _, reason = path.read_text().strip().partition(" ")
    except FileNotFoundError:
        return None
    found = digits(code)
    return Verdict(_FAILURE if found is None else found, reason)


async def judge(cluster: Cluster, index: int, quorum: int) -> Verdict | None:
    """Ask the API server; where this pod's part is over by a failure, leave an Event.

    Returns:
        What the pod is to end with: for the end file.

    Raises:
        Problem: it cannot be asked.
    """
    view = await cluster.look(again=True)
    found = verdict(view.job, index, quorum)
    if found and found.code:
        await cluster.tell("InstanceLost", found.reason, warning=True)
    return found


class Outlook:
    """Has the Job keep to one lead, and looks whether that can still run; in the server of the lead.

    Args:
        cluster: is asked.
        broker_state: returns the state of the broker.
        quorum: how many brokers the instance needs; 0: one for each index of the Job.
        give_up: has the broker ended when the instance can never run.
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
        """What keeps the instance from running; empty where it runs, or where that is not known."""
        self._told = ""
        self._since = time.monotonic()

    async def run(self) -> None:
        """Look until the instance can never run.

        Raises:
            InstanceLost: it cannot; the server ends with this.
        """
        settled = False
        while True:
            settled = settled or await self._settle()
            await asyncio.sleep(_PERIOD)
            state = await self._state()
            if state and state not in _BEFORE_RUN:
                self.waits_for, self._since = "", time.monotonic()
                continue
            try:
                found = await judge(self._cluster, 0, self._quorum) if state else None
                await self._explain()
            except Problem as exc:
                log.debug("the Job cannot be looked at", reason=exc.detail)
                continue
            if found:
                await self._give_up(found)
                raise InstanceLost(found.reason)

    async def _state(self) -> str:
        """Return the state of the broker; empty where it does not answer."""
        try:
            return await self._broker_state()
        except Problem as exc:
            log.debug("the broker does not answer", reason=exc.detail)
            return ""

    async def _explain(self) -> None:
        """Note what the instance waits for; after a while leave an Event, and another one when that changes."""
        view = await self._cluster.look()
        self.waits_for = obstacles(view.job, view.pods)
        if self.waits_for in ("", self._told) or time.monotonic() - self._since < _TELL_AFTER:
            return
        self._told = self.waits_for
        log.warning("the instance does not run yet", reason=self.waits_for)
        await self._cluster.tell("WaitingForBrokers", f"The instance does not run yet: {self.waits_for}", warning=True)

    async def _settle(self) -> bool:
        """Return whether there is nothing left to do about the Job."""
        try:
            await self._cluster.wait_for_pods()
        except (ClusterForbidden, NotFound, Conflict) as exc:
            log.warning("a lead that is deleted may be there twice", reason=exc.detail)
        except Problem as exc:
            log.debug("the Job cannot be looked at", reason=exc.detail)
            return False
        return True


async def _once(index: int, end_file: Path) -> int:
    account = early_value("kubernetes_credentials", CREDENTIALS)
    cluster = Cluster(
        ApiServer(api_server(early_value("kubernetes_api")), Path(account)),
        namespace=early_value("kubernetes_namespace"),
        job=early_value("kubernetes_job") or early_value("minicluster"),
        index=index,
    )
    try:
        found = await judge(cluster, index, int(early_value("quorum", "0")))
        if found:
            await asyncio.to_thread(write, end_file, found)
    except OSError as exc:
        say(f"the end file cannot be written, tried again later: {exc}", "warning")
        return 0
    except Problem as exc:
        say(f"the Job cannot be looked at: {exc.detail}", "warning")
        return 0
    finally:
        await cluster.close()
    return OVER if found else 0


def main() -> None:
    """Look once; exit with 3 when this pod's part is over."""
    index, end_file = sys.argv[1:]
    write_json(early_value("log_format") == "json")
    sys.exit(asyncio.run(_once(int(index), Path(end_file))))


if __name__ == "__main__":
    main()
