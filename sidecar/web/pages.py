"""The pages: what a person sees of the instance. Each is whole without scripts, which only keep it up to date."""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta

from sidecar.api import filters, fresh, position
from sidecar.api.lookup import require
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid, idset, jobspec, restored, untrusted
from sidecar.domain.model import DEFAULT_URGENCY, PENDING, RESULTS, STATES, Job
from sidecar.http.operations import Answer, operation
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.services.lifecycle import Lifecycle
from sidecar.store import Filter, Search, Store, StoredEvent
from sidecar.telemetry.metrics import NODE_STATES
from sidecar.web import texts
from sidecar.web.history import History
from sidecar.web.render import page, redirect

_PAGE = 50
_WAITING, _FAILURES, _ON_NODES = 10, 8, 2000
_HTML = (Answer("A page", media=("text/html",)),)
_EVENTS = 100  # the first and the last of a job that its page shows
_LONGEST_CONTEXT = 2048
_LONGEST_COMMAND = 16 * 1024

Column = Literal["id", "name", "state", "queue", "username", "nnodes", "ntasks", "runtime", "t_submit"]


class TableQuery(msgspec.Struct, kw_only=True, frozen=True):
    """What the table shows."""

    q: Annotated[str, Meta(description="text to look for")] = ""
    state: Annotated[str, Meta(description="states, or pending, running, active")] = ""
    result: str = ""
    queue: str = ""
    sort: Annotated[Column, Meta(description="column")] = "id"
    up: Annotated[bool | None, Meta(description="smallest first")] = None
    page: Annotated[int, Meta(ge=1, le=10**6)] = 1
    said: Annotated[str, Meta(description="what has just been done")] = ""


class JobQuery(msgspec.Struct, kw_only=True, frozen=True):
    """What has just been done."""

    said: Annotated[str, Meta(description="to show")] = ""


class NodesPageQuery(JobQuery, frozen=True):
    """The same of nodes."""


class _Running(NamedTuple):
    """A job as the nodes show it."""

    f58id: str
    name: str
    ranks: list[int]

    @classmethod
    def read(cls, raw: bytes, last: int) -> _Running:
        """Return it from its JSON, with its ranks up to the last one that there is."""
        job = restored.job(raw)
        return cls(job.f58id, job.name, list(idset.upto(job.ranks, last)))


