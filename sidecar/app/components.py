"""Construct the components of a server, in the order in which they depend on each other. Nothing starts here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from sidecar.auth.setup import AuthSetup
from sidecar.config.environment import api_server, tracing_config
from sidecar.config.jobs import parse_option_flags
from sidecar.config.rundir import store_path
from sidecar.config.settings import Settings
from sidecar.config.values import SettingsError, parse_list
from sidecar.domain import shell_options
from sidecar.domain.inherited import InheritedVariables
from sidecar.http.listeners import Listeners
from sidecar.instance import Instance
from sidecar.instance.embedded.instance import EmbeddedInstance
from sidecar.journal.feed import Feed
from sidecar.runtime import termination
from sidecar.runtime.budget import Budget
from sidecar.runtime.tasks import Supervisor
from sidecar.services.health import Health, storage_checks
from sidecar.services.idle import IdleStop
from sidecar.services.launchers import Launchers
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.pod import Pod
from sidecar.services.resources import ResourcePoller
from sidecar.services.retention import Limits, Retention
from sidecar.services.scaling import Scaler
from sidecar.services.signals import Signals
from sidecar.services.submissions import Submissions
from sidecar.services.workload import Workload
from sidecar.store import Store
from sidecar.telemetry.instruments import Instruments
from sidecar.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from sidecar.cluster.cluster import Cluster

log = structlog.get_logger("server")

_CLOSE_ALL = 12.0  # seconds for the whole close, besides --kill-timeout


class Components:
    """The components of one server.

    Args:
        settings: checked options.
        directory: the run directory; nothing is created in it before the start.

    Raises:
        SettingsError: a file or variable that the settings name cannot be used.
        ImportError: the Flux bindings cannot be loaded.
    """

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.auth = AuthSetup(settings)
        self.listeners = Listeners(settings, self.auth.watch)
        in_flight = settings.limits.max_in_flight << 20
        self.bodies = Budget(in_flight, "request bodies", "--max-in-flight")
        self.responses = Budget(in_flight, "responses", "--max-in-flight")
        self.store = Store(store_path(settings.jobs.store) if settings.jobs.store else directory / "jobs.sqlite")
        self.instruments = Instruments(_tracing())
        self.tasks = Supervisor(self.instruments.count_task_death, lambda cause: self.lifecycle.fail(cause))
        self.feed = Feed(self.store, self.instruments, log_jobs=settings.telemetry.log_jobs)
        self.instance = _instance(settings, directory, self.instruments)
        self.feed.replay = self.instance.replay_history
        if not settings.engine.embedded:
            self.feed.history.open = self._open_history
        self.resources = ResourcePoller(self.instance, self.feed)
        self.launchers = Launchers(
            directory, uri=settings.jobs.uri, kill_timeout=settings.engine.kill_timeout, tasks=self.tasks
        )
        self.cluster = None if settings.kubernetes.no_cluster else cluster(settings)
        self.scaler = Scaler(self.cluster, self.instance, self.tasks) if self.cluster else None
        self.pod = Pod(settings.kubernetes, self.cluster, self.instance, self.tasks)
        self.deadline = termination.Deadline(settings.engine.kill_timeout + _CLOSE_ALL, self._close_timed_out)
        workload, jobs = Workload(self.instance, self.feed, self.launchers), settings.jobs
        self.lifecycle = Lifecycle(workload, self.pod, self.tasks, self.deadline, start_timeout=jobs.start_timeout)
        self.signals = Signals(self.lifecycle, self.instance, stop_on_signal=jobs.stop_on_signal)
        self.idle = IdleStop(self.lifecycle, workload, after=jobs.idle_stop_seconds, text=jobs.idle_stop)
        self.health = Health(
            self.instance,
            self.feed,
            self.lifecycle,
            self.tasks,
            storage_checks(self.store, min_free=settings.limits.min_free_disk << 20),
            listener_problem=lambda: self.listeners.unreachable,
        )
        limits = Limits(settings.jobs.keep_jobs, settings.jobs.keep_for, settings.limits.min_free_disk << 20)
        self.retention = Retention(self.store, self.feed, limits, self.instruments)
        flags = shell_options.parse(dict(parse_option_flags(settings.jobs.option_flags)))
        inherited = InheritedVariables(parse_list(settings.jobs.job_environment))
        self.submissions = Submissions(self.instance, self.feed, self.store, flags, inherited)

    async def _open_history(self) -> tuple[int, list[str]]:
        """Return the number of ended jobs of the instance, and the command that reads them."""
        ended = await self.instance.ended_jobs()
        module = [sys.executable, "-P", "-m", "sidecar.history"]
        return ended, [*module, *self.instance.history_source(), str(self.store.path)]

    def _close_timed_out(self) -> None:
        """Kill what still runs; called in another thread, because the event loop may be blocked."""
        log.error(
            "the server is not closed in time; the process ends", after=self.settings.engine.kill_timeout + _CLOSE_ALL
        )
        self.lifecycle.kill()


def cluster(settings: Settings) -> Cluster:
    """Return the cluster that the settings name.

    Raises:
        SettingsError: the address of the API server cannot be used.
    """
    from sidecar.cluster.client import ApiServer  # they load the Kubernetes client: 30 MB
    from sidecar.cluster.cluster import MAX_RESPONSE, Cluster

    options = settings.kubernetes
    credentials = Path(options.kubernetes_credentials)
    return Cluster(
        ApiServer(api_server(options.kubernetes_api), credentials, max_response=MAX_RESPONSE),
        namespace=options.kubernetes_namespace,
        job=options.kubernetes_job or options.minicluster,
        index=options.completion_index,
    )


def _tracing() -> Tracing | None:
    """Return the tracing that OpenTelemetry's variables configure; None without them or without its packages.

    Raises:
        SettingsError: the variables name an exporter that is not supported.
    """
    config = tracing_config()
    if config is None:
        return None
    try:
        return Tracing(config.exporter, "" if config.names_service else "flux-sidecar")
    except ValueError as exc:
        raise SettingsError(str(exc)) from None
    except ImportError:
        log.warning("no traces: the variables of OpenTelemetry are set; pip install 'flux-sidecar[tracing]'")
        return None


def _instance(settings: Settings, directory: Path, instruments: Instruments) -> Instance:
    if settings.engine.embedded:
        return EmbeddedInstance(directory, cores=settings.engine.cores, kill_timeout=settings.engine.kill_timeout)
    from sidecar.instance.flux.instance import FluxInstance  # needs libflux, which --embedded does without

    return FluxInstance(
        settings.jobs.uri,
        instruments,
        rpc_timeout=settings.jobs.rpc_timeout,
        lost_timeout=settings.jobs.lost_timeout,
        silence_timeout=settings.jobs.silence_timeout,
        address=settings.listen.address,
    )
