"""What is read of Kubernetes objects: fields as the API names them, and nothing but what this server shows or needs.

Sources: kubernetes/api core/v1 and batch/v1, and flux-framework/flux-operator, api/v1alpha2/minicluster_types.go.
"""

from __future__ import annotations

from msgspec import Struct, field

from sidecar.domain.untrusted import digits

INDEX = "batch.kubernetes.io/job-completion-index"
"""Annotation and label of a pod of an Indexed Job."""


class Object(Struct, rename="camel"):
    """What is read of any object; the rest of it is passed over."""


class Owner(Object):
    """Who an object belongs to."""

    api_version: str
    kind: str
    name: str
    uid: str


class Metadata(Object):
    """What every object has."""

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
    """Why a container does not run yet, or not again."""

    reason: str = ""
    message: str = ""


class ContainerState(Object):
    """What a container does now."""

    waiting: Waiting | None = None


class ContainerStatus(Object):
    """What the kubelet says of a container."""

    name: str = ""
    restart_count: int = 0
    state: ContainerState = field(default_factory=ContainerState)


class PodSpec(Object):
    """Where a pod is to run, and what it is called."""

    node_name: str = ""
    hostname: str = ""


class PodStatus(Object):
    """How a pod is doing."""

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
        """Its completion index; None in a Job that is not indexed."""
        text = self.metadata.annotations.get(INDEX) or self.metadata.labels.get(INDEX, "")
        return digits(text)


class Selector(Object):
    """Which pods are the Job's."""

    match_labels: dict[str, str] = {}


class JobSpec(Object):
    """How many pods are wanted."""

    completions: int | None = None
    parallelism: int | None = None
    pod_replacement_policy: str = ""
    selector: Selector = field(default_factory=Selector)


class JobStatus(Object):
    """How many there are, and which indexes have succeeded (an idset): no pod is made for those again."""

    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    completed_indexes: str = ""
    conditions: list[Condition] = []


class Job(Object):
    """The Job whose pods are the brokers."""

    metadata: Metadata
    spec: JobSpec
    status: JobStatus = field(default_factory=JobStatus)


class MiniClusterSpec(Object):
    """How large it is to be; 0 of the bounds: none is set."""

    size: int = 1
    min_size: int = 0
    max_size: int = 0


class MiniClusterStatus(Object):
    """What the operator says of it; ``size`` is 0 until it is resized for the first time."""

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
        """The smallest and the largest size that the operator lets it have: the largest is fixed by the first size."""
        largest = self.status.maximum_size or self.spec.max_size or self.spec.size
        return self.spec.min_size or 1, largest


class Pods(Object):
    """A list of pods."""

    items: list[Pod]
