"""The options that a server has because it runs in a pod.

Annotations are evaluated here, not later: Settings inherits them into a module that does not know these names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sidecar.access import AccessOptions
from sidecar.options import (
    COMPLETION_INDEX,
    DEFAULT_FOLLOWER_WAIT,
    FOLLOWER_WAIT,
    LINGER,
    LOCAL,
    SettingsError,
    in_kubernetes,
    option,
)


@dataclass(frozen=True, kw_only=True)
class PodOptions(AccessOptions):
    """What this pod is to the cluster. :class:`sidecar.settings.Settings` has all of these."""

    completion_index: Annotated[
        int,
        option(
            COMPLETION_INDEX[0],
            "The pod's index in its Indexed Job, which Kubernetes sets. Only the server of index 0 serves; any other "
            "waits for the end of its pod's own broker (--uri local://...) and exits with 0.",
            *COMPLETION_INDEX[1:],
        ),
    ] = 0
    follower_wait: Annotated[
        float,
        option(
            FOLLOWER_WAIT[0],
            "How long the server of a follower's pod waits for another broker when one has gone without its lead.",
            unit="seconds",
        ),
    ] = DEFAULT_FOLLOWER_WAIT
    linger: Annotated[
        float,
        option(
            LINGER[0],
            "How long to stay when the instance has ended, unless told to go. For native sidecars: kubelet ends them, "
            "and starts one again that has left before.",
            unit="seconds",
        ),
    ] = 0.0
    kubernetes_job: Annotated[
        str,
        option(
            "kubernetes_job",
            "The Job whose pods are the brokers; empty: that of --minicluster, else the one that this pod belongs to.",
        ),
    ] = ""

    @property
    def no_cluster(self) -> str:
        """Why Kubernetes cannot be asked about this server's pod; empty: it can."""
        token = Path(self.kubernetes_credentials) / "token"
        if token.exists():
            return ""
        if not in_kubernetes():
            return "This server does not run in Kubernetes."
        return (
            f"This pod has no service account: {token} is not there. Set automountServiceAccountToken (of a "
            "MiniCluster: spec.pod.automountServiceAccountToken), and bind a Role to the service account."
        )

    def check_pod(self, uri: str, *, embedded: bool) -> None:
        """Refuse what cannot work in this pod.

        Raises:
            SettingsError: with a text for the person who typed the command.
        """
        for name in ("completion_index", "follower_wait", "linger"):
            if getattr(self, name) < 0:
                raise SettingsError(f"--{name.replace('_', '-')} must not be negative.")
        if self.completion_index and not embedded and not uri.startswith(LOCAL):
            raise SettingsError(
                f"This pod is a follower (completion index {self.completion_index}): its server waits for the pod's "
                f"own broker, so --uri has to be local://PATH, not {uri}; or give --completion-index 0."
            )
