"""Every option of the server, once: name, type, default, unit and help.

The command line, the ``FLUX_SIDECAR_*`` variables and the table in ``docs/settings.md`` are all made from
:class:`Settings`. Nothing else in this package reads the process's environment.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import tempfile
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import structlog

from sidecar.config import addresses
from sidecar.config import secrets as hidden
from sidecar.config import unknown_variables as foreign
from sidecar.config.groups import GROUPS
from sidecar.config.options import LOCAL, PREFIX, URI, SettingsError, operator_uri, option, parse_duration, parse_list
from sidecar.config.pod import PodOptions

log = structlog.get_logger("settings")

#: Variables that configure the server or hold its secrets; no job ever inherits one.
#: Of the environment this process was started with; what they hold is read before the server starts.
SECRET_VARIABLES = ("FLUX_TOKEN", "FLUX_SECRET_KEY", f"{PREFIX}LOGIN_PASSWORD", f"{PREFIX}LOGIN_SECRET")
_OTEL_HEADERS = "OTEL_EXPORTER_OTLP(_[A-Z]+)?_HEADERS"  # hold the credential of a collector
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


_MOST_CORES = 65_536  # each is an entry of a set, before the server listens


@dataclass(frozen=True, kw_only=True)
class Settings(PodOptions):
    """How one server runs. Field metadata is the single source of flags, variables, help and documentation."""

    uri: Annotated[
        str,
        option(
            URI[0],
            "The Flux instance to serve, as flux-uri(1) gives it. In a pod of the Flux Operator it is that pod's "
            "broker where nothing is given.",
            *URI[1:],
        ),
    ] = ""
    embedded: Annotated[
        bool,
        option("embedded", "Run jobs on this machine, without Flux. For trying out and for client development."),
    ] = False
    store: Annotated[
        str,
        option(
            "store",
            "SQLite file that holds the job history. Empty: a file beside the instance's socket, which ends with "
            "the instance; a path on a volume keeps the history when the cluster is gone. One file is for one server: "
            "a second one ends with 2 and names the first.",
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
        float, option("heartbeat", "Interval between keep-alive comments on an idle event stream.", unit="seconds")
    ] = 15.0
    send_timeout: Annotated[
        float,
        option(
            "send_timeout",
            "How long the reader of an answer may take nothing of it before it is cut off.",
            unit="seconds",
        ),
    ] = 30.0
    bulk_window: Annotated[
        int,
        option(
            "bulk_window",
            "How many lines of a bulk submit are on their way at once, at most: fewer where Flux takes its time.",
        ),
    ] = 4096
    start_timeout: Annotated[
        float,
        option(
            "start_timeout",
            "How long a stop waits for an instance that does not run yet, because brokers are missing; then its broker "
            "is ended by SIGTERM.",
            unit="seconds",
        ),
    ] = 60.0
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
            "Drain and stop the instance after this long without an active job, a running launcher or an API call: "
            "`90`, `90s`, `30m`, `1.5h` or `1d`; empty: never. Probes, `GET /metrics` and `GET /v1/service` do not "
            "count.",
        ),
    ] = ""
    min_free_disk: Annotated[
        int,
        option("min_free_disk", "Report not ready while less disk space is free for the store; 0: never.", unit="MiB"),
    ] = 16
    metrics_open: Annotated[bool, option("metrics_open", "Serve metrics without authentication.")] = False
    metrics_port: Annotated[
        int,
        option("metrics_port", "Serve metrics, and probes too, on a port of their own, and metrics only there. 0: no."),
    ] = 0
    metrics_users: Annotated[bool, option("metrics_users", "Serve metrics of each user at /metrics/users.")] = False
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
        self._check_uri()
        self.check_access(*(f" (from the variable {name})" if name else "" for name in self._borrowed))
        for name in ("max_body", "rpc_timeout", "silence_timeout", "heartbeat", "send_timeout", "bulk_window"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"--{name.replace('_', '-')} must be more than 0.")
        for name in ("cores", "kill_timeout", "lost_timeout", "min_free_disk", "start_timeout"):
            if getattr(self, name) < 0:
                raise SettingsError(f"--{name.replace('_', '-')} must not be negative.")
        if self.cores > _MOST_CORES:
            raise SettingsError(f"--cores must be {_MOST_CORES:,} at most: no machine has more.")
        if not 0 <= self.metrics_port <= 65535 or (self.metrics_port and self.metrics_port == self.port):
            raise SettingsError(
                "--metrics-port must be a port from 1 to 65535, and not that of --port. 0: none of its own."
            )
        parse_option_flags(self.option_flags)
        if self.idle_stop:
            parse_duration("--idle-stop", self.idle_stop)

    def _check_uri(self) -> None:
        if self.embedded:
            return
        try:
            addresses.check_instance(self.uri)
        except ValueError as exc:
            variable = "" if self._explicit_uri() else " (from the variable FLUX_URI)"
            raise SettingsError(f"--uri{variable}: {exc}.") from None

    def located(self) -> Settings:
        """Return the same for the place that this process is in: beside an operator's broker the instance is known."""
        return self if self.uri or self.embedded else dataclasses.replace(self, uri=operator_uri())

    def _explicit_uri(self) -> bool:
        return bool(self.uri) and self.uri != os.environ.get("FLUX_URI")

    @property
    def _borrowed(self) -> tuple[str, str]:
        return variable_of("host", self.host), variable_of("port", self.port)

    @property
    def borrowed(self) -> list[str]:
        """What is to be said of values that come from variables which others set too."""
        return [
            f"--{flag} {value} is taken from the variable {name}"
            for flag, value, name in zip(("host", "port"), (self.host, self.port), self._borrowed, strict=True)
            if name
        ]

    @property
    def address(self) -> str:
        """Where the server is told to listen; empty where it takes any port."""
        if self.tcp and self.port:
            return f"{self.host} port {self.port}"
        return "" if self.tcp else self.socket

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


