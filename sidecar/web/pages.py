"""The pages of the web UI. Each works without scripts, which only update it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta

from sidecar.api import filters, fresh
from sidecar.auth.guard import caller_of
from sidecar.domain import idset, jobspec, restored, untrusted
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import PENDING, RESULTS, STATES, Job, Node
from sidecar.http.operations import Answer, operation
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.services.lookup import JobLookup
from sidecar.store import Filter, Search, Store, StoredEvent
from sidecar.store.query import sort_problem
from sidecar.telemetry.metrics import NODE_STATES
from sidecar.web.history import History
from sidecar.web.layout import Layout
from sidecar.web.render import done_text, render_page
from sidecar.web.resubmit import curl_options, request_of

_ROWS = 50  # jobs on one page of the table
_WAITING, _FAILURES, _ON_NODES = 10, 8, 2000  # jobs
_HTML = (Answer("A page", media=("text/html",)),)
_EVENTS = 100  # events of a job that its page shows: the first and the last ones
_LONGEST_CONTEXT = 2048  # characters

Column = Literal["id", "name", "state", "queue", "username", "nnodes", "ntasks", "runtime", "t_submit"]


class TableQuery(msgspec.Struct, kw_only=True, frozen=True):
    """The view of the table of jobs."""

    q: Annotated[str, Meta(description="text to search for")] = ""
    state: Annotated[str, Meta(description="states, or pending, running, active")] = ""
    result: Annotated[str, Meta(description="results")] = ""
    queue: Annotated[str, Meta(description="name of the queue")] = ""
    sort: Annotated[Column, Meta(description="column")] = "id"
    up: Annotated[bool | None, Meta(description="ascending order")] = None
    page: Annotated[int, Meta(ge=1, le=10**6, description="number of the page")] = 1
    said: Annotated[str, Meta(description="action whose message is shown")] = ""


class JobPageQuery(msgspec.Struct, kw_only=True, frozen=True):
    """The message to show."""

    said: Annotated[str, Meta(description="action whose message is shown")] = ""


class NodesPageQuery(JobPageQuery, frozen=True):
    """The message to show."""


class _RunningJob(NamedTuple):
    """A job on the page of nodes."""

    f58id: str
    name: str
    ranks: list[int]

    @classmethod
    def decode(cls, raw: bytes, last_rank: int) -> _RunningJob:
        """Decode a job; its ranks are limited to those that the instance has."""
        job = restored.job(raw)
        return cls(job.f58id, job.name, list(idset.upto(job.ranks, last_rank)))


class Pages:
    """Show the instance, its jobs and its nodes.

    Args:
        lookup: finds a job.
        store: holds the jobs.
        feed: the journal, which counts the jobs.
        instance: has the nodes and the queues.
        history: has the plot of the overview.
        layout: the frame of every page.
    """

    tag = "pages"

    def __init__(
        self, lookup: JobLookup, store: Store, feed: Feed, instance: Instance, history: History, layout: Layout
    ) -> None:
        self._lookup = lookup
        self._store = store
        self._feed = feed
        self._instance = instance
        self._history = history
        self._layout = layout

    @operation("GET", "/", page=True, answers=_HTML, errors=(400, 503))
    async def overview(self, request: web.Request) -> web.Response:
        """Show the overview."""
        layout = self._layout.values("overview")
        await fresh.settle(request, self._feed)
        resources, queues = await self._instance.resources(), await self._instance.queues()
        waiting = await self._store.lists.table(Search(length=_WAITING), Filter(states=PENDING), restored.job)
        failures = await self._store.lists.table(Search(length=_FAILURES), Filter(results=("FAILED", "TIMEOUT")), _row)
        stopped = {queue.name for queue in queues.queues if not queue.started}
        states: Counter[str] = Counter()
        for group, number in self._feed.counts.groups.items():
            states[group.state] += number
        return render_page(
            request,
            "overview.html",
            **layout,
            states={state: states[state] for state in STATES},
            nodes=Counter(node.state for node in resources.nodes),
            node_states=NODE_STATES,
            cores=_use((node.cores_allocated, node.cores) for node in resources.nodes if node.up),
            gpus=_use((node.gpus_allocated, node.gpus) for node in resources.nodes if node.up),
            queues=queues.queues,
            waiting=[(job, _why_pending(job, stopped)) for job in waiting],
            failures=failures,
            history=self._history.series(),
        )

    @operation("GET", "/jobs", page=True, query=TableQuery, answers=_HTML, errors=(400, 503))
    async def jobs(self, request: web.Request, query: TableQuery) -> web.Response:
        """Show a page of the table of jobs; the address holds the view."""
        layout = self._layout.values("jobs")
        await fresh.settle(request, self._feed)
        where = filters.read(
            filters.JobFilter(state=query.state or None, result=query.result or None, queue=query.queue or None)
        )
        search = Search(
            text=query.q.strip(),
            start=(query.page - 1) * _ROWS,
            length=_ROWS + 1,
            order=((query.sort, not query.up),) if query.sort != "id" or query.up else (),
        )
        if problem := sort_problem(search.order, sum(self._feed.counts.groups.values())):
            raise InvalidRequest(f"sort: {problem}")
        rows = await self._store.lists.table(search, where, _row)
        queues = await self._instance.queues()
        return render_page(
            request,
            "jobs.html",
            **layout,
            query=query,
            jobs=rows[:_ROWS],
            more=len(rows) > _ROWS,
            first=search.start + 1,
            states=("active", "pending", "running", *(state.lower() for state in STATES)),
            results=[result.lower() for result in RESULTS],
            queues=[] if queues.anonymous else [queue.name for queue in queues.queues],
            total=sum(self._feed.counts.groups.values()),
            link=lambda **changes: _link(query, **changes),
            done=done_text(query.said),
        )

    @operation("GET", "/jobs/{uid}", page=True, query=JobPageQuery, answers=_HTML, errors=(400, 404, 503))
    async def job(self, request: web.Request, jobid: int, query: JobPageQuery) -> web.Response:
        """Show one job: its events, its resources, and its output as it is written."""
        layout = self._layout.values("jobs")
        job = await self._lookup.job(jobid)
        first, between, last = await self._store.eventlog_ends(jobid, _EVENTS)
        started = first[0].timestamp if first else 0.0
        caller = caller_of(request)
        own = "submit" in caller.scopes and caller.owns(job.submitter)
        return render_page(
            request,
            "job.html",
            **layout,
            job=job,
            done=done_text(query.said),
            first=[(entry, entry.timestamp - started, _context(entry)) for entry in first],
            between=between,
            last=[(entry, entry.timestamp - started, _context(entry)) for entry in last],
            own=own and job.state != "INACTIVE",
            curl=curl_options(request_of(job, await self._store.jobspec(jobid) or b"{}")),
        )

    @operation("GET", "/nodes", page=True, query=NodesPageQuery, answers=_HTML, errors=(400, 503))
    async def nodes(self, request: web.Request, query: NodesPageQuery) -> web.Response:
        """Show the nodes and the jobs that run on them."""
        layout = self._layout.values("nodes")
        await fresh.settle(request, self._feed)
        nodes = (await self._instance.resources()).nodes
        running = await self._running_jobs(nodes)
        return render_page(
            request,
            "nodes.html",
            **layout,
            nodes=[(node, running.get(node.rank, [])) for node in nodes],
            counts=Counter(node.state for node in nodes),
            node_states=NODE_STATES,
            done=done_text(query.said),
        )

    async def _running_jobs(self, nodes: Iterable[Node]) -> dict[int, list[_RunningJob]]:
        """Return the running jobs by rank."""
        last_rank = max((node.rank for node in nodes), default=-1)
        jobs = await self._store.lists.table(
            Search(length=_ON_NODES),
            Filter(states=("RUN", "CLEANUP")),
            lambda raw: _RunningJob.decode(raw, last_rank),
        )
        by_rank: dict[int, list[_RunningJob]] = {}
        for job in jobs:
            for rank in job.ranks:
                by_rank.setdefault(rank, []).append(job)
        return by_rank

    @operation("GET", "/stop", page=True, scope="admin", answers=_HTML, errors=(400, 503))
    async def stop(self, request: web.Request) -> web.Response:
        """Show what a stop would end, and the progress of a stop."""
        await fresh.settle_briefly(request, self._feed)
        return render_page(request, "stop.html", **self._layout.values("stop"))


def _row(raw: bytes) -> Job:
    """Decode a job without its long fields, which no table shows."""
    return msgspec.structs.replace(
        restored.job(raw), command=[], cwd="", nodelist="", ranks="", annotations=UNSET, dependencies=UNSET
    )


def _use(pairs: Iterable[tuple[int, int]]) -> dict[str, int]:
    """Return the sums of pairs of used and total, and the percentage."""
    used = total = 0
    for part, whole in pairs:
        used, total = used + part, total + whole
    return {"used": used, "total": total, "percent": math.ceil(100 * used / total) if total else 0}


def _why_pending(job: Job, stopped: set[str]) -> str:
    """Return why a job does not run.

    Args:
        job: a pending job.
        stopped: names of the queues that are stopped.
    """
    if job.dependencies is not UNSET and job.dependencies:
        return f"waits for {', '.join(job.dependencies)}"
    if job.urgency == 0:
        return "held: urgency 0"
    if (queue := job.queue or "default") in stopped:
        return f"queue {queue} is stopped"
    if job.state != "SCHED":
        return "waits for a priority"
    annotations = {} if job.annotations is UNSET else job.annotations
    reason = jobspec.get(annotations, "sched.reason_pending") or jobspec.get(annotations, "sched.jobs_ahead")
    return "waits for resources" + (f" ({reason})" if isinstance(reason, str) else "")


def _link(query: TableQuery, **changes: object) -> str:
    """Return the query string of another view of the table."""
    values = msgspec.to_builtins(msgspec.structs.replace(query, **{"page": 1, "said": "", **changes}))
    defaults = msgspec.to_builtins(TableQuery())
    texts = {name: str(value).lower() if value is True else value for name, value in values.items()}
    return "?" + urlencode(
        {name: value for name, value in texts.items() if value != defaults[name] and value is not None}
    )


def _context(entry: StoredEvent) -> str:
    """Return the context of an event as JSON; empty without a context."""
    text = untrusted.text(bytes(entry.context).decode(errors="replace"), _LONGEST_CONTEXT)
    return "" if text == "{}" else text
