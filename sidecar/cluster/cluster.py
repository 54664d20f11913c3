"""The pods that this server's instance runs in, their Job, and the MiniCluster of the Flux Operator that owns it.

The API server is requested with the service account of the pod; :data:`~sidecar.cluster.rules.CLUSTER_RULES` lists the
permissions that a Role must give it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import structlog
from kubernetes.aio.client.api.batch_v1_api import BatchV1Api
from kubernetes.aio.client.api.custom_objects_api import CustomObjectsApi
from kubernetes.aio.client.models.core_v1_event import CoreV1Event
from kubernetes.aio.client.models.v1_event_source import V1EventSource
from kubernetes.aio.client.models.v1_job import V1Job
from kubernetes.aio.client.models.v1_job_status import V1JobStatus
from kubernetes.aio.client.models.v1_object_meta import V1ObjectMeta
from kubernetes.aio.client.models.v1_object_reference import V1ObjectReference

from sidecar.cluster.client import ApiServer, malformed
from sidecar.cluster.core import CoreApi
from sidecar.cluster.errors import ApiError
from sidecar.cluster.objects import INDEX, Condition, Job, MiniCluster, Owner, Pod
from sidecar.cluster.rules import EVENT, FLUX_GROUP, JOB, JOB_CHANGE, MINICLUSTER, PODS, SCALE, Rule
from sidecar.domain.errors import ClusterForbidden, ClusterUnavailable, Conflict, NotFound, Problem
from sidecar.runtime.tasks import CLOSE_TIMEOUT

log = structlog.get_logger("kubernetes")

MAX_RESPONSE = 32 << 20
"""Bytes of a response: each pod of a Job has 10 to 20 KiB, and a node has one of them."""

_FLUX_VERSION = "v1alpha2"
_MAX_AGE = 1.0
_ONE_POD = "Failed"  # of podReplacementPolicy
_MERGE_PATCH = "application/merge-patch+json"
_EVENT_TIMEOUT = 2.0
_MAX_MESSAGE = 1024  # of an Event


class ClusterSnapshot(NamedTuple):
    """The objects as they were at one time (Unix seconds)."""

    minicluster: MiniCluster | None
    job: Job
    pods: list[Pod]
    updated: float


class Cluster:
    """The Job that this server's pod belongs to, its pods and its MiniCluster.

    Args:
        server: made with :data:`MAX_RESPONSE`.
        namespace: of the objects; empty: the pod's own.
        job: name of the Job and the MiniCluster; empty: that of the pod with this machine's host name.
        index: this pod's completion index.
    """

    def __init__(self, server: ApiServer, *, namespace: str = "", job: str = "", index: int = 0) -> None:
        self._server = server
        self._core = CoreApi(server.client)
        self._batch = BatchV1Api(server.client)
        self._custom_objects = CustomObjectsApi(server.client)
        self._namespace = namespace
        self._job = job
        self._index = index
        self._last: ClusterSnapshot | None = None
        self._read_at = 0.0  # by the monotonic clock
        self._reading: asyncio.Task[ClusterSnapshot] | None = None

    async def close(self) -> None:
        """Close the connections to the API server."""
        if self._reading and not self._reading.done():
            self._reading.cancel()
            await asyncio.wait([self._reading], timeout=CLOSE_TIMEOUT)
        await self._server.close()

    async def snapshot(self, *, fresh: bool = False) -> ClusterSnapshot:
        """Return the objects, at most a second old; ``fresh``: not older than this call.

        Raises:
            NotFound: this server's pod belongs to no Job, or the Job does not exist.
            ClusterForbidden: a Role lacks a rule; the text has the rule.
            ClusterUnavailable: the API server has not answered.
        """
        if fresh and self._reading:
            await asyncio.wait([self._reading])
        elif self._last and time.monotonic() - self._read_at < _MAX_AGE:
            return self._last
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())  # may have no reader
        return await asyncio.shield(self._reading)

    async def scale(self, minicluster: MiniCluster, size: int) -> None:
        """Set the size of a MiniCluster; the operator changes the Job.

        Raises:
            Conflict: the API server has refused the size; the text is its message.
            ClusterForbidden, ClusterUnavailable: as in :meth:`snapshot`.
        """
        name = minicluster.metadata.name
        with self._problems(SCALE, f"MiniCluster {name}"):
            await self._custom_objects.patch_namespaced_custom_object_scale(
                FLUX_GROUP,
                _FLUX_VERSION,
                self._own_namespace(),
                "miniclusters",
                name,
                {"spec": {"replicas": size}},
                _content_type=_MERGE_PATCH,
            )

    async def wait_for_pods(self) -> None:
        """Have the Job replace a pod when it has ended, and not when it is deleted.

        The operator's Job counts a deleted pod as failed at once, also one that will end with 0: a deleted lead would
        run twice for a while, and its Job never be Complete.

        Raises:
            NotFound, Conflict, ClusterForbidden, ClusterUnavailable: as :meth:`snapshot` and :meth:`scale`.
        """
        job = (await self.snapshot()).job
        if job.pod_replacement_policy != _ONE_POD:
            patch = {"spec": {"podReplacementPolicy": _ONE_POD}}
            with self._problems(JOB_CHANGE, f"Job {job.name}"):
                await self._batch.patch_namespaced_job(
                    job.name, self._own_namespace(), patch, _content_type=_MERGE_PATCH
                )

    async def record_event(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Create an Event of the MiniCluster or the Job; takes at most two seconds and never fails."""
        try:
            async with asyncio.timeout(_EVENT_TIMEOUT):
                await self._record_event(reason, message, "Warning" if warning else "Normal")
        except Problem as exc:
            log.warning("no Event was recorded", reason=exc.detail)
        except TimeoutError:
            log.warning("no Event was recorded", reason=f"the API server has not answered within {_EVENT_TIMEOUT:g} s")

    # --------------------------------------------------------------------------------------------------- requests

    async def _read(self) -> ClusterSnapshot:
        if not self._job:
            self._job = await self._own_job()
        with self._problems(JOB, f"Job {self._job}"):
            job = job_view(await self._batch.read_namespaced_job(self._job, self._own_namespace()))
        minicluster = await self._minicluster(job.minicluster) if job.minicluster else None
        pods = await self._pods(",".join(f"{name}={value}" for name, value in job.selector.items()))
        pods.sort(key=lambda pod: (pod.index or 0, pod.metadata.creation_timestamp or ""))
        self._last, self._read_at = ClusterSnapshot(minicluster, job, pods, time.time()), time.monotonic()
        return self._last

    async def _own_job(self) -> str:
        """Return the Job of the pod that has this machine's host name: `<job>-<index>` in an Indexed Job."""
        name = socket.gethostname()
        for pod in await self._pods(f"{INDEX}={self._index}"):
            if name in (pod.spec.hostname, pod.metadata.name):
                for owner in pod.metadata.owner_references:
                    if owner.kind == "Job":
                        return owner.name
        raise NotFound(
            f"No pod of a Job in the namespace {self._own_namespace()} has the host name {name!r} and the completion "
            f"index {self._index}; name the Job with --kubernetes-job."
        )

    async def _minicluster(self, owner: Owner) -> MiniCluster:
        group, _, version = owner.api_version.rpartition("/")
        with self._problems(MINICLUSTER, f"MiniCluster {owner.name}"):
            found = await self._custom_objects.get_namespaced_custom_object(
                group, version, self._own_namespace(), "miniclusters", owner.name
            )
            return msgspec.convert(found, MiniCluster)

    async def _pods(self, selector: str) -> list[Pod]:
        with self._problems(PODS, "pods"):
            # Of version 0: from the API server's memory, which may be a moment old, and not from etcd.
            return await self._core.list_namespaced_pod(
                self._own_namespace(), label_selector=selector, resource_version="0"
            )

    async def _record_event(self, reason: str, message: str, kind: str) -> None:
        snapshot = self._last or await self.snapshot()
        namespace, now = self._own_namespace(), datetime.now(UTC).replace(microsecond=0)
        about = V1ObjectReference(
            api_version="batch/v1", kind="Job", name=snapshot.job.name, uid=snapshot.job.uid, namespace=namespace
        )
        if snapshot.minicluster:
            about.api_version, about.kind = f"{FLUX_GROUP}/{_FLUX_VERSION}", "MiniCluster"
            about.name, about.uid = snapshot.minicluster.metadata.name, snapshot.minicluster.metadata.uid
        event = CoreV1Event(
            api_version="v1",
            kind="Event",
            metadata=V1ObjectMeta(generate_name=f"{about.name}.", namespace=namespace),
            involved_object=about,
            reason=reason,
            message=message[:_MAX_MESSAGE],
            type=kind,
            source=V1EventSource(component="flux-sidecar", host=socket.gethostname()),
            first_timestamp=now,
            last_timestamp=now,
            count=1,
        )
        with self._problems(EVENT, "Event"):
            await self._core.create_namespaced_event(namespace, event)

    @contextmanager
    def _problems(self, rule: Rule, name: str) -> Iterator[None]:
        """Raise the problem that callers get for a request that fails.

        Args:
            rule: that the request needs.
            name: of the object, for errors.
        """
        try:
            yield
        except ApiError as exc:
            raise self._problem(exc, rule, name) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ClusterUnavailable(f"{malformed(self._server.url, rule.resource)} ({exc})") from None

    def _problem(self, exc: ApiError, rule: Rule, name: str) -> Problem:
        if exc.status == 403:
            return ClusterForbidden(
                f"The API server does not let this server {rule.verb} {rule.resource}: in the namespace "
                f"{self._own_namespace()} bind a Role to its service account with the rule {rule}."
            )
        if exc.status == 404:
            return NotFound(f"{name} is not in the namespace {self._own_namespace()}.")
        if exc.status in (400, 409, 422):
            return Conflict(f"The API server has refused the request: {exc.message or exc.detail}")
        return ClusterUnavailable(exc.detail, retry_after=exc.retry_after)

    def _own_namespace(self) -> str:
        try:
            return self._namespace or self._server.account.read("namespace")
        except ApiError as exc:
            raise ClusterUnavailable(exc.detail) from None


def job_view(found: V1Job) -> Job:
    """Return what this server reads of a Job.

    Raises:
        msgspec.ValidationError: it has no name or no spec.
    """
    metadata, spec, status = found.metadata, found.spec, found.status or V1JobStatus()
    if metadata is None or not metadata.name or spec is None:
        raise msgspec.ValidationError("it has no name, or no spec")
    owners = [
        Owner(owner.api_version, owner.kind, owner.name)
        for owner in metadata.owner_references or ()
        if owner.kind == "MiniCluster"
    ]
    return Job(
        name=metadata.name,
        namespace=metadata.namespace or "",
        uid=metadata.uid or "",
        minicluster=owners[0] if owners else None,
        selector=(spec.selector.match_labels if spec.selector else None) or {},
        completions=spec.completions,
        parallelism=spec.parallelism,
        pod_replacement_policy=spec.pod_replacement_policy or "",
        active=status.active or 0,
        ready=status.ready or 0,
        succeeded=status.succeeded or 0,
        failed=status.failed or 0,
        completed_indexes=status.completed_indexes or "",
        conditions=[
            Condition(each.type, each.status, each.reason or "", each.message or "") for each in status.conditions or ()
        ],
    )
