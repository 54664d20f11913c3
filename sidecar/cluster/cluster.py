"""This server's place in Kubernetes: its pods, their Job, and the MiniCluster of the Flux Operator that owns it.

All of it is asked of the API server with the service account of the pod, which a Role has to let; :data:`RULES` says
what for, and errors name the rule that is missing.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
import structlog
from msgspec import Struct

from sidecar.cluster.client import ApiError, ApiServer
from sidecar.cluster.objects import INDEX, Job, MiniCluster, Pod, Pods
from sidecar.domain.errors import ClusterForbidden, ClusterUnavailable, Conflict, NotFound
from sidecar.runtime.tasks import CLOSE_TIMEOUT

T = TypeVar("T")
log = structlog.get_logger("kubernetes")

FLUX = "flux-framework.org"

_LARGEST = 32 << 20  # bytes of an answer: the pods of a Job have some 10 KiB each, and there is no more than one a node
_MAX_AGE = 1.0
_ONE_POD = "Failed"  # of podReplacementPolicy
_MERGE = "application/merge-patch+json"
_EVENT_TIMEOUT = 2.0
_LONGEST_NOTE = 1024  # of an Event's message


class Rule(NamedTuple):
    """A rule of a Role."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f'{{apiGroups: ["{self.group}"], resources: ["{self.resource}"], verbs: ["{self.verb}"]}}'


PODS = Rule("", "pods", "list")
JOB = Rule("batch", "jobs", "get")
JOB_CHANGE = Rule("batch", "jobs", "patch")
MINICLUSTER = Rule(FLUX, "miniclusters", "get")
SCALE = Rule(FLUX, "miniclusters/scale", "patch")
EVENT = Rule("", "events", "create")

#: Everything that a Role in the pod's namespace has to allow; each but PODS and JOB only for what it is named after.
RULES = (PODS, JOB, JOB_CHANGE, MINICLUSTER, SCALE, EVENT)


class ClusterSnapshot(NamedTuple):
    """All of it, as it was at one time (Unix seconds)."""

    minicluster: MiniCluster | None
    job: Job
    pods: list[Pod]
    updated: float


