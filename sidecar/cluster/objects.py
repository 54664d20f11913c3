"""What this server reads of the Job, its pods and the MiniCluster; ``sidecar.cluster.cluster`` makes them of responses.

Pods and MiniClusters have fields named as the API names them, and are decoded as they are: the first are many, and the
official client has no model of the second. Sources: kubernetes/api core/v1 and batch/v1, and
flux-framework/flux-operator, api/v1alpha2/minicluster_types.go.
"""

from __future__ import annotations

from msgspec import Struct, field

from sidecar.domain.untrusted import digits

INDEX = "batch.kubernetes.io/job-completion-index"
"""Annotation and label of a pod of an Indexed Job."""


class Object(Struct, rename="camel"):
    """Part of an object; fields that are not listed are ignored."""


class Owner(Object):
    """The object that an object belongs to."""

    api_version: str
    kind: str
    name: str


class Metadata(Object):
    """Metadata of any object."""

    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[Owner] = []
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Condition(Object):
    """One condition of an object's status."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Waiting(Object):
    """Why a container does not run."""

    reason: str = ""
    message: str = ""


class ContainerState(Object):
    """State of a container."""

    waiting: Waiting | None = None


class ContainerStatus(Object):
    """Status of a container, as kubelet reports it."""

    name: str = ""
    restart_count: int = 0
    state: ContainerState = field(default_factory=ContainerState)


class PodSpec(Object):
    """Node and host name of a pod."""

    node_name: str = ""
    hostname: str = ""


class PodStatus(Object):
    """Status of a pod."""

    phase: str = "Unknown"
    pod_ip: str = field(name="podIP", default="")
    conditions: list[Condition] = []
    init_container_statuses: list[ContainerStatus] = []
    container_statuses: list[ContainerStatus] = []


class Pod(Object):
    """A pod of the Job."""

    metadata: Metadata
    spec: PodSpec
    status: PodStatus

    @property
    def index(self) -> int | None:
        """The completion index; None in a Job that is not indexed."""
        text = self.metadata.annotations.get(INDEX) or self.metadata.labels.get(INDEX, "")
        return digits(text)


class Pods(Object):
    """A PodList."""

    items: list[Pod]


class Job(Struct, kw_only=True):
    """The Job of the brokers' pods.

    Pods are not created again for completed indexes (an idset).
    """

    name: str
    namespace: str = ""
    uid: str = ""
    minicluster: Owner | None = None
    """The MiniCluster that owns the Job."""
    selector: dict[str, str] = {}
    """Labels of its pods."""
    completions: int | None = None
    parallelism: int | None = None
    pod_replacement_policy: str = ""
    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    completed_indexes: str = ""
    conditions: list[Condition] = []


class MiniClusterSpec(Object):
    """The requested size and its bounds; a bound of 0 is not set."""

    size: int = 1
    min_size: int = 0
    max_size: int = 0


class MiniClusterStatus(Object):
    """Status of a MiniCluster; ``size`` is 0 until it is resized for the first time."""

    size: int = 0
    maximum_size: int = 0
    conditions: list[Condition] = []


class MiniCluster(Object):
    """The Flux Operator's object."""

    metadata: Metadata
    spec: MiniClusterSpec
    status: MiniClusterStatus = field(default_factory=MiniClusterStatus)

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest size that the operator accepts: the first size fixes the largest."""
        largest = self.status.maximum_size or self.spec.max_size or self.spec.size
        return self.spec.min_size or 1, largest
