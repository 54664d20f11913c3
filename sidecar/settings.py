"""Every option of the server, once: name, type, default, unit and help.

The command line, the ``FLUX_SIDECAR_*`` variables and the table in ``docs/settings.md`` are all made from
:class:`Settings`. Nothing else in this package reads the process's environment.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shlex
import tempfile
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from sidecar.options import LOCAL, PREFIX, URI, SettingsError, option, parse_duration, parse_list
from sidecar.pod import PodOptions

#: Variables that configure the server or hold its secrets; no job ever inherits one.
PRIVATE_VARIABLES = frozenset(
    {
        "FLUX_USER",
        "FLUX_TOKEN",
        "FLUX_SECRET_KEY",
        "FLUX_REQUIRE_AUTH",
        "FLUX_OPTION_FLAGS",
        "FLUX_SERVER_MODE",
        "FLUX_ACCESS_TOKEN_EXPIRES_MINUTES",
        "FLUX_NUMBER_NODES",
        "FLUX_HAS_GPUS",
        "HOST",
        "PORT",
    }
)


@dataclass(frozen=True, kw_only=True)
class Settings(PodOptions):
    """How one server runs. Field metadata is the single source of flags, variables, help and documentation."""

    uri: Annotated[str, option(URI[0], "The Flux instance to serve, as flux-uri(1) gives it.", *URI[1:])] = ""
    embedded: Annotated[
        bool,
        option("embedded", "Run jobs on this machine, without Flux. For trying out and for client development."),
    ] = False
    store: Annotated[
        str,
        option(
            "store",
            "SQLite file that holds the job history. Empty: a file beside the instance's socket, which ends with "
            "the instance; a path on a volume keeps the history when the cluster is gone.",
        ),
    ] = ""
    max_body: Annotated[int, option("max_body", "Largest request body.", unit="bytes")] = 1024 * 1024
    option_flags: Annotated[
        str,
        option(
            "option_flags",
            "Shell options that every job gets, as in --option-flags='-oKEY=VALUE …'; those of the request win.",
            "FLUX_OPTION_FLAGS",
        ),
    ] = ""
    launchers: Annotated[
        str,
        option("launchers", "Programs that is_launcher may start beside the server, separated by commas."),
    ] = "nextflow,snakemake"
    rpc_timeout: Annotated[
        float, option("rpc_timeout", "How long Flux may take to answer one request.", unit="seconds")
    ] = 10.0
    lost_timeout: Annotated[
        float,
        option(
            "lost_timeout",
            "How long a broken connection is retried before the server leaves.",
            unit="seconds",
        ),
    ] = 3.0
    silence_timeout: Annotated[
        float,
        option("silence_timeout", "How long the broker may say nothing before commands get 503.", unit="seconds"),
    ] = 1.5
    heartbeat: Annotated[
        float, option("heartbeat", "How often a quiet event stream says that it lives.", unit="seconds")
    ] = 15.0
    send_timeout: Annotated[
        float,
        option("send_timeout", "How long a stream's reader may take nothing before it is cut off.", unit="seconds"),
    ] = 30.0
    bulk_window: Annotated[
        int,
        option(
            "bulk_window",
            "How many lines of a bulk submit are on their way at once, at most: fewer where Flux takes its time.",
        ),
    ] = 4096
    stop_on_signal: Annotated[
        bool,
        option(
            "stop_on_signal",
            "SIGTERM and SIGINT stop the instance like POST /v1/service/stop, not the server alone.",
        ),
    ] = True
    idle_stop: Annotated[
        str,
        option(
            "idle_stop",
            "Stop the instance, like a drain, when for so long no job was active, no launcher ran and nobody called. "
            "`90`, `90s`, `30m`, `1.5h` or `1d`; empty: never. Probes, `GET /metrics` and `GET /v1/service` are no "
            "calls.",
        ),
    ] = ""
    min_free_disk: Annotated[
        int,
        option("min_free_disk", "Not ready while less is free where the store is; 0: however little.", unit="MiB"),
    ] = 16
    metrics_open: Annotated[
        bool, option("metrics_open", "Let anybody read metrics, who reaches the port, without a credential.")
    ] = False
    metrics_port: Annotated[
        int,
        option("metrics_port", "Serve metrics, and probes too, on a port of their own, and metrics only there. 0: no."),
    ] = 0
    metrics_users: Annotated[
        bool, option("metrics_users", "Tell figures of each user, at /metrics/users; there is a series for each.")
    ] = False
    cores: Annotated[int, option("cores", "Cores that --embedded gives to jobs; 0: all of this machine's.")] = 0
    kill_timeout: Annotated[
        float,
        option("kill_timeout", "With --embedded, and for launchers: from SIGTERM to SIGKILL.", unit="seconds"),
    ] = 5.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], option("log_level", "Lowest level to log.")] = (
        "info"
    )
    log_requests: Annotated[
        bool, option("log_requests", "A line for each request; of probes and metrics only where they fail.")
    ] = True
    log_jobs: Annotated[bool, option("log_jobs", "A line for each change of a job's state.")] = True
    log_format: Annotated[Literal["console", "json"], option("log_format", "How a log line is written.")] = "console"

    def check(self) -> None:
        """Refuse combinations that cannot work or are not safe.

        Raises:
            SettingsError: with a text for the person who typed the command.
        """
        if self.embedded and self._explicit_uri():
            raise SettingsError("--embedded and --uri exclude each other: choose where jobs run.")
        if not self.embedded and not self.uri:
            raise SettingsError(
                "There is no Flux instance to serve. Start one around the server:\n\n"
                "    flux start flux-sidecar serve\n\n"
                "or name a running one with --uri (or FLUX_URI), or run jobs on this machine without Flux:\n\n"
                "    flux-sidecar serve --embedded"
            )
        self.check_pod(self.uri, embedded=self.embedded)
        self.check_access()
        for name in ("max_body", "rpc_timeout", "silence_timeout", "heartbeat", "send_timeout", "bulk_window"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"--{name.replace('_', '-')} must be more than 0.")
        for name in ("cores", "kill_timeout", "lost_timeout", "min_free_disk"):
            if getattr(self, name) < 0:
                raise SettingsError(f"--{name.replace('_', '-')} must not be negative.")
        if not 0 <= self.metrics_port <= 65535 or (self.metrics_port and self.metrics_port == self.port):
            raise SettingsError("--metrics-port must be a port, 1 to 65535, and another than --port.")
        parse_option_flags(self.option_flags)
        if self.idle_stop:
            parse_duration("--idle-stop", self.idle_stop)

    def _explicit_uri(self) -> bool:
        return bool(self.uri) and self.uri != os.environ.get("FLUX_URI")

    @property
    def idle_stop_seconds(self) -> float | None:
        """After how many seconds an idle instance is stopped; None: never."""
        return parse_duration("--idle-stop", self.idle_stop) if self.idle_stop else None

    @property
    def launcher_names(self) -> frozenset[str]:
        """The programs that ``is_launcher`` may start."""
        return frozenset(parse_list(self.launchers))


def parse_option_flags(text: str) -> dict[str, str]:
    """Read ``-oKEY=VALUE -oKEY=VALUE`` (the ``-o`` may be left out), as FLUX_OPTION_FLAGS holds them.

    Raises:
        SettingsError: a flag has no value.
    """
    flags: dict[str, str] = {}
    try:
        parts = shlex.split(text)
    except ValueError as exc:
        raise SettingsError(f"--option-flags {text!r} cannot be read: {exc}.") from None
    for part in parts:
        if part == "-o":
            continue
        key, equals, value = part.removeprefix("-o").partition("=")
        if not equals or not key:
            raise SettingsError(f"--option-flags: {part!r} is not of the form -oKEY=VALUE.")
        flags[key] = value
    return flags


def process_environment() -> dict[str, str]:
    """The server's own environment, without what is the server's alone."""
    return job_environment(os.environ)


class TraceWish(NamedTuple):
    """What OpenTelemetry's variables ask for, of what is not its SDK's to read."""

    exporter: str
    names_service: bool


def trace_wish() -> TraceWish | None:
    """Return how traces are to be sent; None where nobody has asked for any."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    asked = exporter or any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT"))
    if not asked or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return TraceWish(exporter or "otlp", named)


