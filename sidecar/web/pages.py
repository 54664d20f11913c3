"""The pages: what a person sees of the instance. Each is whole without scripts, which only keep it up to date."""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta

from sidecar import fluid, idset, jobspec
from sidecar.api import filters, position
from sidecar.api.jobs import require
from sidecar.api.routing import Answer, operation
from sidecar.auth.guard import caller_of
from sidecar.feed import Feed
from sidecar.instance import Instance
from sidecar.lifecycle import Lifecycle
from sidecar.metrics import NODE_STATES
from sidecar.model import RESULTS, STATES, Job
from sidecar.store import Filter, Search, Store
from sidecar.web import texts
from sidecar.web.history import History
from sidecar.web.render import page, to

_PAGE = 50
_WAITING, _FAILURES, _ON_NODES = 10, 8, 2000
_HTML = (Answer("A page", media=("text/html",)),)
_PENDING = ("NEW", "DEPEND", "PRIORITY", "SCHED")
_decode = msgspec.json.Decoder(Job).decode

Column = Literal["id", "name", "state", "queue", "username", "nnodes", "ntasks", "runtime", "t_submit"]


class TableQuery(msgspec.Struct, kw_only=True):
    """What the table shows."""

    q: Annotated[str, Meta(description="text to look for")] = ""
    state: Annotated[str, Meta(description="states, or pending, running, active")] = ""
    result: str = ""
    queue: str = ""
    sort: Annotated[Column, Meta(description="column")] = "id"
    up: Annotated[bool | None, Meta(description="smallest first")] = None
    page: Annotated[int, Meta(ge=1, le=10**6)] = 1


class JobQuery(msgspec.Struct, kw_only=True):
    """What has just been done."""

    said: Annotated[str, Meta(description="to show")] = ""


