"""Options of the group Embedded: jobs without Flux."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sidecar.config.options import group, option, require_not_negative
from sidecar.config.values import SettingsError

_MOST_CORES = 65_536  # each is an entry of a set, which is made before the server listens


@group("Embedded")
@dataclass(frozen=True, kw_only=True)
class EmbeddedOptions:
    """The embedded engine."""

    embedded: Annotated[
        bool,
        option("embedded", "Run jobs on this machine, without Flux. For evaluation and client development."),
    ] = False
    cores: Annotated[int, option("cores", "Number of cores for jobs. 0: all cores of this machine.")] = 0
    kill_timeout: Annotated[
        float,
        option(
            "kill_timeout", "Time from SIGTERM to SIGKILL for jobs that are ended, and for launchers.", unit="seconds"
        ),
    ] = 5.0

    def check(self) -> None:
        """Check the options of this group.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        require_not_negative(self, "cores", "kill_timeout")
        if self.cores > _MOST_CORES:
            raise SettingsError(f"--cores must be {_MOST_CORES:,} at most.")
