"""Options of the group Telemetry: logs and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sidecar.config.options import group, option
from sidecar.config.values import SettingsError


@group("Telemetry")
@dataclass(frozen=True, kw_only=True)
class TelemetryOptions:
    """Logs and metrics."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], option("log_level", "Lowest level to log.")] = (
        "info"
    )
    log_format: Annotated[Literal["console", "json"], option("log_format", "Format of log lines.")] = "console"
    log_requests: Annotated[
        bool, option("log_requests", "Log every request; probes and metrics only if they fail.")
    ] = True
    log_jobs: Annotated[bool, option("log_jobs", "Log every change of a job's state.")] = True
    metrics_port: Annotated[
        int,
        option(
            "metrics_port",
            "Serve metrics on this port instead of --port, and probes on both. 0: metrics are on --port.",
        ),
    ] = 0
    metrics_users: Annotated[bool, option("metrics_users", "Serve metrics of each user at /metrics/users.")] = False

    def check(self, port: int) -> None:
        """Check the options of this group.

        Args:
            port: port of the API.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        if not 0 <= self.metrics_port <= 65535 or (self.metrics_port and self.metrics_port == port):
            raise SettingsError(
                "--metrics-port must be a port from 1 to 65535, and not that of --port. 0: no separate port."
            )