class NodesPageQuery(JobQuery):
    """The same of nodes."""


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
            "position": position.show(self._store, self._store.position),
        }

    async def read(self, job: int) -> Job:
        """Return a job.

        Raises:
            NotFound: there is none.
        """
        await require(self._store, self._feed, job)
        raw = await self._store.job(job)
        assert raw is not None  # noqa: S101 - it is there
        return _decode(raw)

    # ---------------------------------------------------------------------------------------------- overview

    @operation("GET", "/", page=True, answers=_HTML, errors=(400, 503))
    async def overview(self, request: web.Request) -> web.Response:
        """See the cluster at a glance."""
        around = self.around(request, "overview")
        resources, queues = await self._instance.resources(), await self._instance.queues()
        waiting = await self._store.table(Search(length=_WAITING), Filter(states=_PENDING))
        failures = await self._store.table(Search(length=_FAILURES), Filter(results=("FAILED", "TIMEOUT")))
        stopped = {queue.name for queue in queues.queues if not queue.started}
        states: Counter[str] = Counter()
        for kind, number in self._feed.tally.kinds.items():
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
            waiting=[(job, _why(job, stopped)) for job in map(_decode, waiting)],
            failures=[_decode(job) for job in failures],
            history=self._history.series(),
        )

    # -------------------------------------------------------------------------------------------------- jobs

    @operation("GET", "/jobs", page=True, query=TableQuery, answers=_HTML, errors=(400, 503))
    async def jobs(self, request: web.Request, query: TableQuery) -> web.Response:
        """See the jobs, a page at a time; the address holds the view."""
        around = self.around(request, "jobs")
        await self._feed.settle()
        where = filters.read(
            filters.JobFilter(state=query.state or None, result=query.result or None, queue=query.queue or None)
        )
        search = Search(
            text=query.q.strip(),
            start=(query.page - 1) * _PAGE,
            length=_PAGE + 1,
            order=((query.sort, not query.up),) if query.sort != "id" or query.up else (),
        )
        found = [_decode(job) for job in await self._store.table(search, where)]
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
            total=sum(self._feed.tally.kinds.values()),
            link=lambda **changes: _link(query, **changes),
            now=time.time(),
        )

    @operation("GET", "/jobs/{uid}", page=True, query=JobQuery, answers=_HTML, errors=(400, 404, 503))
    async def job(self, request: web.Request, job: int, query: JobQuery) -> web.Response:
        """See one job: what has happened to it, what it wants and has, and its output as it comes."""
        around = self.around(request, "jobs")
        found = await self.read(job)
        events = await self._store.eventlog(job)
        caller = caller_of(request)
        own = "admin" in caller.scopes or ("submit" in caller.scopes and found.submitter == caller.name)
        return page(
            request,
            "job.html",
            **around,
            job=found,
            said=texts.SAID.get(query.said, ""),
            events=[(entry, entry.timestamp - events[0].timestamp, _context(entry)) for entry in events],
            own=own and found.state != "INACTIVE",
            curl=_curl(found),
            now=time.time(),
        )

    # ------------------------------------------------------------------------------------------------- nodes

    @operation("GET", "/nodes", page=True, query=NodesPageQuery, answers=_HTML, errors=(400, 503))
    async def nodes(self, request: web.Request, query: NodesPageQuery) -> web.Response:
        """See the nodes, and which jobs are on them."""
        around = self.around(request, "nodes")
        resources = await self._instance.resources()
        running = await self._store.table(Search(length=_ON_NODES), Filter(states=("RUN", "CLEANUP")))
        on: dict[int, list[Job]] = {}
        for job in map(_decode, running):
            for rank in idset.parse(job.ranks.strip("[]")):
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
        return page(request, "stop.html", **self.around(request, "stop"))

    # --------------------------------------------------------------- addresses of the predecessor's pages

    @operation("GET", "/job/{uid}", page=True, answers=(Answer("Moved", media=(), status=303),), errors=(400,))
    async def old_job(self, request: web.Request, job: int) -> web.Response:
        """Go on to a job's page."""
        return to(request, f"jobs/{fluid.f58(job).replace('ƒ', 'f')}")

    @operation("GET", "/job/{uid}/cancel", page=True, answers=(Answer("Moved", media=(), status=303),), errors=(400,))
    async def old_cancel(self, request: web.Request, job: int) -> web.Response:
        """Go on to a job's page, where it can be cancelled: to follow a link changes nothing here."""
        return to(request, f"jobs/{fluid.f58(job).replace('ƒ', 'f')}")

    @operation("GET", "/logout", scope=None, answers=(Answer("Moved", media=(), status=303),), errors=(400,))
    async def old_logout(self, request: web.Request) -> web.Response:
        """Go on to the overview, where the button is: a link of anybody's must not log somebody out."""
        return to(request, "")

    @operation("GET", "/page/{name}", page=True, answers=(Answer("Moved", media=(), status=303),), errors=(400,))
    async def old_page(self, request: web.Request, name: str) -> web.Response:
        """Go on to the overview."""
        return to(request, "")


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
    known = msgspec.to_builtins(msgspec.structs.replace(query, **{"page": 1, **changes}))
    defaults = msgspec.to_builtins(TableQuery())
    shown = {name: str(value).lower() if value is True else value for name, value in known.items()}
    return "?" + urlencode(
        {name: value for name, value in shown.items() if value != defaults[name] and value is not None}
    )


def _context(entry: Any) -> str:
    """Return the context of an event, as JSON; nothing when there is none."""
    text = bytes(entry.context).decode()
    return "" if text == "{}" else text


def _curl(job: Job) -> str:
    """Return the line that submits the same from a shell."""
    return (
        f"-X POST -H 'Content-Type: application/json' -d {shlex.quote(msgspec.json.encode(request_of(job)).decode())}"
    )


def request_of(job: Job) -> dict[str, Any]:
    """Return what was asked for, as far as the job itself tells, to ask for it again."""
    found: dict[str, Any] = {"command": job.command, "name": job.name, "workdir": job.cwd}
    if job.ntasks and job.ntasks != 1:
        found["num_tasks"] = job.ntasks
    if job.queue:
        found["queue"] = job.queue
    if job.duration:
        found["runtime"] = job.duration
    if job.urgency != 16:
        found["urgency"] = job.urgency
    return {name: value for name, value in found.items() if value}
