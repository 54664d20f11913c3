"""A real Flux instance, as the rest of the server sees it: coroutines in front of the Flux thread."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flux.constants
import flux.job
import msgspec
import structlog
from flux.core.inner import ffi, raw
from flux.future import Future

from sidecar import feasibility, fluid, jobspec, settings
from sidecar.errors import Conflict, NotFound, Problem, Rejected, Unavailable
from sidecar.instance.base import Ending, HistoryBegin, Sink, Status
from sidecar.instance.broker import Broker
from sidecar.instance.flux_admin import FluxAdmin, refused
from sidecar.instance.fluxthread import Callbacks, Finish, FluxThread, Start
from sidecar.meters import Meters
from sidecar.model import Environment
from sidecar.output import Output, parse

T = TypeVar("T")
log = structlog.get_logger("flux")

_PING_INTERVAL = 0.5
_RESOURCES_GOOD_ENOUGH = 30.0  # to tell what may fit; where nothing does, Flux is asked
_WAITCREATE = 1  # src/common/libjob/job.h: the shell makes the eventlog a moment after the job has started
_LARGE_OUTPUT = 64 * 1024
_STATE_TOPIC = "state-machine.get"


class FluxInstance(FluxAdmin):
    """The instance at ``uri``.

    Args:
        uri: as flux-uri(1) gives it.
        meters: told of each request to Flux.
        rpc_timeout: how long Flux may take for one answer, in seconds.
        lost_timeout: how long a broken connection is retried before the instance counts as gone, in seconds.
        silence_timeout: how long the broker may say nothing at all before it counts as lost, in seconds.
    """

    def __init__(
        self, uri: str, meters: Meters, *, rpc_timeout: float, lost_timeout: float, silence_timeout: float
    ) -> None:
        super().__init__()
        self._meters = meters
        self.status = Status(kind="flux", uri=uri, since=time.time())
        self.gone = asyncio.Event()
        self.refusal = ""
        self._rpc_timeout = rpc_timeout
        self._lost_timeout = lost_timeout
        self._silence_timeout = silence_timeout
        self._thread: FluxThread
        self._sink: Sink
        self._broker: Broker | None = None
        self._environment: Environment | None = None
        self._broker_above = _broker_above()
        self._reading: dict[int, asyncio.Lock] = {}
        self._next_reads: dict[int, asyncio.Task[Output]] = {}
        self._giving_up: asyncio.TimerHandle | None = None
        self._pinging: asyncio.Task[None] | None = None

    # ---------------------------------------------------------------------------------------------- life cycle

    async def start(self, sink: Sink) -> None:
        """Begin to connect; see :class:`~sidecar.instance.base.Instance`."""
        self._sink = sink
        callbacks = Callbacks(
            self._on_up, sink.push, self._on_down, self._on_failed, self._on_refused, lambda: sink.backlog
        )
        loop = asyncio.get_running_loop()
        self._thread = FluxThread(self.status.uri, self._broker_above, loop, callbacks)
        self._thread.start()
        self._pinging = asyncio.create_task(self._ping())

    async def close(self) -> None:
        """End the thread; the instance itself goes on."""
        if self._pinging:
            self._pinging.cancel()
        if self._giving_up:
            self._giving_up.cancel()
        self._thread.stop()
        await asyncio.to_thread(self._thread.join, 1.0)

    @property
    def fault(self) -> str:
        """The thread has ended, and not because the instance has."""
        return "" if self._thread.is_alive() or self.gone.is_set() else "The Flux thread has ended."

    @property
    def ending(self) -> Ending:
        """Whether the instance ends with this server, by shutdown, or with another initial program."""
        if self._broker is None:
            return "exit" if self._broker_above else "foreign"
        if self._broker.pid == self._broker_above:
            return "exit"
        return "shutdown" if self._broker.rc2_none else "foreign"

    def _on_up(self, broker: Broker) -> None:
        self._broker, self._environment = broker, None
        self._resources.forget()  # it may be another instance, of other nodes
        self._queues.forget()
        if self._giving_up:
            self._giving_up.cancel()
            self._giving_up = None
        self.status.version, self.status.size = broker.version, broker.size
        self.status.change("ready")
        log.info("connected", uri=self.status.uri, version=broker.version, size=broker.size, ending=self.ending)
        self._sink.push(HistoryBegin(broker.identity))

    def _on_down(self, reason: str) -> None:
        self.status.change("lost", reason)
        log.warning("connection lost", reason=reason)
        self._giving_up = asyncio.get_running_loop().call_later(self._lost_timeout, self.gone.set)

    def _on_failed(self, reason: str) -> None:
        if self.status.detail != reason:
            log.info("cannot connect, will retry", uri=self.status.uri, reason=reason)
        self.status.change(self.status.connection, reason)

    def _on_refused(self, reason: str) -> None:
        log.error("this instance cannot be served", uri=self.status.uri, reason=reason)
        self.status.change(self.status.connection, reason)
        self.refusal = reason
        self.gone.set()

    async def _ping(self) -> None:
        """Notice a broker that keeps the connection and answers nothing, and answers that do not come."""
        probe: asyncio.Future[str] | None = None
        interval = min(_PING_INTERVAL, self._silence_timeout / 4)
        while True:
            await asyncio.sleep(interval)
            if self.status.connection == "connecting" or self._giving_up:
                continue  # there is no connection to ask over
            now = time.monotonic()
            silent = now - self._thread.heard
            # From when it was really asked: this loop may have been busy, and the broker is not to blame.
            unanswered = now - self._thread.asked if self._thread.asked > self._thread.heard else 0.0
            if unanswered > self._silence_timeout:
                detail = f"The broker has not answered for {unanswered:.1f} s."
                if self.status.change("lost", detail):
                    log.warning("no answer", reason=detail)
                self._thread.give_up(now, detail)
            elif not unanswered and self.status.change("ready"):
                log.info("the instance answers again")
            self._thread.give_up(now - self._rpc_timeout, f"Flux has not answered for {self._rpc_timeout:g} s.")
            if silent > interval and (probe is None or probe.done()):
                probe = self._thread.ask(_ask_state, lambda rpc: str(rpc.get()["state"]))
                probe.add_done_callback(self._note_state)

    def _note_state(self, probe: asyncio.Future[str]) -> None:
        if not probe.cancelled() and probe.exception() is None:
            self.status.broker_state = probe.result()

    # ------------------------------------------------------------------------------------------------ commands

    async def submit(self, jobspec_: Mapping[str, Any], urgency: int) -> int:
        """Submit a job; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require()
        await self._check_feasible(jobspec_)
        self.status.require()  # it may have fallen silent meanwhile
        text = msgspec.json.encode(jobspec_).decode()
        try:
            return await self._call(
                "job-ingest.submit",
                lambda handle: flux.job.submit_async(handle, text, urgency=urgency),
                _submitted_id,
            )
        except OSError as exc:
            raise Rejected(f"Flux refused the job: {exc.strerror}", errors=[str(exc.strerror)]) from None

    async def check(self, jobspec_: Mapping[str, Any]) -> None:
        """Ask for the queue, and whether the resources could ever be there; see the protocol."""
        self.status.require()
        await self._check_feasible(jobspec_, ask=True)
        known = {queue.name: queue for queue in (await self.queues()).queues}
        name = jobspec.get(jobspec_, "attributes.system.queue")
        queue = known.get(name) if name else next((queue for queue in known.values() if queue.default), None)
        if queue is None:
            why = f"queue: {name!r} is none" if name else "queue: name one, there is no default"
            raise Rejected(f"{why}; use {', '.join(known)}.")
        if not queue.enabled:
            raise Rejected(f"queue: {queue.name!r} takes no jobs: {queue.enabled_reason}.")

    async def _check_feasible(self, jobspec_: Mapping[str, Any], *, ask: bool = False) -> None:
        """Refuse what no set of nodes can ever run; unless told to ``ask``, without an RPC where it is plain."""
        want = jobspec.counts(jobspec_)
        known = self._resources.known
        if time.time() - known.updated > _RESOURCES_GOOD_ENOUGH:
            known = await self.resources()
        missing = feasibility.shortage(want, known.nodes) if want and known.nodes else None
        if missing is None and not ask:
            return
        try:
            await self._rpc("feasibility.check", {"jobspec": jobspec_})
        except OSError as exc:
            if exc.errno == errno.ENOSYS:  # this scheduler has no such service: it judges after the submit
                return
            errors = [*filter(None, [missing]), str(exc.strerror)]
            raise Rejected(". Flux: ".join(errors), errors=errors) from None

    async def cancel(self, fluid_: int, reason: str) -> None:
        """Raise a cancel exception; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require()
        request = {"id": fluid_, "severity": 0, "type": "cancel", "note": reason}
        try:
            await self._rpc("job-manager.raise", request)
        except OSError as exc:
            raise refused(exc, fluid_, "cancelled") from None

    async def output(self, fluid_: int) -> Output:
        """Read the job's output eventlog as it is now, whether the job runs or not.

        Who asks while it is being read shares the next read with all who do: many readers of a long output, who come
        back at the same time, would keep the broker busy with nothing else.
        """
        self.status.require()
        following = self._next_reads.get(fluid_)
        if following is None:
            following = self._next_reads[fluid_] = asyncio.create_task(self._read_next(fluid_))
        return await asyncio.shield(following)

    async def _read_next(self, fluid_: int) -> Output:
        async with self._reading.setdefault(fluid_, asyncio.Lock()):
            del self._next_reads[fluid_]  # what is written from now on may not be in it
            try:
                return await self._read_output(fluid_)
            finally:
                if fluid_ not in self._next_reads:
                    del self._reading[fluid_]

    async def _read_output(self, fluid_: int) -> Output:
        key = f"{fluid.kvs(fluid_)}.guest.output".encode()

        def finish(future: Any) -> str:
            return _text(raw.flux_kvs_lookup_get, future)

        try:
            eventlog = await self._call(
                "kvs.lookup-plus", lambda handle: Future(raw.flux_kvs_lookup(handle.handle, ffi.NULL, 0, key)), finish
            )
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return Output()
            raise Problem(f"Flux could not read the output: {exc.strerror}") from None
        if len(eventlog) > _LARGE_OUTPUT:
            return await asyncio.to_thread(parse, eventlog)
        return parse(eventlog)

    async def watch_output(self, fluid_: int, take: Callable[[str], None]) -> None:
        """Watch the job's output eventlog; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require()

        def start(handle: Any) -> Any:
            return Future(raw.flux_job_event_watch(handle.handle, fluid_, b"guest.output", _WAITCREATE))

        try:
            await self._thread.stream(
                start,
                lambda future: _text(raw.flux_job_event_watch_get, future),
                take,
                lambda future: raw.flux_job_event_watch_cancel(future.handle),
            )
        except OSError as exc:
            if exc.errno != errno.ENOENT:  # it has none: its shell never came up
                raise Unavailable(f"Flux could not follow the output: {exc.strerror}") from None

    async def jobspec(self, fluid_: int) -> dict[str, Any]:
        """Ask for a job's jobspec as it was submitted: only its signed envelope, J, holds the environment."""
        self.status.require()
        try:
            envelope = (await self._rpc("job-info.lookup", {"id": fluid_, "keys": ["J"], "flags": 0}))["J"]
        except OSError as exc:
            raise NotFound(f"Flux has no jobspec of {fluid.f58(fluid_)}: {exc.strerror}.") from None
        payload = envelope.split(".")[1]  # HEADER.PAYLOAD.SIGNATURE, RFC 15
        found: dict[str, Any] = msgspec.json.decode(base64.b64decode(payload + "=" * (-len(payload) % 4)))
        return found

    async def environment(self) -> Environment:
        """Return the broker's environment: inherited by an initial program, asked for in another container."""
        if self._environment is None:
            inherited = self._broker.inherited if self._broker else None
            if inherited is None and self.ending != "exit":
                log.warning("the broker does not tell its environment; jobs get this server's")
            inherited = inherited or Environment(settings.process_environment(), os.getcwd())
            self._environment = Environment(settings.job_environment(inherited.variables), inherited.cwd)
        return self._environment

    async def refuse_submits(self, reason: str) -> None:
        """Disable every queue: also for `flux submit`."""
        try:
            await self._rpc("job-manager.queue-enable", {"enable": False, "reason": reason, "all": True})
        except OSError as exc:
            raise Conflict(f"The queues cannot be disabled: {exc.strerror}.") from None

    async def shutdown(self) -> None:
        """Ask for shutdown, without the stream of log lines: a streaming client would hold the broker up."""
        try:
            await self._rpc("shutdown.start", {"loglevel": 6})
        except OSError as exc:
            raise Conflict(f"Flux refuses to shut down: {exc.strerror}.") from None

    async def broker_state(self) -> str:
        """Return the state of the broker's state machine."""
        try:
            self.status.broker_state = str((await self._call(_STATE_TOPIC, _ask_state, lambda rpc: rpc.get()))["state"])
        except OSError as exc:
            raise Unavailable(f"The broker does not tell its state: {exc.strerror}.") from None
        return self.status.broker_state

    # ----------------------------------------------------------------------------------------------------- RPC

    async def _rpc(self, topic: str, payload: Any = None) -> Any:
        return await self._call(topic, lambda handle: handle.rpc(topic, payload, 0), lambda rpc: rpc.get())

    async def _call(self, topic: str, start: Start, finish: Finish[T]) -> T:
        with self._meters.rpc(topic):
            return await self._thread.call(start, finish)


def _ask_state(handle: Any) -> Any:
    return handle.rpc(_STATE_TOPIC, None, 0)


def _text(get: Any, future: Any) -> str:
    """Return the text that one of libflux's getters finds in a future."""
    value = ffi.new("char *[1]")
    get(future.handle, value)
    return ffi.string(value[0]).decode() if value[0] != ffi.NULL else ""


def _submitted_id(future: Any) -> int:
    """Return the FLUID of a submit that was answered; ``get_id()`` would wait for what is there already."""
    fluid_ = ffi.new("flux_jobid_t[1]")
    raw.flux_job_submit_get_id(future.handle, fluid_)
    return int(fluid_[0])


def _broker_above() -> int | None:
    """The pid of the broker that this process is the initial program of, if it may be one.

    Told from the processes above, by name and pid: in another container the pid alone could be another process.
    A Flux job descends from its broker too, and is none.
    """
    pid = 0 if settings.in_flux_job() else os.getppid()
    while pid > 0:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        if "flux-broker" in stat[: stat.rindex(")")]:
            return pid
        pid = int(stat[stat.rindex(")") + 2 :].split()[1])
    return None
