"""Builds the web application: the only place where all parts meet."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar import errors, jobspec, openapi
from sidecar.api import begun, routing
from sidecar.api.bulk import Bulk
from sidecar.api.cancel import Cancel
from sidecar.api.control import JobControl
from sidecar.api.events import Events
from sidecar.api.jobs import Jobs
from sidecar.api.launchers import LauncherResource
from sidecar.api.nodes import Nodes
from sidecar.api.output import JobOutput
from sidecar.api.queues import QueueResource
from sidecar.api.search import JobSearch
from sidecar.api.service import ServiceResource
from sidecar.api.stream import Pace
from sidecar.api.submit import Submit
from sidecar.errors import Problem
from sidecar.feed import Feed
from sidecar.follow import Followers
from sidecar.idle import NO_CALLS, IdleStop
from sidecar.instance import Instance
from sidecar.instance.embedded import EmbeddedInstance
from sidecar.launchers import Launchers
from sidecar.lifecycle import Lifecycle
from sidecar.settings import Settings, make_run_directory, parse_option_flags
from sidecar.store import Store
from sidecar.submissions import Submissions

log = structlog.get_logger("server")

_SHUTDOWN_TIMEOUT = 2.0
_ROOT = Path(str(resources.files("sidecar.web"))) / "static"
_STATIC = {str(file.relative_to(_ROOT)): file for file in _ROOT.rglob("*") if file.is_file()}
_STATE_HEADER = "Flux-Instance-State"


class Server:
    """All parts of one server, made in the order in which they depend on each other."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        path = Path(settings.store).expanduser().resolve() if settings.store else directory / "jobs.sqlite"
        self.store = Store(path)
        self.feed = Feed(self.store)
        self.instance = _instance(settings, directory)
        self.launchers = Launchers(directory, uri=settings.uri, kill_timeout=settings.kill_timeout)
        self.lifecycle = Lifecycle(self.instance, self.feed, self.launchers, stop_on_signal=settings.stop_on_signal)
        self.idle = IdleStop(
            self.lifecycle,
            self.feed,
            self.launchers,
            self.instance,
            after=settings.idle_stop_seconds,
            text=settings.idle_stop,
        )
        self.operations = self._operations()

    def _operations(self) -> list[routing.Operation]:
        settings = self.settings
        store, feed, instance, lifecycle = self.store, self.feed, self.instance, self.lifecycle
        flags = jobspec.parse_flags(dict(parse_option_flags(settings.option_flags)))
        submissions = Submissions(instance, feed, store, flags)
        pace = Pace(settings.heartbeat, settings.send_timeout)
        # The order is that of the routes: /v1/jobs/search must come before /v1/jobs/{uid}.
        parts = (
            JobSearch(store, feed),
            Submit(instance, lifecycle, submissions, self.launchers, settings.launcher_names),
            Bulk(
                instance,
                lifecycle,
                submissions,
                longest_line=settings.max_body,
                in_flight=settings.bulk_window,
            ),
            Jobs(store, feed, instance),
            Cancel(store, feed, instance),
            JobControl(store, feed, instance),
            Events(store, feed, pace),
            JobOutput(store, feed, instance, Followers(instance, feed, store), pace),
            Nodes(instance),
            QueueResource(store, instance),
            LauncherResource(self.launchers),
            ServiceResource(lifecycle, instance, feed, self.idle),
            _Documents(self),
        )
        return [op for part in parts for op in routing.operations(part)]

    def application(self) -> web.Application:
        """Return the aiohttp application; starting it starts the parts."""
        app = web.Application(
            middlewares=[_around_calls(self.instance, self.idle, self.settings.max_body)],
            client_max_size=self.settings.max_body,
        )
        for op in self.operations:
            routing.add(app, op)
        app.router.add_get("/static/{path:.+}", _static)
        app.on_shutdown.append(self._end_streams)
        app.cleanup_ctx.append(self._run_parts)
        return app

    async def _run_parts(self, _: web.Application) -> AsyncIterator[None]:
        await self.store.open()
        self.feed.start()
        await self.instance.start(self.idle)
        self.idle.start()
        yield
        await self.idle.close()
        await self.launchers.close()
        await self.instance.close()
        await self.feed.close()
        await self.store.close()

    async def _end_streams(self, _: web.Application) -> None:
        self.feed.end_streams("stopping", f"The service is {self.lifecycle.state}.")


