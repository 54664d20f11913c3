"""Builds the web application: the only place where all parts meet."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import structlog
from aiohttp import web

from sidecar.api.bulk import Bulk
from sidecar.api.cancel import Cancel
from sidecar.api.cluster import ClusterResource
from sidecar.api.control import JobControl
from sidecar.api.events import Events
from sidecar.api.jobs import Jobs
from sidecar.api.launchers import LauncherResource
from sidecar.api.login import LoginResource
from sidecar.api.metrics import MetricsResource
from sidecar.api.nodes import Nodes
from sidecar.api.output import JobOutput
from sidecar.api.queues import QueueResource
from sidecar.api.search import JobSearch
from sidecar.api.service import ServiceResource
from sidecar.api.submit import Submit
from sidecar.auth.setup import AuthSetup
from sidecar.cluster import outlook
from sidecar.cluster.client import ApiServer
from sidecar.cluster.cluster import Cluster
from sidecar.config import secrets as hidden
from sidecar.config.options import SettingsError, api_server
from sidecar.config.settings import (
    Settings,
    hide_secrets,
    make_run_directory,
    parse_option_flags,
    store_path,
    tracing_config,
)
from sidecar.domain import shell_options as shelloptions
from sidecar.http import routing
from sidecar.http import streaming as pieces
from sidecar.http.body import BODIES, Bodies
from sidecar.http.listeners import Listeners, app_runner
from sidecar.http.middleware import Around
from sidecar.http.sse import StreamLimits
from sidecar.instance import Instance
from sidecar.instance.embedded.instance import EmbeddedInstance
from sidecar.journal import closing
from sidecar.journal.feed import Feed
from sidecar.runtime import exit as leaving
from sidecar.runtime.budget import Budget
from sidecar.runtime.memory import return_early, trim_now_and_then
from sidecar.runtime.parts import Parts, close_within
from sidecar.runtime.tasks import Supervisor
from sidecar.services.collector import InstanceCollector, ServerCollector
from sidecar.services.health import Health
from sidecar.services.idle import IdleStop
from sidecar.services.launchers import Launchers
from sidecar.services.lifecycle import Lifecycle, ServerFailed
from sidecar.services.live_output import LiveOutputs
from sidecar.services.output_log import OutputLogs
from sidecar.services.pod import Pod
from sidecar.services.resources import ResourcePoller
from sidecar.services.scaling import Scaler
from sidecar.services.submissions import Submissions
from sidecar.services.watchdog import Watchdog
from sidecar.store import Store, StoreError
from sidecar.telemetry.instruments import Instruments
from sidecar.telemetry.tracing import Tracing
from sidecar.web import render
from sidecar.web.docs import Documents, static
from sidecar.web.forms import Forms
from sidecar.web.history import History
from sidecar.web.pages import Pages

log = structlog.get_logger("server")

USAGE_ERROR, SOFTWARE_ERROR = 2, 70  # exit codes; the second is EX_SOFTWARE of sysexits.h

# Seconds that closing may take.
_END_JOBS = 2.0
_STORE, _FEED, _SCALER, _REMOVE, _END_FILE = 3.0, 5.0, 4.0, 2.0, 3.0
_START_GOES_ON, _START_CANCELLED = 1.0, 2.0
_AFTER_KILL = 3.0  # from SIGKILL on
_CLOSE_ALL = 12.0


class Server:
    """All parts of one server, made in the order in which they depend on each other."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.gate = AuthSetup(settings)
        self.sites = Listeners(settings, self.gate.watch)
        most = settings.max_in_flight << 20
        self.bodies = Budget(most, "request bodies", "--max-in-flight")
        self.answers = Budget(most, "answers", "--max-in-flight")
        path = store_path(settings.store) if settings.store else directory / "jobs.sqlite"
        self.store = Store(path)
        self.meters = Instruments(_tracing())
        self.tasks = Supervisor(self.meters.task_died, self._end)
        self.feed = Feed(self.store, self.meters, log_jobs=settings.log_jobs)
        self.instance = _instance(settings, directory, self.meters)
        self.feed.begin_again = self.instance.begin_again
        self.survey = ResourcePoller(self.instance, self.feed)
        self.launchers = Launchers(directory, uri=settings.uri, kill_timeout=settings.kill_timeout, tasks=self.tasks)
        self.no_cluster = settings.no_cluster
        self.cluster = None if self.no_cluster else _cluster(settings)
        self.scaler = Scaler(self.cluster, self.instance, self.tasks) if self.cluster else None
        self.place = Pod(settings, self.cluster, self.instance)
        self.lifecycle = Lifecycle(
            self.instance,
            self.feed,
            self.launchers,
            self.tasks,
            stop_on_signal=settings.stop_on_signal,
            start_timeout=settings.start_timeout,
            place=self.place,
        )
        self.deadline = leaving.Deadline(settings.kill_timeout + _CLOSE_ALL, self._out_of_time)
        self.lifecycle.deadline = self.deadline
        self.idle = IdleStop(
            self.lifecycle,
            self.feed,
            self.launchers,
            self.instance,
            after=settings.idle_stop_seconds,
            text=settings.idle_stop,
        )
        self.health = Health(
            self.instance,
            self.feed,
            self.store,
            self.lifecycle,
            self.tasks,
            min_free=settings.min_free_disk << 20,
            unreached=lambda: self.sites.trouble,
        )
        self.login = LoginResource(self.gate.guard, self.gate.login, no_auth=settings.no_auth)
        self.history = History(self.feed)
        self.pages = Pages(self.store, self.feed, self.instance, self.lifecycle, self.history, no_auth=settings.no_auth)
        self.operations = self._operations()

    def _operations(self) -> list[routing.Operation]:
        settings = self.settings
        store, feed, instance, lifecycle = self.store, self.feed, self.instance, self.lifecycle
        flags = shelloptions.parse(dict(parse_option_flags(settings.option_flags)))
        submissions = Submissions(instance, feed, store, flags)
        service = ServiceResource(
            lifecycle,
            feed,
            instance,
            self.health,
            self.idle,
            authenticates=not self.gate.guard.open,
            no_auth=settings.no_auth,
        )
        pace = StreamLimits(settings.heartbeat, settings.send_timeout, self.meters.dropped, self.sites.clock)
        submit = Submit(instance, lifecycle, submissions, self.launchers, settings.launcher_names)
        cancel, control, nodes = Cancel(store, feed, instance), JobControl(store, feed, instance), Nodes(instance)
        output = JobOutput(store, feed, LiveOutputs(OutputLogs(instance), feed, store), pace)
        # The order is that of the routes: /v1/jobs/search must come before /v1/jobs/{uid}.
        parts = (
            JobSearch(store, feed),
            submit,
            Bulk(
                instance,
                lifecycle,
                submissions,
                longest_line=settings.max_body,
                in_flight=settings.bulk_window,
            ),
            Jobs(store, feed, instance),
            cancel,
            control,
            Events(store, feed, pace),
            output,
            nodes,
            QueueResource(store, feed, instance),
            LauncherResource(self.launchers),
            ClusterResource(self.cluster, self.scaler, self.no_cluster, instance, lifecycle),
            service,
            self.login,
            self.pages,
            Forms(
                self.pages, submit=submit, cancel=cancel, control=control, output=output, nodes=nodes, service=service
            ),
            Documents(lambda: self.operations, open_to_all=self.gate.guard.open, no_auth=settings.no_auth),
        )
        metrics = MetricsResource(
            self.meters,
            (
                InstanceCollector(instance, feed, self.survey, lifecycle, self.launchers),
                ServerCollector(feed, self.survey, store, self.health, lambda: self.sites.connections),
            ),
            store,
            open_to_all=settings.metrics_open,
            users=settings.metrics_users,
        )
        return [*(op for part in parts for op in routing.operations(part)), *metrics.operations()]

    def application(self) -> web.Application:
        """Return the aiohttp application; starting it starts the parts."""
        app = self._served(lambda op: op.port != "metrics" or not self.settings.metrics_port)
        app.router.add_get("/static/{path:.+}", static)
        app.on_shutdown.append(self._end_streams)
        app.cleanup_ctx.append(self._run_parts)
        return app

    def metrics_application(self) -> web.Application:
        """Return what is served on the port for metrics alone: metrics and probes."""
        return self._served(lambda op: op.port != "api")

    def _served(self, wanted: Callable[[routing.Operation], bool]) -> web.Application:
        settings = self.settings
        around = Around(
            self.gate.guard,
            self.instance,
            self.idle,
            self.login.page,
            self.meters,
            error_page=render.error(self.pages.around),
            max_body=settings.max_body,
            log_requests=settings.log_requests,
        )
        app = web.Application(middlewares=[around.middleware()], client_max_size=settings.max_body)
        app[routing.OPERATIONS] = {}
        app[BODIES] = Bodies(
            settings.max_body, settings.body_timeout, self.bodies, self.sites.clock, self.gate.guard.share
        )
        app[pieces.ANSWERS] = pieces.Answers(self.answers, self.gate.guard.share)
        for op in filter(wanted, self.operations):
            routing.add(app, op)
        return app

    async def _run_parts(self, _: web.Application) -> AsyncIterator[None]:
        kill = self.settings.kill_timeout + _AFTER_KILL
        async with Parts() as parts:
            parts.add("sites", self._close_sites)
            parts.add("auth", self.gate.close)
            self.gate.start(self.tasks)
            parts.add("store", self.store.close, _STORE)
            await self.store.open()
            parts.add("jobs of the instance", self._end_jobs, _END_JOBS + _STORE)
            parts.add("feed", self.feed.close, _FEED)
            self.feed.start(self.tasks)
            parts.add("instance", self.instance.close, kill)
            await self.instance.start(self.idle, self.tasks)
            if self.cluster and self.scaler:
                parts.add("cluster", self.cluster.close)
                parts.add("scaler", self.scaler.close, _SCALER)
            self._watch(parts)
            parts.add("pages", self.tasks.start(render.compile_all, "pages").close)
            parts.add("memory", self.tasks.start(trim_now_and_then, "memory").close)
            parts.add("launchers", self.launchers.close, kill)
            parts.add("idle", self.idle.close)
            self.idle.start(self.tasks)
            parts.add("survey", self.survey.close)
            self.survey.start(self.tasks)
            if tracing := self.meters.tracing:
                parts.add("tracing", lambda: asyncio.to_thread(tracing.close))
            parts.add("health", self.health.close)
            self.health.start()
            parts.add("history", self.history.close)
            self.history.start(self.tasks)
            self.lifecycle.started()
            yield

    def _watch(self, parts: Parts) -> None:
        """Look whether the instance can still run, and whether this server lives; either ends the server."""
        if outlook_task := self.place.start(self.tasks):
            parts.add("outlook", outlook_task.close)
        if seconds := self.settings.end_when_dead:
            watchdog = self.tasks.start(Watchdog(self.health.live, seconds).run, "watchdog", on_death="end")
            parts.add("watchdog", watchdog.close)

    async def _close_sites(self) -> None:
        self.sites.close()

    def _out_of_time(self) -> None:
        """End what still runs: this is not the event loop, which may be blocked."""
        log.error("the server is not closed in time; the process ends", after=self.settings.kill_timeout + _CLOSE_ALL)
        self.lifecycle.kill()

    def _end(self, cause: str) -> None:
        self.lifecycle.fail(cause)

    async def _end_jobs(self) -> None:
        """End what the instance leaves behind in a store that is kept: nothing will be heard of it any more."""
        if not (self.settings.store and self.lifecycle.over and self.feed.caught_up):
            return
        try:
            await closing.end_active_jobs(self.store, within=_END_JOBS, stopped=True)
        except StoreError as exc:
            log.error("jobs of the instance stay in the store as they were seen last", reason=str(exc))

    async def _end_streams(self, _: web.Application) -> None:
        self.feed.end_streams("stopping", f"The service is {self.lifecycle.state}.")


