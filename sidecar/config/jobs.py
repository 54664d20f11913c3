"""Options of the group Jobs: the Flux instance, the job history, and how the instance is stopped."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import Annotated

from sidecar.config import addresses
from sidecar.config.early import URI
from sidecar.config.options import group, option, require_not_negative, require_positive
from sidecar.config.values import SettingsError, parse_duration, parse_list


@group("Jobs")
@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The instance, its jobs and its end."""

    uri: Annotated[
        str,
        option(
            URI[0],
            "URI of the Flux instance to serve, as flux-uri(1) prints it. In a pod of the Flux Operator the default is "
            "the broker of that pod.",
            *URI[1:],
        ),
    ] = ""
    store: Annotated[
        str,
        option(
            "store",
            "SQLite file for the job history. By default a file beside the instance's socket, which is removed with "
            "the instance; a path on a volume keeps the history after the cluster is deleted. Each server needs its "
            "own file: a second server exits with 2 and names the first.",
        ),
    ] = ""
    keep_jobs: Annotated[
        int,
        option(
            "keep_jobs",
            "Maximum number of inactive jobs in the store. Beyond it those that ended first are removed, with their "
            "events; their idempotency keys stay. 0: unlimited.",
        ),
    ] = 1_000_000
    keep_for: Annotated[
        float,
        option(
            "keep_for",
            "How long inactive jobs stay in the store after their end. 0: without a limit.",
            unit="seconds",
        ),
    ] = 0.0
    option_flags: Annotated[
        str,
        option(
            "option_flags",
            "Shell options of every job, as in --option-flags='-oKEY=VALUE -oKEY=VALUE'. Options of a request take "
            "precedence.",
            "FLUX_OPTION_FLAGS",
        ),
    ] = ""
    job_environment: Annotated[
        str,
        option(
            "job_environment",
            "Variables that jobs inherit from the broker beside a standard list (PATH, HOME, LANG, LD_LIBRARY_PATH …), "
            "as names or patterns such as OMP_*, separated by commas. By default all except the server's own.",
            "FLUX_JOB_ENV_PASSTHROUGH",
        ),
    ] = ""
    launchers: Annotated[
        str,
        option("launchers", "Programs that is_launcher may start beside the server, separated by commas."),
    ] = "nextflow,snakemake"
    idle_stop: Annotated[
        str,
        option(
            "idle_stop",
            "Drain and stop the instance after this time without an active job, a running launcher or an API request: "
            "`90`, `90s`, `30m`, `1.5h` or `1d`. Empty: never. Probes, `GET /metrics` and `GET /v1/service` do not "
            "count as requests.",
        ),
    ] = ""
    stop_on_signal: Annotated[
        bool,
        option(
            "stop_on_signal",
            "SIGTERM and SIGINT stop the instance, like POST /v1/service/stop. With --no-stop-on-signal they stop the "
            "server only.",
        ),
    ] = True
    start_timeout: Annotated[
        float,
        option(
            "start_timeout",
            "How long a stop waits for an instance that does not run yet because brokers are missing. After that its "
            "broker gets SIGTERM.",
            unit="seconds",
        ),
    ] = 60.0
    rpc_timeout: Annotated[float, option("rpc_timeout", "Timeout of a request to Flux.", unit="seconds")] = 10.0
    silence_timeout: Annotated[
        float,
        option(
            "silence_timeout",
            "How long the broker may send nothing before commands get 503.",
            unit="seconds",
        ),
    ] = 1.5
    lost_timeout: Annotated[
        float,
        option(
            "lost_timeout",
            "How long to retry a lost connection to Flux before the server exits.",
            unit="seconds",
        ),
    ] = 3.0

    @property
    def idle_stop_seconds(self) -> float | None:
        """Seconds after which an idle instance is stopped; None: never."""
        return parse_duration("--idle-stop", self.idle_stop) if self.idle_stop else None

    @property
    def launcher_names(self) -> frozenset[str]:
        """The programs that ``is_launcher`` may start."""
        return frozenset(parse_list(self.launchers))

    @property
    def uri_is_explicit(self) -> bool:
        """Whether the URI is set, and not by Flux's own variable."""
        return bool(self.uri) and self.uri != os.environ.get("FLUX_URI")

    def check_uri(self) -> None:
        """Check the URI of the instance.

        Raises:
            SettingsError: libflux can never connect to it.
        """
        try:
            addresses.check_instance(self.uri)
        except ValueError as exc:
            variable = "" if self.uri_is_explicit else " (from the variable FLUX_URI)"
            raise SettingsError(f"--uri{variable}: {exc}.") from None

    def check(self) -> None:
        """Check the options of this group, except the URI.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        require_positive(self, "rpc_timeout", "silence_timeout")
        require_not_negative(self, "lost_timeout", "start_timeout", "keep_jobs", "keep_for")
        parse_option_flags(self.option_flags)
        if self.idle_stop:
            parse_duration("--idle-stop", self.idle_stop)


def parse_option_flags(text: str) -> dict[str, str]:
    """Return shell options by key, from ``-oKEY=VALUE -oKEY=VALUE``. The ``-o`` is optional, as in FLUX_OPTION_FLAGS.

    Raises:
        SettingsError: an option has no value, or a quote is not closed.
    """
    flags: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise SettingsError(f"--option-flags {text!r} cannot be read: {exc}.") from None
    for word in words:
        if word == "-o":
            continue
        key, equals, value = word.removeprefix("-o").partition("=")
        if not equals or not key:
            raise SettingsError(f"--option-flags: {word!r} is not of the form -oKEY=VALUE.")
        flags[key] = value
    return flags