class Pages:
    """What can be looked at."""

    tag = "pages"

    def __init__(
        self, store: Store, feed: Feed, instance: Instance, lifecycle: Lifecycle, history: History, *, no_auth: bool
    ) -> None:
        self._store = store
        self._feed = feed
        self._instance = instance
        self._lifecycle = lifecycle
        self._history = history
        self._no_auth = no_auth

    def around(self, request: web.Request, current: str) -> dict[str, Any]:
        """Return what every page shows, and from where on its scripts follow: before anything else is read."""
        return {
            "current": current,
            "instance": self._instance.status,
            "service": self._lifecycle.service(),
            "no_auth": self._no_auth,
            "position": position.format_event_id(self._store, self._store.position),
        }

    async def read(self, job: int) -> Job:
        """Return a job.

        Raises:
            NotFound: there is none.
        """
        await require(self._store, self._feed, job)
        raw = await self._store.job(job)
        assert raw is not None  # noqa: S101 - it is there
        return restored.job(raw, job)

    async def request_of(self, job: Job) -> dict[str, Any]:
        """Return what was asked for, as far as the job itself tells, to ask for it again."""
        return request_of(job, await self._store.jobspec(job.id) or b"{}")

    # ---------------------------------------------------------------------------------------------- overview

    @operation("GET", "/", page=True, answers=_HTML, errors=(400, 503))
    async def overview(self, request: web.Request) -> web.Response:
        """See the cluster at a glance."""
        around = self.around(request, "overview")
        await fresh.settle(request, self._feed)
        resources, queues = await self._instance.resources(), await self._instance.queues()
        waiting = await self._store.lists.table(Search(length=_WAITING), Filter(states=PENDING), restored.job)
        failures = await self._store.lists.table(Search(length=_FAILURES), Filter(results=("FAILED", "TIMEOUT")), _line)
        stopped = {queue.name for queue in queues.queues if not queue.started}
        states: Counter[str] = Counter()
        for kind, number in self._feed.counts.groups.items():
            states[kind.state] += number
        return page(
            request,
            "overview.html",
            **around,
            states={state: states[state] for state in STATES},
            nodes=Counter(node.state for node in resources.nodes),
            node_states=NODE_STATES,
            cores=_use((node.cores_allocated, node.cores) for node in resources.nodes if node.up),
            gpus=_use((node.gpus_allocated, node.gpus) for node in resources.nodes if node.up),
            queues=queues.queues,
            waiting=[(job, _why(job, stopped)) for job in waiting],
            failures=failures,
            history=self._history.series(),
        )

    # -------------------------------------------------------------------------------------------------- jobs

    @operation("GET", "/jobs", page=True, query=TableQuery, answers=_HTML, errors=(400, 503))
    async def jobs(self, request: web.Request, query: TableQuery) -> web.Response:
        """See the jobs, a page at a time; the address holds the view."""
        around = self.around(request, "jobs")
        await fresh.settle(request, self._feed)
        where = filters.read(
            filters.JobFilter(state=query.state or None, result=query.result or None, queue=query.queue or None)
        )
        search = Search(
            text=query.q.strip(),
            start=(query.page - 1) * _PAGE,
            length=_PAGE + 1,
            order=((query.sort, not query.up),) if query.sort != "id" or query.up else (),
        )
        found = await self._store.lists.table(search, where, _line)
        queues = await self._instance.queues()
        return page(
            request,
            "jobs.html",
            **around,
            query=query,
            jobs=found[:_PAGE],
            more=len(found) > _PAGE,
            first=search.start + 1,
            states=("active", "pending", "running", *(state.lower() for state in STATES)),
            results=[result.lower() for result in RESULTS],
            queues=[] if queues.anonymous else [queue.name for queue in queues.queues],
            total=sum(self._feed.counts.groups.values()),
            link=lambda **changes: _link(query, **changes),
            said=texts.SAID.get(query.said, ""),
            now=time.time(),
        )

    @operation("GET", "/jobs/{uid}", page=True, query=JobQuery, answers=_HTML, errors=(400, 404, 503))
    async def job(self, request: web.Request, job: int, query: JobQuery) -> web.Response:
        """See one job: what has happened to it, what it wants and has, and its output as it comes."""
        around = self.around(request, "jobs")
        found = await self.read(job)
        first, between, last = await self._store.eventlog_ends(job, _EVENTS)
        begun = first[0].timestamp if first else 0.0
        caller = caller_of(request)
        own = "admin" in caller.scopes or ("submit" in caller.scopes and found.submitter == caller.name)
        return page(
            request,
            "job.html",
            **around,
            job=found,
            said=texts.SAID.get(query.said, ""),
            first=[(entry, entry.timestamp - begun, _context(entry)) for entry in first],
            between=between,
            last=[(entry, entry.timestamp - begun, _context(entry)) for entry in last],
            own=own and found.state != "INACTIVE",
            curl=_curl(await self.request_of(found)),
            now=time.time(),
        )

    # ------------------------------------------------------------------------------------------------- nodes

    @operation("GET", "/nodes", page=True, query=NodesPageQuery, answers=_HTML, errors=(400, 503))
    async def nodes(self, request: web.Request, query: NodesPageQuery) -> web.Response:
        """See the nodes, and which jobs are on them."""
        around = self.around(request, "nodes")
        await fresh.settle(request, self._feed)
        resources = await self._instance.resources()
        last = max((node.rank for node in resources.nodes), default=-1)
        running = await self._store.lists.table(
            Search(length=_ON_NODES), Filter(states=("RUN", "CLEANUP")), lambda raw: _Running.read(raw, last)
        )
        on: dict[int, list[_Running]] = {}
        for job in running:
            for rank in job.ranks:
                on.setdefault(rank, []).append(job)
        return page(
            request,
            "nodes.html",
            **around,
            nodes=[(node, on.get(node.rank, [])) for node in resources.nodes],
            counts=Counter(node.state for node in resources.nodes),
            node_states=NODE_STATES,
            said=texts.SAID.get(query.said, ""),
        )

    @operation("GET", "/stop", page=True, scope="admin", answers=_HTML, errors=(400, 503))
    async def stop(self, request: web.Request) -> web.Response:
        """See what a stop would end, and how far one is."""
        await fresh.settle_for_a_moment(request, self._feed)
        return page(request, "stop.html", **self.around(request, "stop"))

    # --------------------------------------------------------------- addresses of the predecessor's pages

    @operation("GET", "/job/{uid}", page=True, answers=(Answer("Moved", media=(), status=303),), errors=(400,))
    async def old_job(self, request: web.Request, job: int) -> web.Response:
        """Go on to a job's page."""
        return redirect(request, f"jobs/{fluid.f58_ascii(job)}")

    @operation("GET", "/job/{uid}/cancel", page=True, answers=(Answer("Moved", media=(), status=303),), errors=(400,))
    async def old_cancel(self, request: web.Request, job: int) -> web.Response:
        """Go on to a job's page, where it can be cancelled: to follow a link changes nothing here."""
        return redirect(request, f"jobs/{fluid.f58_ascii(job)}")

    @operation("GET", "/logout", scope=None, answers=(Answer("Moved", media=(), status=303),), errors=(400,))
    async def old_logout(self, request: web.Request) -> web.Response:
        """Go on to the overview, where the button is: a link of anybody's must not log somebody out."""
        return redirect(request, "")

    @operation("GET", "/page/{name}", page=True, answers=(Answer("Moved", media=(), status=303),), errors=(400,))
    async def old_page(self, request: web.Request, name: str) -> web.Response:
        """Go on to the overview."""
        return redirect(request, "")