class TracingConfig(NamedTuple):
    """What OpenTelemetry's variables ask for, of what is not its SDK's to read."""

    exporter: str
    names_service: bool


def tracing_config() -> TracingConfig | None:
    """Return how traces are to be sent; None where nobody has asked for any."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    asked = exporter or any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT"))
    if not asked or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return TracingConfig(exporter or "otlp", named)


def hide_secrets() -> None:
    """Take secrets out of this process's environment, once they have been read: jobs run as the same user."""
    names = {name for name in os.environ if name in SECRET_VARIABLES or re.fullmatch(_OTEL_HEADERS, name)}
    if names:
        hidden.hide(names)
    for name in names:
        del os.environ[name]


def in_flux_job() -> bool:
    """Whether this process is (part of) a Flux job rather than an initial program."""
    return "FLUX_JOB_ID" in os.environ


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``environ`` less the server's settings and secrets: what a job may inherit."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(PREFIX) and name not in PRIVATE_VARIABLES and not re.fullmatch(_OTEL_HEADERS, name)
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
        directory = store_path(settings.store).parent
        try:
            if not directory.is_dir():
                log.warning("the directory of --store did not exist and was made", directory=str(directory))
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SettingsError(f"--store {settings.store}: {exc.strerror}: {directory}") from None
        return RunDirectory(directory, lasting=True, shared=True)
    if settings.uri.startswith(LOCAL) and not settings.embedded:
        socket = Path(settings.uri.removeprefix(LOCAL))
        directory = socket.with_name(f"{socket.name}.flux-sidecar")
        if _make(directory):
            return RunDirectory(directory, lasting=False, shared=True)
    return RunDirectory(Path(tempfile.mkdtemp(prefix="flux-sidecar-")), lasting=False, shared=False)


def store_path(text: str) -> Path:
    """Return the path of ``--store``, with all symbolic links followed.

    Raises:
        SettingsError: it leads nowhere.
    """
    try:
        return Path(text).expanduser().resolve()
    except (RuntimeError, OSError) as exc:  # links in a circle, no such user, a component that cannot be looked at
        raise SettingsError(f"--store {text}: {str(exc).rstrip('.')}. Name the path of a file.") from None


def _make(directory: Path) -> bool:
    """Make a directory, and say whether it can be written: the store's lock in it keeps a second server away."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


class OptionRow(NamedTuple):
    """An option as the documentation shows it."""

    flag: str
    """As it is typed; both forms of a flag that can be negated."""
    variables: str
    default: str
    text: str
    """Its help, with the values to choose from."""


def table() -> dict[str, list[OptionRow]]:
    """Return every option by the title of its group, for the documentation."""
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    return {title: [_row(name, defaults[name]) for name in names] for title, names in GROUPS.items()}


def _row(name: str, default: object) -> OptionRow:
    annotation = _annotations()[name]
    kind, parameter = annotation.__origin__, annotation.__metadata__[0]
    dashed = name.replace("_", "-")
    flag = f"`--{dashed}`"
    if kind is bool and parameter.negative is None:
        flag += f", `--no-{dashed}`"
    choices = ", ".join(f"`{value}`" for value in typing.get_args(kind)) if typing.get_origin(kind) is Literal else ""
    shown = {"": "", "True": "yes", "False": ""}.get(str(default), f"`{default}`")
    return OptionRow(
        flag,
        ", ".join(f"`{variable}`" for variable in env_names(name)),
        shown,
        f"{parameter.help} One of {choices}." if choices else parameter.help,
    )


def env_names(field: str) -> tuple[str, ...]:
    """The environment variables of a field, in order of precedence."""
    parameter: Any = _annotations()[field].__metadata__[0]
    return tuple(parameter.env_var)


def heed_environment(arguments: Sequence[str]) -> list[str]:
    """Take variables out of the environment that were not meant for this server; return what is to be said of them.

    Empty ones go too, of every option that does not take text: manifests have them where a value was left out.

    Args:
        arguments: of the command line; where a flag is given, its variables make no difference.
    """
    for field, annotation in _annotations().items():
        for name in env_names(field) if annotation.__origin__ is not str else ():
            if os.environ.get(name) == "":
                del os.environ[name]
    given = {flag for argument in arguments if (flag := argument.partition("=")[0]).startswith("--")}
    variables = {
        name: f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(Settings)
        for name in env_names(field.name)
    }
    found = foreign.find(os.environ, variables)
    said = list(found.unknown)
    for name, text in found.ignored.items():
        del os.environ[name]
        if variables[name] not in given and env_names(variables[name][2:].replace("-", "_"))[0] not in os.environ:
            said.append(text)
    return said


def variable_of(field: str, value: object) -> str:
    """Return which variable that others set too has given an option its value; empty when none has."""
    ours, *others = env_names(field)
    if ours in os.environ:
        return ""
    return next((name for name in others if name in foreign.GENERAL and os.environ.get(name) == str(value)), "")


def _annotations() -> dict[str, Any]:
    return typing.get_type_hints(Settings, include_extras=True)