def in_flux_job() -> bool:
    """Whether this process is (part of) a Flux job rather than an initial program."""
    return "FLUX_JOB_ID" in os.environ


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``environ`` less the server's settings and secrets: what a job may inherit."""
    return {
        name: value for name, value in environ.items() if not name.startswith(PREFIX) and name not in PRIVATE_VARIABLES
    }


class RunDirectory(NamedTuple):
    """Where the store and output files are."""

    path: Path
    lasting: bool
    """It is kept when the server ends: the caller has named it."""
    shared: bool
    """A later server beside the same instance finds it again: it is kept for as long as the instance lives."""


def make_run_directory(settings: Settings) -> RunDirectory:
    """Make the directory for the store and for output files.

    Without ``--store`` it is beside the instance's socket, which lives as long as the instance does: a server that is
    started again goes on with the same store, and event streams with their positions.

    Raises:
        SettingsError: the directory of ``--store`` cannot be made.
    """
    if settings.store:
        directory = Path(settings.store).expanduser().resolve().parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SettingsError(f"--store {settings.store}: {exc.strerror}: {directory}") from None
        return RunDirectory(directory, lasting=True, shared=True)
    if settings.uri.startswith(LOCAL) and not settings.embedded:
        socket = Path(settings.uri.removeprefix(LOCAL))
        directory = socket.with_name(f"{socket.name}.flux-sidecar")
        if _claim(directory):
            return RunDirectory(directory, lasting=False, shared=True)
    return RunDirectory(Path(tempfile.mkdtemp(prefix="flux-sidecar-")), lasting=False, shared=False)


def _claim(directory: Path) -> bool:
    """Take a directory for this process alone; false when another server has it, or it cannot be written."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # held until the process ends
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


def table() -> list[tuple[str, str, str, str]]:
    """Flag, variables, default and help of every option, for the documentation."""
    rows = []
    for field in dataclasses.fields(Settings):
        parameter: Any = _annotations()[field.name].__metadata__[0]
        flag = "--" + field.name.replace("_", "-")
        variables = ", ".join(f"`{name}`" for name in env_names(field.name))
        default = "" if field.default == "" or field.default is False else str(field.default)
        rows.append((flag, variables, default, parameter.help))
    return rows


def env_names(field: str) -> tuple[str, ...]:
    """The environment variables of a field, in order of precedence."""
    parameter: Any = _annotations()[field].__metadata__[0]
    return tuple(parameter.env_var)


def _annotations() -> dict[str, Any]:
    return typing.get_type_hints(Settings, include_extras=True)