class Cluster:
    """The Job that this server's pod belongs to, and what is around it.

    Args:
        server: is asked.
        namespace: of all of it; empty: the pod's own.
        job: the Job's name, which is the MiniCluster's too; empty: whose pod has this machine's host name.
        index: this pod's completion index.
    """

    def __init__(self, server: ApiServer, *, namespace: str = "", job: str = "", index: int = 0) -> None:
        self._server = server
        self._namespace = namespace
        self._job = job
        self._index = index
        self._view: ClusterSnapshot | None = None
        self._looked = 0.0  # by the monotonic clock
        self._looking: asyncio.Task[ClusterSnapshot] | None = None

    async def close(self) -> None:
        """Close the connections to the API server."""
        if self._looking and not self._looking.done():
            self._looking.cancel()
            await asyncio.wait([self._looking], timeout=CLOSE_TIMEOUT)
        await self._server.close()

    async def look(self, *, again: bool = False) -> ClusterSnapshot:
        """Return what there is, at most a second old; ``again``: asked for from now on.

        Raises:
            NotFound: this server's pod belongs to no Job, or the Job is not there.
            ClusterRefuses: a Role does not let this server ask; the text names the rule.
            ClusterUnavailable: the API server cannot be asked just now.
        """
        if again and self._looking:
            await asyncio.wait([self._looking])
        elif self._view and time.monotonic() - self._looked < _MAX_AGE:
            return self._view
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(lambda done: done.cancelled() or done.exception())  # may have no reader
        return await asyncio.shield(self._looking)

    async def _look(self) -> ClusterSnapshot:
        if not self._job:
            self._job = await self._own_job()
        job = await self._get(f"/apis/batch/v1/{self._in()}/jobs/{self._job}", JOB, Job)
        owner = next((owner for owner in job.metadata.owner_references if owner.kind == "MiniCluster"), None)
        selector = ",".join(f"{name}={value}" for name, value in job.spec.selector.match_labels.items())
        minicluster = None
        if owner:
            path = f"/apis/{owner.api_version}/{self._in()}/miniclusters/{owner.name}"
            minicluster = await self._get(path, MINICLUSTER, MiniCluster)
        pods = await self._pods(selector)
        pods.sort(key=lambda pod: (pod.index or 0, pod.metadata.creation_timestamp or ""))
        self._view, self._looked = ClusterSnapshot(minicluster, job, pods, time.time()), time.monotonic()
        return self._view

    async def _own_job(self) -> str:
        """Return the Job of the pod that has this machine's host name: `<job>-<index>` in an Indexed Job."""
        name = socket.gethostname()
        for pod in await self._pods(f"{INDEX}={self._index}"):
            if name in (pod.spec.hostname, pod.metadata.name):
                for owner in pod.metadata.owner_references:
                    if owner.kind == "Job":
                        return owner.name
        raise NotFound(
            f"No pod of the namespace {self._names()} that belongs to a Job has the host name {name!r} and the "
            f"completion index {self._index}: name the Job (--kubernetes-job)."
        )

    async def scale(self, minicluster: MiniCluster, size: int) -> None:
        """Give a MiniCluster another size; the operator changes the Job.

        Raises:
            Conflict: the API server refuses it, in its own words.
            ClusterRefuses, ClusterUnavailable: as in :meth:`look`.
        """
        api = f"/apis/{FLUX}/v1alpha2/{self._in()}/miniclusters/{minicluster.metadata.name}/scale"
        await self._ask("PATCH", api, SCALE, {"spec": {"replicas": size}}, kind=_MERGE)

    async def wait_for_pods(self) -> None:
        """Have the Job make another pod when the one before has ended, and not when it is told to go.

        The operator's Job counts a pod that is deleted as failed at once, also one that will end with 0: a lead that is
        deleted would be there twice, and its Job never Complete.

        Raises:
            NotFound, Conflict, ClusterRefuses, ClusterUnavailable: as :meth:`look` and :meth:`scale`.
        """
        job = (await self.look()).job
        if job.spec.pod_replacement_policy != _ONE_POD:
            path = f"/apis/batch/v1/{self._in()}/jobs/{job.metadata.name}"
            await self._ask("PATCH", path, JOB_CHANGE, {"spec": {"podReplacementPolicy": _ONE_POD}}, kind=_MERGE)

    async def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Leave an Event with the MiniCluster or the Job; takes at most two seconds and never fails."""
        try:
            async with asyncio.timeout(_EVENT_TIMEOUT):
                await self._tell(reason, message, "Warning" if warning else "Normal")
        except (NotFound, Conflict, ClusterForbidden, ClusterUnavailable) as exc:
            log.warning("no Event was left", reason=exc.detail)
        except TimeoutError:
            log.warning("no Event was left", reason=f"the API server has not answered within {_EVENT_TIMEOUT:g} s")

    async def _tell(self, reason: str, message: str, kind: str) -> None:
        view = self._view or await self.look()
        about, about_kind, version = view.job.metadata, "Job", "batch/v1"
        if view.minicluster:
            about, about_kind, version = view.minicluster.metadata, "MiniCluster", f"{FLUX}/v1alpha2"
        namespace, now = self._names(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{about.name}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": version, "kind": about_kind, "name": about.name, "namespace": namespace, "uid": about.uid,
            },
            "reason": reason,
            "message": message[:_LONGEST_NOTE],
            "type": kind,
            "source": {"component": "flux-sidecar", "host": socket.gethostname()},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }  # fmt: skip
        await self._ask("POST", f"/api/v1/{self._in()}/events", EVENT, event)

    # -------------------------------------------------------------------------------------------------- requests

    async def _pods(self, selector: str) -> list[Pod]:
        # Of version 0: from the API server's memory, which may be a moment old, and not from etcd.
        query = {"labelSelector": selector, "resourceVersion": "0"}
        return (await self._get(f"/api/v1/{self._in()}/pods", PODS, Pods, query)).items

    async def _get(self, path: str, rule: Rule, kind: type[T], query: dict[str, str] | None = None) -> T:
        raw = await self._ask("GET", path, rule, query=query)
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ClusterUnavailable(
                f"What {self._server.url} has answered for {rule.resource} is not that: {exc}."
            ) from None

    async def _ask(
        self,
        method: str,
        path: str,
        rule: Rule,
        body: Any = None,
        *,
        kind: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> bytes:
        raw = None if body is None else msgspec.json.encode(body)
        try:
            return await self._server.ask(method, path, raw, kind=kind, query=query, most=_LARGEST)
        except ApiError as exc:
            self._fail(exc, rule, path)

    def _fail(self, exc: ApiError, rule: Rule, path: str) -> NoReturn:
        if exc.status == 403:
            raise ClusterForbidden(
                f"The API server does not let this server {rule.verb} {rule.resource}: in the namespace "
                f"{self._names()} bind a Role to its service account with the rule {rule}."
            ) from None
        if exc.status == 404:
            raise NotFound(f"The API server knows nothing at {path}.") from None
        if exc.status in (400, 409, 422):
            raise Conflict(f"The API server refuses it: {_words(exc)}") from None
        raise ClusterUnavailable(exc.detail, retry_after=exc.retry_after) from None

    def _names(self) -> str:
        try:
            return self._namespace or self._server.account.read("namespace")
        except ApiError as exc:
            raise ClusterUnavailable(exc.detail) from None

    def _in(self) -> str:
        return f"namespaces/{self._names()}"


class _Status(Struct):
    message: str = ""


def _words(exc: ApiError) -> str:
    """Return what a Status object says."""
    try:
        return msgspec.json.decode(exc.body, type=_Status).message or exc.detail
    except (msgspec.DecodeError, UnicodeDecodeError):
        return exc.detail