async def serve(settings: Settings, announce: Callable[[list[str]], None]) -> None:
    """Run a server until it has been stopped.

    Args:
        settings: checked options.
        announce: told the addresses once it is listening.

    Raises:
        OSError: a file that is needed cannot be read or written.
        StoreError: the store cannot be opened.
        SettingsError: the address cannot be listened on, or the instance is another user's.
        ServerFailed: this pod has ended already, or something has died without which the server cannot go on.
    """
    return_early()
    if settings.end_file and (found := outlook.read(Path(settings.end_file))):
        raise ServerFailed(f"this pod has ended already: {found.reason}")
    directory = make_run_directory(settings)
    server = Server(settings, directory.path)
    hide_secrets()
    if settings.authenticates:
        hidden.forbid_inspection()
    server.lifecycle.take_signals()
    try:
        async with AsyncExitStack() as stack:
            with _leaving(server.deadline):
                starting = asyncio.create_task(_start(stack, server, settings), name="start")
                if await _has_started(starting, server.lifecycle):
                    urls = starting.result()
                    server.store.lock.note(" and ".join(urls))
                    announce(urls)
                await server.lifecycle.run()
        server.deadline.done()
        if settings.linger:
            await server.lifecycle.linger(settings.linger)
    finally:
        if not directory.lasting and (server.lifecycle.over or not directory.shared):
            remove = functools.partial(shutil.rmtree, directory.path, ignore_errors=True)
            await close_within("run directory", lambda: asyncio.to_thread(remove), _REMOVE)
        await close_within("end file", server.place.close, _END_FILE)


