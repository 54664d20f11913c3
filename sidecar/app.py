"""Builds the web application: the only place where all parts meet."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from aiohttp import web

from sidecar import jobspec
from sidecar.api import pieces, routing
from sidecar.api.around import Around
from sidecar.api.bulk import Bulk
from sidecar.api.cancel import Cancel
from sidecar.api.cluster import ClusterResource
from sidecar.api.control import JobControl
from sidecar.api.events import Events
from sidecar.api.jobs import Jobs
from sidecar.api.launchers import LauncherResource
from sidecar.api.login import LoginResource
from sidecar.api.metrics import InstanceMetrics, MetricsResource
from sidecar.api.nodes import Nodes
from sidecar.api.output import JobOutput
from sidecar.api.queues import QueueResource
from sidecar.api.search import JobSearch
from sidecar.api.service import ServiceResource
from sidecar.api.stream import Pace
from sidecar.api.submit import Submit
from sidecar.apiserver import ApiServer
from sidecar.documents import Documents, static
from sidecar.feed import Feed
from sidecar.follow import Followers
from sidecar.gate import Gate
from sidecar.health import Health
from sidecar.idle import IdleStop
from sidecar.instance import Instance
from sidecar.instance.embedded import EmbeddedInstance
from sidecar.kube import Cluster
from sidecar.launchers import Launchers
from sidecar.lifecycle import Lifecycle
from sidecar.listen import Door, allow_many_files
from sidecar.meters import Meters
from sidecar.options import SettingsError, api_server
from sidecar.scaling import Scaler
from sidecar.settings import Settings, make_run_directory, parse_option_flags, trace_wish
from sidecar.sites import Sites, running
from sidecar.store import Store
from sidecar.submissions import Submissions
from sidecar.survey import Survey
from sidecar.tracing import Tracing
from sidecar.web import render
from sidecar.web.actions import Actions
from sidecar.web.history import History
from sidecar.web.pages import Pages

log = structlog.get_logger("server")


class Server:
    """All parts of one server, made in the order in which they depend on each other."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.gate = Gate(settings)
        self.sites = Sites(settings, self.gate.watch)
        path = Path(settings.store).expanduser().resolve() if settings.store else directory / "jobs.sqlite"
        self.store = Store(path)
        self.meters = Meters(_tracing())
        self.feed = Feed(self.store, self.meters, log_jobs=settings.log_jobs)
        self.instance = _instance(settings, directory, self.meters)
        self.survey = Survey(self.instance, self.feed)
        self.launchers = Launchers(directory, uri=settings.uri, kill_timeout=settings.kill_timeout)
        self.no_cluster = settings.no_cluster
        self.cluster = None if self.no_cluster else _cluster(settings)
        self.scaler = Scaler(self.cluster, self.instance) if self.cluster else None
        self.lifecycle = Lifecycle(
            self.instance,
            self.feed,
            self.launchers,
            stop_on_signal=settings.stop_on_signal,
            tell=self.cluster.tell if self.cluster else None,
        )
        self.idle = IdleStop(
            self.lifecycle,
            self.feed,
            self.launchers,
            self.instance,
            after=settings.idle_stop_seconds,
            text=settings.idle_stop,
        )
        self.health = Health(
            self.instance, self.feed, self.store, self.lifecycle, min_free=settings.min_free_disk << 20
        )
        self.login = LoginResource(self.gate.guard, self.gate.login, no_auth=settings.no_auth)
        self.history = History(self.feed)
        self.pages = Pages(self.store, self.feed, self.instance, self.lifecycle, self.history, no_auth=settings.no_auth)
        self.operations = self._operations()

    def _operations(self) -> list[routing.Operation]:
        settings = self.settings
        store, feed, instance, lifecycle = self.store, self.feed, self.instance, self.lifecycle
        flags = jobspec.parse_flags(dict(parse_option_flags(settings.option_flags)))
        submissions = Submissions(instance, feed, store, flags)
        service = ServiceResource(
            lifecycle,
            instance,
            self.health,
            self.idle,
            authenticates=not self.gate.guard.open,
            no_auth=settings.no_auth,
        )
        pace = Pace(settings.heartbeat, settings.send_timeout, self.meters.dropped)
        submit = Submit(instance, lifecycle, submissions, self.launchers, settings.launcher_names)
        cancel, control, nodes = Cancel(store, feed, instance), JobControl(store, feed, instance), Nodes(instance)
        output = JobOutput(store, feed, instance, Followers(instance, feed, store), pace)
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
            QueueResource(store, instance),
            LauncherResource(self.launchers),
            ClusterResource(self.cluster, self.scaler, self.no_cluster, instance, lifecycle),
            service,
            self.login,
            self.pages,
            Actions(
                self.pages, submit=submit, cancel=cancel, control=control, output=output, nodes=nodes, service=service
            ),
            Documents(lambda: self.operations, open_to_all=self.gate.guard.open, no_auth=settings.no_auth),
        )
        metrics = MetricsResource(
            self.meters,
            InstanceMetrics(
                instance,
                feed,
                self.survey,
                lifecycle,
                self.launchers,
                store,
                health=self.health,
                connections=lambda: self.sites.connections,
                counted=self.meters.counted,
            ),
            store,
            open_to_all=settings.metrics_open,
            users=settings.metrics_users,
        )
        return [*(op for part in parts for op in routing.operations(part)), *metrics.operations()]

    def application(self) -> web.Application:
        """Return the aiohttp application; starting it starts the parts."""
        app = self._served(
            self.sites.api, lambda op: not (self.settings.metrics_port and op.path.startswith("/metrics"))
        )
        app.router.add_get("/static/{path:.+}", static)
        app.on_shutdown.append(self._end_streams)
        app.cleanup_ctx.append(self._run_parts)
        return app

    def metrics_application(self) -> web.Application:
        """Return what is served on the port for metrics alone: metrics and probes."""
        return self._served(self.sites.metrics, lambda op: op.path.startswith(("/metrics", "/livez", "/readyz")))

    def _served(self, door: Door, wanted: Callable[[routing.Operation], bool]) -> web.Application:
        settings = self.settings
        around = Around(
            self.gate.guard,
            door,
            self.instance,
            self.idle,
            self.login,
            self.meters,
            error_page=render.error(self.pages.around),
            max_body=settings.max_body,
            log_requests=settings.log_requests,
        )
        app = web.Application(middlewares=[around.middleware()], client_max_size=settings.max_body)
        app[routing.OPERATIONS] = {}
        app[routing.BODY_TIMEOUT] = settings.body_timeout
        app[pieces.SEND_TIMEOUT] = settings.send_timeout
        for op in filter(wanted, self.operations):
            routing.add(app, op)
        return app

    async def _run_parts(self, _: web.Application) -> AsyncIterator[None]:
        self.gate.start()
        await self.store.open()
        self.feed.start()
        await self.instance.start(self.idle)
        self.idle.start()
        self.survey.start()
        self.health.start()
        self.history.start()
        yield
        await self.history.close()
        await self.health.close()
        if tracing := self.meters.tracing:
            await asyncio.to_thread(tracing.close)
        await self.survey.close()
        await self.idle.close()
        await self.launchers.close()
        if self.cluster and self.scaler:
            await self.scaler.close()
            await self.cluster.close()
        await self.instance.close()
        await self.feed.close()
        await self.store.close()
        await self.gate.close()
        self.sites.close()

    async def _end_streams(self, _: web.Application) -> None:
        self.feed.end_streams("stopping", f"The service is {self.lifecycle.state}.")


