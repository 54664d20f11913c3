"""The options that a server has because it runs in a pod.

Annotations are evaluated here, not later: Settings inherits them into a module that does not know these names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sidecar.config.access import AccessOptions
from sidecar.config.options import (
    COMPLETION_INDEX,
    DEFAULT_FOLLOWER_WAIT,
    END_FILE,
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
            "How long to stay after the end of the instance, unless a signal comes. For native sidecars, which the "
            "kubelet restarts if they exit first.",
            unit="seconds",
        ),
    ] = 0.0
    end_file: Annotated[
        str,
        option(
            END_FILE[0],
            "Where to write the exit code and the reason when this pod cannot go on, or has nothing left to do: the "
            "lead comes back and followers have completed, or the other way round. What runs the broker has to read it "
            "(the chart's scripts do). Empty: that is not looked for.",
        ),
    ] = ""
    quorum: Annotated[
        int,
        option("quorum", "How many brokers the instance needs to run; 0: one for each index of the Job."),
    ] = 0
    end_when_dead: Annotated[
        float,
        option(
            "end_when_dead",
            "End with a failure when /livez has failed, or nothing has been done, for so long: for where no liveness "
            "probe does that, as in a MiniCluster. 0: never.",
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
        for name in ("completion_index", "follower_wait", "linger", "quorum", "end_when_dead"):
            if getattr(self, name) < 0:
                raise SettingsError(f"--{name.replace('_', '-')} must not be negative.")
        if self.completion_index and not embedded and not uri.startswith(LOCAL):
            raise SettingsError(
                f"This pod is a follower (completion index {self.completion_index}): its server waits for the pod's "
                f"own broker, so --uri has to be local://PATH, not {uri}; or give --completion-index 0."
            )
