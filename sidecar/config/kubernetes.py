"""Options of the group Kubernetes: authentication by the cluster, and the role of the server's pod."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sidecar.config.early import (
    COMPLETION_INDEX,
    CREDENTIALS,
    DEFAULT_FOLLOWER_WAIT,
    END_FILE,
    FOLLOWER_WAIT,
    LINGER,
    LOCAL,
)
from sidecar.config.environment import in_kubernetes
from sidecar.config.options import group, option, require_not_negative
from sidecar.config.values import SettingsError


@group("Kubernetes")
@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """The Kubernetes API server, and this pod among those of its Job."""

    kubernetes_auth: Annotated[
        bool,
        option(
            "kubernetes_auth",
            "Authenticate bearer tokens with the Kubernetes API server (TokenReview), and authorize them by RBAC on "
            "miniclusters/jobs: get permits read, create permits submit, update permits admin.",
        ),
    ] = False
    minicluster: Annotated[
        str,
        option(
            "minicluster",
            "Name of the MiniCluster that RBAC is checked for. Empty: any MiniCluster in the namespace.",
        ),
    ] = ""
    kubernetes_namespace: Annotated[
        str, option("kubernetes_namespace", "Namespace that RBAC is checked for. Empty: the server's namespace.")
    ] = ""
    kubernetes_audience: Annotated[
        str, option("kubernetes_audience", "Audience that a Kubernetes token must have.")
    ] = "flux-sidecar"
    tokens_secret: Annotated[
        str,
        option(
            "tokens_secret",
            "Secret in the server's namespace from whose key `tokens` the file of --tokens is mounted. The server "
            "reads it from the API server every few seconds, so that a change applies before kubelet updates the "
            "file.",
        ),
    ] = ""
    kubernetes_job: Annotated[
        str,
        option(
            "kubernetes_job",
            "Job whose pods run the brokers. Empty: the Job of --minicluster, else the Job of the server's pod.",
        ),
    ] = ""
    kubernetes_api: Annotated[
        str, option("kubernetes_api", "URL of the API server. Empty: the API server of the server's cluster.")
    ] = ""
    kubernetes_credentials: Annotated[
        str,
        option("kubernetes_credentials", "Directory of the service account's token, ca.crt and namespace."),
    ] = CREDENTIALS
    completion_index: Annotated[
        int,
        option(
            COMPLETION_INDEX[0],
            "Index of the pod in its Indexed Job, set by Kubernetes. The server of index 0 serves requests. The server "
            "of any other index waits for the end of its pod's broker (--uri local://...) and exits with 0.",
            *COMPLETION_INDEX[1:],
        ),
    ] = 0
    follower_wait: Annotated[
        float,
        option(
            FOLLOWER_WAIT[0],
            "How long the server of a follower's pod waits for a new broker when its broker has ended and the lead "
            "has not.",
            unit="seconds",
        ),
    ] = DEFAULT_FOLLOWER_WAIT
    linger: Annotated[
        float,
        option(
            LINGER[0],
            "How long to stay after the end of the instance, unless a signal arrives. For native sidecars, which "
            "kubelet restarts if they exit before the other containers.",
            unit="seconds",
        ),
    ] = 0.0
    end_file: Annotated[
        str,
        option(
            END_FILE[0],
            "File to which the server writes exit code and reason when this pod cannot continue or has nothing left "
            "to do: its Job has recreated the lead after followers have completed, or a follower after the lead. The "
            "script that runs the broker has to read it, as the chart's scripts do. Empty: do not check for this.",
        ),
    ] = ""
    quorum: Annotated[
        int,
        option("quorum", "Number of brokers that the instance needs to run. 0: one for each index of the Job."),
    ] = 0
    end_when_dead: Annotated[
        float,
        option(
            "end_when_dead",
            "Exit with a failure when /livez has failed or the event loop has been blocked for this time. For pods "
            "without a liveness probe, such as those of a MiniCluster. 0: never.",
            unit="seconds",
        ),
    ] = 0.0

    @property
    def no_cluster(self) -> str:
        """Why the server cannot use the Kubernetes API for its pod; empty if it can."""
        token = Path(self.kubernetes_credentials) / "token"
        if token.exists():
            return ""
        if not in_kubernetes():
            return "This server does not run in Kubernetes."
        return (
            f"This pod has no service account: {token} does not exist. Set automountServiceAccountToken (of a "
            "MiniCluster: spec.pod.automountServiceAccountToken), and bind a Role to the service account."
        )

    def check(self, uri: str, *, embedded: bool) -> None:
        """Check the options of this group.

        Args:
            uri: URI of the instance.
            embedded: whether jobs run without Flux.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        require_not_negative(self, "completion_index", "follower_wait", "linger", "quorum", "end_when_dead")
        if self.completion_index and not embedded and not uri.startswith(LOCAL):
            raise SettingsError(
                f"This pod is a follower (completion index {self.completion_index}): its server waits for the pod's "
                f"broker, so --uri must be local://PATH, not {uri}; or give --completion-index 0."
            )
