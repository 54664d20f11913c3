"""Map the components of a server to the resources of the API and the pages, and their routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from sidecar.app.components import Components
from sidecar.http import operations
from sidecar.http.operations import Operation
from sidecar.http.sse import StreamLimits
from sidecar.services.collector import InstanceCollector, ServerCollector
from sidecar.services.live_output import LiveOutputs
from sidecar.services.output_log import OutputLogs
from sidecar.web.docs import Documents
from sidecar.web.forms import Forms
from sidecar.web.history import History
from sidecar.web.pages import Pages


class Routes:
    """The operations of one server.

    Args:
        components: serve them.
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        settings, guard = components.settings, components.auth.guard
        store, feed, instance = components.store, components.feed, components.instance
        limits = StreamLimits(
            settings.limits.heartbeat,
            settings.limits.send_timeout,
            components.instruments.dropped,
            components.listeners.clock,
        )
        live = LiveOutputs(OutputLogs(instance), feed, store, components.tasks)
        self._submit = Submit(
            instance, components.lifecycle, components.submissions, components.launchers, settings.jobs.launcher_names
        )
        self._cancel, self._control = Cancel(store, feed, instance), JobControl(store, feed, instance)
        self._output, self._events = JobOutput(store, feed, live, limits), Events(store, feed, limits)
        self._nodes = Nodes(instance)
        self._service = ServiceResource(
            components.lifecycle,
            feed,
            instance,
            components.health,
            components.idle,
            authenticates=not guard.allows_anonymous,
            no_auth=settings.access.no_auth,
        )
        self.login = LoginResource(guard, components.auth.login, no_auth=settings.access.no_auth)
        self.history = History(feed)
        self.pages = Pages(store, feed, instance, components.lifecycle, self.history, no_auth=settings.access.no_auth)
        self.operations: Sequence[Operation] = [
            *(op for resource in self._resources() for op in operations.operations(resource)),
            *self._metrics().operations(),
        ]

    def _resources(self) -> Iterator[operations.Resource]:
        """Yield the resources in the order of their routes: /v1/jobs/search comes before /v1/jobs/{uid}."""
        components, settings = self._components, self._components.settings
        store, feed, instance = components.store, components.feed, components.instance
        yield JobSearch(store, feed)
        yield self._submit
        yield Bulk(
            instance,
            components.lifecycle,
            components.submissions,
            longest_line=settings.limits.max_body,
            in_flight=settings.limits.bulk_window,
        )
        yield Jobs(store, feed, instance)
        yield from (self._cancel, self._control, self._events, self._output, self._nodes)
        yield QueueResource(store, feed, instance)
        yield LauncherResource(components.launchers)
        yield ClusterResource(
            components.cluster, components.scaler, settings.kubernetes.no_cluster, instance, components.lifecycle
        )
        yield from (self._service, self.login, self.pages)
        yield Forms(
            self.pages,
            submit=self._submit,
            cancel=self._cancel,
            control=self._control,
            output=self._output,
            nodes=self._nodes,
            service=self._service,
        )
        yield Documents(
            lambda: self.operations, open_to_all=components.auth.guard.allows_anonymous, no_auth=settings.access.no_auth
        )

    def _metrics(self) -> MetricsResource:
        c, settings = self._components, self._components.settings
        return MetricsResource(
            c.instruments,
            (
                InstanceCollector(c.instance, c.feed, c.resources, c.lifecycle, c.launchers),
                ServerCollector(c.feed, c.resources, c.store, c.health, lambda: c.listeners.connections),
            ),
            c.store,
            open_to_all=settings.access.metrics_open,
            users=settings.telemetry.metrics_users,
        )
