"""Map the components of a server to the resources of the API and the pages, and their routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sidecar.api.auth import AuthResource, describe_auth
from sidecar.api.bulk import Bulk
from sidecar.api.cancel import Cancel
from sidecar.api.cluster import ClusterResource
from sidecar.api.control import JobControl
from sidecar.api.events import Events
from sidecar.api.job import JobResource
from sidecar.api.jobs import JobListing
from sidecar.api.launchers import LauncherResource
from sidecar.api.login import LoginResource
from sidecar.api.metrics import MetricsResource
from sidecar.api.nodes import Nodes
from sidecar.api.output import JobOutput
from sidecar.api.queues import QueueResource
from sidecar.api.rest_v1 import RestV1
from sidecar.api.search import JobSearch
from sidecar.api.service import AuthMode, ServiceResource
from sidecar.api.submit import Submit
from sidecar.app.components import Components
from sidecar.http import operations
from sidecar.http.operations import Operation
from sidecar.http.sse import StreamLimits
from sidecar.services.collector import InstanceCollector, ServerCollector
from sidecar.services.job_commands import JobCommands
from sidecar.services.job_output import JobOutputs
from sidecar.services.live_output import LiveOutputs
from sidecar.services.lookup import JobLookup
from sidecar.services.node_admin import NodeAdmin
from sidecar.services.output_log import OutputLogs
from sidecar.services.rest_v1 import RestJobs
from sidecar.services.submit import SubmitService
from sidecar.web.docs import Documents
from sidecar.web.forms import AdminForms, JobForms
from sidecar.web.history import History
from sidecar.web.layout import Layout
from sidecar.web.login import LoginPages
from sidecar.web.moved import MovedPages
from sidecar.web.pages import Pages
from sidecar.web.submitform import SubmitForm


class Routes:
    """The operations of one server.

    Args:
        components: what the operations use.
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        c, settings = components, components.settings
        self._lookup = JobLookup(c.store, c.feed)
        self._commands = JobCommands(self._lookup, c.store, c.feed, c.instance)
        self._submits = SubmitService(c.instance, c.lifecycle, c.submissions, c.launchers, settings.jobs.launcher_names)
        self._nodes = NodeAdmin(c.instance)
        self._logs = OutputLogs(c.instance)
        self._outputs = JobOutputs(self._lookup, self._logs)
        self._open_to_all, self._no_auth = c.auth.guard.allows_anonymous, settings.access.no_auth
        self.layout = Layout(c.store, c.feed, c.instance, c.lifecycle, no_auth=settings.access.no_auth)
        self.login = LoginPages(c.auth.guard, c.auth.logins, no_auth=settings.access.no_auth)
        self.history = History(c.feed)
        resources = (*self._jobs(), *self._instance(), *self._pages())
        self.operations: Sequence[Operation] = [
            *(op for resource in resources for op in operations.operations(resource)),
            *self._metrics().operations(),
        ]

    def _jobs(self) -> Iterator[operations.Resource]:
        """Yield the resources of jobs; /v1/jobs/search comes before /v1/jobs/{uid}."""
        c, settings = self._components, self._components.settings
        limits = StreamLimits(
            settings.limits.heartbeat,
            settings.limits.send_timeout,
            c.instruments.count_dropped_stream,
            c.listeners.clock,
        )
        yield JobSearch(c.store, c.feed)
        yield Submit(self._submits)
        yield Bulk(self._submits, longest_line=settings.limits.max_body, in_flight=settings.limits.bulk_window)
        yield JobListing(c.store, c.feed)
        yield JobResource(self._lookup, c.store, c.feed, c.instance)
        yield Cancel(self._commands)
        yield JobControl(self._commands)
        yield Events(c.store, c.feed, self._lookup, limits)
        yield JobOutput(self._lookup, self._outputs, LiveOutputs(self._logs, c.feed, c.store, c.tasks), limits)
        yield RestV1(RestJobs(self._submits, self._lookup, self._commands, c.instance))

    def _instance(self) -> Iterator[operations.Resource]:
        """Yield the resources of the instance and the service."""
        c, settings = self._components, self._components.settings
        yield Nodes(c.instance, self._nodes)
        yield QueueResource(c.store, c.feed, c.instance)
        yield LauncherResource(c.launchers)
        yield ClusterResource(c.cluster, c.scaler, settings.kubernetes.no_cluster, c.instance, c.lifecycle)
        auth = AuthMode(authenticates=not self._open_to_all, no_auth=self._no_auth)
        yield ServiceResource(c.lifecycle, c.feed, c.instance, c.health, c.idle, auth)
        yield LoginResource(c.auth.guard, c.auth.logins)
        yield AuthResource(describe_auth(settings))

    def _pages(self) -> Iterator[operations.Resource]:
        """Yield the pages and their forms."""
        c = self._components
        yield self.login
        yield Pages(self._lookup, c.store, c.feed, c.instance, self.history, self.layout)
        yield MovedPages()
        yield SubmitForm(self._submits, self._lookup, c.store, self.layout)
        yield JobForms(self._commands, self._outputs)
        yield AdminForms(self._nodes, c.lifecycle, self.layout)
        yield Documents(lambda: self.operations, open_to_all=self._open_to_all, no_auth=self._no_auth)

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