class _Documents:
    """The contract, for machines and for people."""

    tag = "documents"

    def __init__(self, server: Server) -> None:
        self._server = server

    @routing.operation("GET", "/openapi.json", answers=(routing.Answer("OpenAPI 3.1", dict[str, Any]),), errors=(400,))
    async def openapi(self, request: web.Request) -> dict[str, Any]:
        """Read this API's OpenAPI document."""
        return openapi.document(self._server.operations)

    @routing.operation("GET", "/docs", answers=(routing.Answer("A page", media=("text/html",)),), errors=(400,))
    async def docs(self, request: web.Request) -> web.Response:
        """Browse this API; everything that the page needs comes from this server."""
        page = resources.files("sidecar.web").joinpath("docs.html").read_text()
        return web.Response(text=page, content_type="text/html")


async def _static(request: web.Request) -> web.FileResponse:
    """Send a vendored file. Only names that are there can be asked for, so no path leads elsewhere."""
    file = _STATIC.get(request.match_info["path"])
    if file is None:
        raise web.HTTPNotFound
    return web.FileResponse(file)


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a server until it has been stopped.

    Args:
        settings: checked options.
        announce: told the address once it is listening.

    Raises:
        OSError: the address cannot be listened on.
        StoreError: the store cannot be opened.
    """
    directory = make_run_directory(settings)
    server = Server(settings, directory.path)
    try:
        runner = web.AppRunner(
            server.application(),
            handle_signals=False,
            handler_cancellation=True,  # a reader that goes leaves nothing behind; commands are finished all the same
            access_log=None,
            shutdown_timeout=_SHUTDOWN_TIMEOUT,
        )
        try:
            await runner.setup()
            site = web.TCPSite(runner, settings.host, settings.port)
            await site.start()
            host, port = runner.addresses[0][:2]
            announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            await server.lifecycle.run()
        finally:
            await runner.cleanup()
    finally:
        if not directory.lasting and (server.lifecycle.over or not directory.shared):
            await asyncio.to_thread(shutil.rmtree, directory.path, ignore_errors=True)


def _instance(settings: Settings, directory: Path) -> Instance:
    if settings.embedded:
        return EmbeddedInstance(directory, cores=settings.cores, kill_timeout=settings.kill_timeout)
    from sidecar.instance.flux import FluxInstance  # needs libflux, which a laptop has not

    return FluxInstance(
        settings.uri,
        rpc_timeout=settings.rpc_timeout,
        lost_timeout=settings.lost_timeout,
        silence_timeout=settings.silence_timeout,
    )


def _around_calls(instance: Instance, idle: IdleStop, max_body: int) -> Middleware:
    """Make what is around every call: it counts as a use, its errors have one shape, and it tells a lost instance.

    One function for all of it: each middleware, and each signal, costs every request some microseconds.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if instance.status.connection != "ready":
            # On every answer: it may be out of date.
            request[begun.HEADERS] = {_STATE_HEADER: str(instance.status.connection)}
        counts = (request.method, request.path) not in NO_CALLS
        if counts:
            idle.begin_call()
        try:
            response = await _handled(request, handler, max_body)
        finally:
            if counts:
                idle.end_call()
        if begun.HEADERS in request and not response.prepared:
            response.headers.update(request[begun.HEADERS])
        return response

    return middleware


async def _handled(request: web.Request, handler: Handler, max_body: int) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as exc:
        return _answer(request, errors.render(exc))
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return _answer(request, errors.render(errors.from_http(exc, request, max_body)))
    except ConnectionError:  # the caller has gone: there is nobody to answer
        return _answer(request, web.Response(status=499))
    except Exception:
        log.exception("a request failed", method=request.method, path=request.path)
        return _answer(request, errors.render(Problem("The server failed; its log says how.")))


def _answer(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Answer with an error; an answer that is on its way already is cut off, so that nobody takes it for whole."""
    under_way: web.StreamResponse | None = request.get(begun.RESPONSE)
    if under_way is None:
        return response
    if request.transport is not None:
        request.transport.abort()
    return under_way