def _line(raw: bytes) -> Job:
    """Return a job without what is long and in no table."""
    return msgspec.structs.replace(
        restored.job(raw), command=[], cwd="", nodelist="", ranks="", annotations=UNSET, dependencies=UNSET
    )


def _use(pairs: Any) -> dict[str, int]:
    used = total = 0
    for some, all_of_it in pairs:
        used, total = used + some, total + all_of_it
    return {"used": used, "total": total, "percent": math.ceil(100 * used / total) if total else 0}


def _why(job: Job, stopped: set[str]) -> str:
    """Tell why a job does not run."""
    if job.dependencies is not UNSET and job.dependencies:
        return texts.WHY_DEPENDS.format(dependencies=", ".join(job.dependencies))
    if job.urgency == 0:
        return texts.WHY_HELD
    if (job.queue or "default") in stopped:
        return texts.WHY_STOPPED.format(queue=job.queue or "default")
    if job.state != "SCHED":
        return texts.WHY_PRIORITY
    annotations = {} if job.annotations is UNSET else job.annotations
    reason = jobspec.get(annotations, "sched.reason_pending") or jobspec.get(annotations, "sched.jobs_ahead")
    return texts.WHY_RESOURCES + (f" ({reason})" if isinstance(reason, str) else "")


def _link(query: TableQuery, **changes: Any) -> str:
    """Return the query of another view of the table."""
    known = msgspec.to_builtins(msgspec.structs.replace(query, **{"page": 1, "said": "", **changes}))
    defaults = msgspec.to_builtins(TableQuery())
    shown = {name: str(value).lower() if value is True else value for name, value in known.items()}
    return "?" + urlencode(
        {name: value for name, value in shown.items() if value != defaults[name] and value is not None}
    )


def _context(entry: StoredEvent) -> str:
    """Return the context of an event, as JSON; nothing when there is none."""
    text = untrusted.text(bytes(entry.context).decode(errors="replace"), _LONGEST_CONTEXT)
    return "" if text == "{}" else text


def _curl(asked: dict[str, Any]) -> str:
    """Return the line that submits the same from a shell; nothing where it is too long for one."""
    body = untrusted.encode(asked).decode()
    return f"-X POST -H 'Content-Type: application/json' -d {shlex.quote(body)}" if len(body) < _LONGEST_COMMAND else ""


def request_of(job: Job, spec: bytes) -> dict[str, Any]:
    """Return what was asked for, as far as the job and its jobspec tell, to ask for it again."""
    whole: dict[str, Any] = untrusted.decoded(spec)
    found: dict[str, Any] = {"command": jobspec.command(whole) or job.command, "name": job.name, "workdir": job.cwd}
    if job.ntasks and job.ntasks != 1:
        found["num_tasks"] = job.ntasks
    if job.queue:
        found["queue"] = job.queue
    if job.duration:
        found["runtime"] = job.duration
    if job.urgency != DEFAULT_URGENCY:
        found["urgency"] = job.urgency
    return {name: value for name, value in found.items() if value not in ("", [])}