async def serve(settings: Settings, announce: Callable[[list[str]], None]) -> None:
    """Run a server until it has been stopped.

    Args:
        settings: checked options.
        announce: told the addresses once it is listening.

    Raises:
        OSError: the address cannot be listened on.
        StoreError: the store cannot be opened.
        SettingsError: the instance is somebody else's.
    """
    directory = make_run_directory(settings)
    server = Server(settings, directory.path)
    try:
        async with AsyncExitStack() as stack:
            runner = await stack.enter_async_context(running(server.application()))
            metrics = (
                await stack.enter_async_context(running(server.metrics_application()))
                if settings.metrics_port
                else None
            )
            allow_many_files()
            announce(await server.sites.listen(runner, metrics))
            await server.lifecycle.run()
        if settings.linger:
            await server.lifecycle.linger(settings.linger)
    finally:
        if not directory.lasting and (server.lifecycle.over or not directory.shared):
            await asyncio.to_thread(shutil.rmtree, directory.path, ignore_errors=True)


def _tracing() -> Tracing | None:
    """Trace, where OpenTelemetry's variables ask for it.

    Raises:
        SettingsError: they ask for what there is not.
    """
    wish = trace_wish()
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


def _instance(settings: Settings, directory: Path, meters: Meters) -> Instance:
    if settings.embedded:
        return EmbeddedInstance(directory, cores=settings.cores, kill_timeout=settings.kill_timeout)
    from sidecar.instance.flux import FluxInstance  # needs libflux, which a laptop has not

    return FluxInstance(
        settings.uri,
        meters,
        rpc_timeout=settings.rpc_timeout,
        lost_timeout=settings.lost_timeout,
        silence_timeout=settings.silence_timeout,
    )
