"""``/metrics``, for Prometheus: a scrape reads memory only, and ``/metrics/users`` the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Meta
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.registry import Collector

from sidecar.config.access import Scope
from sidecar.domain.errors import InvalidRequest, NotFound
from sidecar.http.operations import Answer, Operation, operation, operations
from sidecar.services.collector import UserCollector
from sidecar.store import Store
from sidecar.telemetry.instruments import Instruments

_MEDIA = ("text/plain", "application/openmetrics-text")


class MetricsQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The metrics to read."""

    names: Annotated[str, Meta(description="only the family of this name; may be repeated")] = msgspec.field(
        name="name[]", default=""
    )


class UsersQuery(MetricsQuery, frozen=True):
    """The metrics to read."""


class MetricsResource:
    """Serve the metrics.

    Args:
        meters: have the registry.
        collectors: provide the metrics that the instruments do not count.
        store: counts the jobs of users.
        open_to_all: whether metrics need no credential.
        users: whether metrics by user are served.
    """

    tag = "metrics"

    def __init__(
        self, meters: Instruments, collectors: Iterable[Collector], store: Store, *, open_to_all: bool, users: bool
    ) -> None:
        self._scope: Scope | None = None if open_to_all else "read"
        self._store = store
        self._users = users
        registry = meters.registry
        for collector in collectors:
            registry.register(collector)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._expose = _handler(registry)

    def operations(self) -> list[Operation]:
        """Return the operations, with the scope that this server requires."""
        return [msgspec.structs.replace(op, scope=self._scope) for op in operations(self)]

    @operation(
        "GET",
        "/metrics",
        use=False,
        quiet=True,
        port="metrics",
        query=MetricsQuery,
        compress=True,
        loose=True,
        answers=(Answer("Metrics, as OpenMetrics or in Prometheus' own format", media=_MEDIA),),
        errors=(400,),
    )
    async def metrics(self, request: web.Request, query: MetricsQuery) -> web.StreamResponse:
        """Read the metrics of the instance and of this server; docs/metrics.md describes them."""
        _check(request)
        return await self._expose(request)

    @operation(
        "GET",
        "/metrics/users",
        use=False,
        quiet=True,
        port="metrics",
        query=UsersQuery,
        compress=True,
        loose=True,
        answers=(Answer("Metrics, as OpenMetrics or in Prometheus' own format", media=_MEDIA),),
        errors=(400, 404),
    )
    async def users(self, request: web.Request, query: UsersQuery) -> web.StreamResponse:
        """Read the metrics of each user, if the server was started with --metrics-users.

        They have a route of their own: there are as many series as users, and they reveal the names of the users.
        """
        _check(request)
        if not self._users:
            raise NotFound("Metrics of users are not served: start the server with --metrics-users.")
        counts = await self._store.counts.by_user()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(UserCollector(counts))
        return await _handler(registry)(request)


def _handler(registry: CollectorRegistry) -> Handler:
    """Return a handler that serves a registry; its own compression would ignore the qualities of Accept-Encoding."""
    return make_aiohttp_handler(registry, disable_compression=True)


def _check(request: web.Request) -> None:
    """Refuse unknown parameters, as all other routes do; the only parameter may be repeated."""
    if unknown := request.query.keys() - {"name[]"}:
        raise InvalidRequest(f"'{min(unknown)}' is not a parameter here; use name[].")
