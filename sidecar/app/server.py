"""The applications of one server, and the order in which its parts start and close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import structlog
from aiohttp import web

from sidecar.app.components import Components
from sidecar.app.routes import Routes
from sidecar.config.settings import Settings
from sidecar.http import middleware, routing, streaming
from sidecar.http.body import BODIES, Bodies
from sidecar.http.middleware.problems import ErrorPages
from sidecar.http.operations import Operation
from sidecar.journal import orphans
from sidecar.runtime.memory import trim_periodically
from sidecar.runtime.parts import Parts
from sidecar.services.watchdog import Watchdog
from sidecar.store import StoreError
from sidecar.telemetry.access_log import AccessLog
from sidecar.web import render
from sidecar.web.docs import static

log = structlog.get_logger("server")

# Seconds that closing a part may take.
_STORE, _FEED, _SCALER = 3.0, 5.0, 4.0
_END_JOBS = 2.0
_AFTER_KILL = 3.0  # from SIGKILL on


class Server:
    """One server: its parts, its routes, and the aiohttp applications that serve them.

    Args:
        settings: checked options.
        directory: the run directory.
    """

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.components = Components(settings, directory)
        self._routes = Routes(self.components)

    @property
    def operations(self) -> Sequence[Operation]:
        """All operations, pages included."""
        return self._routes.operations

    def application(self) -> web.Application:
        """Return the application of the API and the pages; its start starts the parts, its clean-up closes them."""
        together = not self.components.settings.telemetry.metrics_port
        app = self._application(lambda op: op.port != "metrics" or together, files=True)
        app.on_shutdown.append(self._end_streams)
        app.cleanup_ctx.append(self._run_parts)
        return app

    def metrics_application(self) -> web.Application:
        """Return the application of --metrics-port: metrics and probes."""
        return self._application(lambda op: op.port != "api", files=False)

    def _application(self, wanted: Callable[[Operation], bool], *, files: bool) -> web.Application:
        components, settings = self.components, self.components.settings
        hooks = middleware.Hooks(
            connection=lambda: components.instance.status.connection,
            use=components.idle,
            pages=ErrorPages(self._routes.login.page, self._routes.layout.error_page),
        )
        access_log = AccessLog(settings.telemetry)
        middlewares = middleware.chain(components.auth.guard, components.instruments, hooks, access_log)
        app = web.Application(client_max_size=settings.limits.max_body)
        app[BODIES] = Bodies(
            settings.limits.max_body,
            settings.limits.body_timeout,
            components.bodies,
            components.listeners.clock,
            components.auth.guard.quota_key,
        )
        app[streaming.ANSWERS] = streaming.Answers(components.responses, components.auth.guard.quota_key)
        router = routing.Router(app, middlewares)
        for op in filter(wanted, self.operations):
            router.add_operation(op)
        if files:
            router.add_get("/static/{path:.+}", static)
        router.close()
        return app

    # ------------------------------------------------------------------------------------------ start and close

    async def _run_parts(self, _: web.Application) -> AsyncIterator[None]:
        async with Parts() as started:
            await self._start_jobs(started)
            self._start_services(started)
            self.components.lifecycle.started()
            yield

    async def _start_jobs(self, started: Parts) -> None:
        """Start what lists and runs jobs: the store first, and the instance once its events have a sink."""
        components = self.components
        started.add("listeners", self._close_listeners)
        started.add("auth", components.auth.close)
        components.auth.start(components.tasks)
        started.add("store", components.store.close, _STORE)
        await components.store.open()
        migration = components.tasks.start(components.store.migrated, "migration", on_death="end")
        started.add("migration", migration.close)
        started.add("jobs of the instance", self._end_jobs, _END_JOBS + _STORE)
        started.add("feed", components.feed.close, _FEED)
        components.feed.start(components.tasks)
        started.add("instance", components.instance.close, components.settings.engine.kill_timeout + _AFTER_KILL)
        await components.instance.start(components.feed, components.tasks)

    def _start_services(self, started: Parts) -> None:
        components, tasks = self.components, self.components.tasks
        if components.cluster and components.scaler:
            started.add("cluster", components.cluster.close)
            started.add("scaler", components.scaler.close, _SCALER)
        if outlook := components.pod.start():
            started.add("outlook", outlook.close)
        if seconds := components.settings.kubernetes.end_when_dead:
            watchdog = tasks.start(Watchdog(components.health.live, seconds).run, "watchdog", on_death="end")
            started.add("watchdog", watchdog.close)
        started.add("pages", tasks.start(render.compile_all, "pages").close)
        started.add("memory", tasks.start(trim_periodically, "memory").close)
        started.add("launchers", components.launchers.close, components.settings.engine.kill_timeout + _AFTER_KILL)
        started.add("idle", components.idle.close)
        components.idle.start(tasks)
        started.add("resources", components.resources.close)
        components.resources.start(tasks)
        if tracing := components.instruments.tracing:
            started.add("tracing", lambda: asyncio.to_thread(tracing.close))
        started.add("health", components.health.close)
        components.health.start()
        started.add("retention", tasks.start(components.retention.run, "retention").close)
        started.add("history", self._routes.history.close)
        self._routes.history.start(tasks)

    async def _close_listeners(self) -> None:
        self.components.listeners.close()

    async def _end_jobs(self) -> None:
        """Mark jobs of an ended instance as ended in a store that outlives it: the journal reports them no more."""
        components = self.components
        if not (components.settings.jobs.store and components.lifecycle.instance_ended and components.feed.caught_up):
            return
        try:
            await orphans.end_active_jobs(components.store, within=_END_JOBS, stopped=True)
        except StoreError as exc:
            log.error("jobs of the instance stay in the store as they were seen last", reason=str(exc))

    async def _end_streams(self, _: web.Application) -> None:
        self.components.feed.end_streams("stopping", f"The service is {self.components.lifecycle.state}.")
