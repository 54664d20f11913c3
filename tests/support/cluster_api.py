"""A fake kube-apiserver with a cluster: a Job, its pods, a MiniCluster, Events.

It responds as kube-apiserver 1.33 does to a service account with the permissions of :attr:`ClusterAPI.role`, by default
none. A change of the MiniCluster's size is applied to the Job, as by the operator and the Job controller; the tests
start and end the brokers.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.kubernetes_api import Canned, KubernetesAPI, Refusal, status

INDEX = "batch.kubernetes.io/job-completion-index"
ALL = frozenset({
    "list pods", "get jobs.batch", "patch jobs.batch", "get miniclusters.flux-framework.org", "create events",
    "patch miniclusters/scale.flux-framework.org", "get secrets",
})  # fmt: skip


class ClusterAPI(KubernetesAPI):
    """A running fake; see :class:`tests.support.kubernetes_api.KubernetesAPI`."""

    def __init__(self, directory: Path, *, name: str = "mc", size: int = 2) -> None:
        super().__init__(directory)
        self.name = name
        self.role: set[str] = set(ALL)
        self.trouble: dict[str, Canned | str] = {}
        """Responses that replace the normal ones, by verb and resource."""
        self.requests: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.minicluster: dict[str, Any] | None = {
            "apiVersion": "flux-framework.org/v1alpha2",
            "kind": "MiniCluster",
            "metadata": self._metadata(name),
            "spec": {"size": size, "maxSize": size + 1, "minSize": 1, "containers": [{"image": "x"}], "interactive": True},
            "status": {
                "size": 0, "maximumSize": size + 1, "selector": f"hpa-selector={name}", "jobid": "",
                "conditions": [{"type": "JobReady", "status": "True", "reason": "JobReady", "message": "", "lastTransitionTime": _now()}],
            },
        }  # fmt: skip
        owner = {
            "apiVersion": "flux-framework.org/v1alpha2",
            "kind": "MiniCluster",
            "name": name,
            "uid": "u",
            "controller": True,
        }
        self.job: dict[str, Any] = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {**self._metadata(name), "ownerReferences": [owner]},
            "spec": {
                "completions": size, "parallelism": size, "completionMode": "Indexed", "backoffLimit": 100,
                "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "c-uid"}},
                "template": {"spec": {"containers": [{"name": "flux", "image": "x"}], "restartPolicy": "OnFailure"}},
            },
            "status": {"active": size, "ready": 0},
        }  # fmt: skip
        self.pods = [self.pod(index) for index in range(size)]
        self.secrets: dict[str, dict[str, str]] = {}
        """By name: their texts by key."""

    def pod(self, index: int, hostname: str = "") -> dict[str, Any]:
        """Create a pod of the Job as the Job controller does; the name ends at random, the host name does not."""
        name = f"{self.name}-{index}"
        labels = {"batch.kubernetes.io/controller-uid": "c-uid", INDEX: str(index), "job-name": self.name}
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self.name, "uid": "j", "controller": True}
        return {
            "metadata": {
                **self._metadata(f"{name}-{uuid.uuid4().hex[:5]}"),
                "labels": labels, "annotations": {INDEX: str(index)}, "ownerReferences": [owner],
            },
            "spec": {"hostname": hostname or name, "subdomain": self.name, "nodeName": "node0", "containers": []},
            "status": {
                "phase": "Running",
                "podIP": f"10.0.0.{index + 1}",
                "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "flux", "restartCount": index, "ready": True}, {"name": "api", "restartCount": 1}],
            },
        }  # fmt: skip

    def plain(self) -> None:
        """Remove the Job's owner."""
        self.minicluster = None
        del self.job["metadata"]["ownerReferences"]

    @property
    def options(self) -> tuple[str, ...]:
        return ("--kubernetes-api", self.url, "--kubernetes-credentials", str(self.credentials_directory))

    def _metadata(self, name: str) -> dict[str, Any]:
        return {"name": name, "namespace": self.namespace, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}

    # ------------------------------------------------------------------------------------------------------- responses

    def _more(self, app: web.Application) -> None:
        batch, flux = (
            "/apis/batch/v1/namespaces/{namespace}",
            "/apis/flux-framework.org/v1alpha2/namespaces/{namespace}",
        )
        core = "/api/v1/namespaces/{namespace}"
        routes = [
            ("GET", f"{core}/pods", "list pods", self._list_pods),
            ("GET", f"{core}/secrets/{{name}}", "get secrets", self._get_secret),
            ("POST", f"{core}/events", "create events", self._create_event),
            ("GET", f"{batch}/jobs/{{name}}", "get jobs.batch", self._get_job),
            ("PATCH", f"{batch}/jobs/{{name}}", "patch jobs.batch", self._patch_job),
            ("GET", f"{flux}/miniclusters/{{name}}", "get miniclusters.flux-framework.org", self._get_minicluster),
            ("PATCH", f"{flux}/miniclusters/{{name}}/scale", "patch miniclusters/scale.flux-framework.org", self._patch_scale),
        ]  # fmt: skip
        for method, path, what, handler in routes:
            app.router.add_route(method, path, self._guarded(what, handler))

    def _guarded(self, what: str, handler: Any) -> Any:
        async def handle(request: web.Request) -> web.Response:
            try:
                if request.headers.get("Authorization") != f"Bearer {self.reviewer_token}":
                    raise Refusal(401, "Unauthorized")
                namespace = request.match_info["namespace"]
                self.requests.append(what)
                if what not in self.role or namespace != self.namespace:
                    verb, _, resource = what.partition(" ")
                    kind, _, group = resource.partition(".")
                    raise Refusal(403, f'{resource} is forbidden: User "{self.reviewer}" cannot {verb} resource "{kind}" '
                                       f'in API group "{group}" in the namespace "{namespace}"')  # fmt: skip
                if trouble := self.trouble.get(what):
                    return await self._fail(request, trouble)
                answer: dict[str, Any] = await handler(request)
                return web.json_response(answer, status=201 if request.method == "POST" else 200)
            except Refusal as refusal:
                return refusal.answer.response()

        return handle

    async def _list_pods(self, request: web.Request) -> dict[str, Any]:
        wanted = dict(part.split("=") for part in request.query.get("labelSelector", "").split(",") if part)
        items = [pod for pod in self.pods if wanted.items() <= pod["metadata"]["labels"].items()]
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}

    async def _get_secret(self, request: web.Request) -> dict[str, Any]:
        name = request.match_info["name"]
        if name not in self.secrets:
            raise Refusal(404, f'secrets "{name}" not found')
        data = {key: base64.b64encode(text.encode()).decode() for key, text in self.secrets[name].items()}
        return {"kind": "Secret", "apiVersion": "v1", "metadata": self._metadata(name), "type": "Opaque", "data": data}

    async def _get_job(self, request: web.Request) -> dict[str, Any]:
        return self._found(request, self.job, "jobs.batch")

    async def _patch_job(self, request: web.Request) -> dict[str, Any]:
        if request.content_type != "application/merge-patch+json":
            raise Refusal(415, "the body of the request was in an unknown format")
        known = self._found(request, self.job, "jobs.batch")
        known["spec"] |= (await request.json())["spec"]
        return known

    async def _get_minicluster(self, request: web.Request) -> dict[str, Any]:
        return self._found(request, self.minicluster, "miniclusters.flux-framework.org")

    def _found(self, request: web.Request, known: dict[str, Any] | None, what: str) -> dict[str, Any]:
        name = request.match_info["name"]
        if known is None or name != known["metadata"]["name"]:
            raise Refusal(404, f'{what} "{name}" not found')
        return known

    async def _patch_scale(self, request: web.Request) -> dict[str, Any]:
        if request.content_type != "application/merge-patch+json":
            raise Refusal(415, "the body of the request was in an unknown format")
        known = self._found(request, self.minicluster, "miniclusters.flux-framework.org")
        body = await request.json()
        size = body["spec"]["replicas"]
        if not isinstance(size, int) or size < 0:
            raise Refusal(422, "spec.replicas: Invalid value: must be greater than or equal to 0")
        known["spec"]["size"] = size
        self._reconcile(known)
        return {
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": known["metadata"],
            "spec": {"replicas": size}, "status": {"replicas": known["status"]["size"], "selector": known["status"]["selector"]},
        }  # fmt: skip

    def _reconcile(self, minicluster: dict[str, Any]) -> None:
        """Act as the operator and the Job controller; deleted pods are shown as terminating until the test removes
        them.
        """
        size = min(minicluster["spec"]["size"], minicluster["status"]["maximumSize"])
        minicluster["status"]["size"] = size
        self.job["spec"] |= {"completions": size, "parallelism": size}
        for pod in self.pods:
            if int(pod["metadata"]["labels"][INDEX]) >= size:
                pod["metadata"]["deletionTimestamp"] = _now()
        there = {int(pod["metadata"]["labels"][INDEX]) for pod in self.pods}
        self.pods += [self.pod(index) for index in range(size) if index not in there]

    def remove(self, index: int) -> None:
        """Remove a terminating pod."""
        self.pods = [pod for pod in self.pods if pod["metadata"]["labels"][INDEX] != str(index)]

    async def _create_event(self, request: web.Request) -> dict[str, Any]:
        event = json.loads(await request.read())
        if event["involvedObject"].get("namespace") != self.namespace:
            raise Refusal(
                422, 'Event "x" is invalid: involvedObject.namespace: Invalid value: does not match event.namespace'
            )
        if not event["metadata"].get("name") and not event["metadata"].get("generateName"):
            raise Refusal(422, "name or generateName is required")
        self.events.append(event)
        return dict(event)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


__all__ = ["ALL", "ClusterAPI", "status"]