async def report_failure(settings: Settings, text: str) -> None:
    """Leave an Event that says why the server has not started, where it runs in Kubernetes and may."""
    if settings.no_cluster or settings.completion_index:
        return
    try:
        cluster = _cluster(settings)
    except SettingsError:
        return
    try:
        await cluster.tell("StartFailed", text, warning=True)
    finally:
        await cluster.close()


@contextmanager
def _leaving(deadline: leaving.Deadline) -> Iterator[None]:
    """Begin to count where it has not been begun, and note with which code the server leaves."""
    try:
        yield
    except ServerFailed:
        deadline.code = SOFTWARE_ERROR
        raise
    except Exception:
        deadline.code = USAGE_ERROR
        raise
    finally:
        deadline.begin()


async def _has_started(starting: asyncio.Task[list[str]], lifecycle: Lifecycle) -> bool:
    """Wait until the start has ended, or the server is to leave before; it may hang, in a file system perhaps."""
    left = asyncio.create_task(lifecycle.left(), name="left")
    await asyncio.wait([starting, left], return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if starting.done():
        return True
    log.info("the server leaves before it has started")
    for patience in (_START_GOES_ON, _START_CANCELLED):  # what is half started is harder to close
        await asyncio.wait([starting], timeout=patience)
        starting.cancel()
    return False


async def _start(stack: AsyncExitStack, server: Server, settings: Settings) -> list[str]:
    """Start all parts and listen; return the addresses."""
    runner = await stack.enter_async_context(app_runner(server.application()))
    metrics = None
    if settings.metrics_port:
        metrics = await stack.enter_async_context(app_runner(server.metrics_application()))
    return await server.sites.listen(runner, metrics)


def _tracing() -> Tracing | None:
    """Trace, where OpenTelemetry's variables ask for it.

    Raises:
        SettingsError: they ask for what there is not.
    """
    wish = tracing_config()
    if wish is None:
        return None
    try:
        return Tracing(wish.exporter, "" if wish.names_service else "flux-sidecar")
    except ValueError as exc:
        raise SettingsError(str(exc)) from None
    except ImportError:
        log.warning("no traces: the variables of OpenTelemetry are set; pip install 'flux-sidecar[tracing]'")
        return None


def _cluster(settings: Settings) -> Cluster:
    return Cluster(
        ApiServer(api_server(settings.kubernetes_api), Path(settings.kubernetes_credentials)),
        namespace=settings.kubernetes_namespace,
        job=settings.kubernetes_job or settings.minicluster,
        index=settings.completion_index,
    )


def _instance(settings: Settings, directory: Path, meters: Instruments) -> Instance:
    if settings.embedded:
        return EmbeddedInstance(directory, cores=settings.cores, kill_timeout=settings.kill_timeout)
    from sidecar.instance.flux.instance import FluxInstance  # needs libflux, which a laptop has not

    return FluxInstance(
        settings.uri,
        meters,
        rpc_timeout=settings.rpc_timeout,
        lost_timeout=settings.lost_timeout,
        silence_timeout=settings.silence_timeout,
        address=settings.address,
    )
