"""A real Flux instance, as the rest of the server sees it: coroutines in front of the Flux thread."""

from __future__ import annotations

import asyncio
import base64
import errno
import math
import os
import socket
import time
from pathlib import Path
from typing import Any, TypeVar

import flux.constants
import msgspec
import structlog

from sidecar.config.early import LOCAL
from sidecar.config.environment import in_flux_job, job_environment, process_environment
from sidecar.domain import feasibility, fluid, jobspec, policy, untrusted
from sidecar.domain import resource_counts as counts
from sidecar.domain.errors import Conflict, Gone, NotFound, Overloaded, Rejected, Unavailable
from sidecar.domain.jobspec import Prepared
from sidecar.domain.model import Environment, HistoryBegin
from sidecar.instance.base import Ending, OutputChunks, Sink, Status
from sidecar.instance.flux import submission
from sidecar.instance.flux.admin import FluxAdmin, refused
from sidecar.instance.flux.broker import Broker
from sidecar.instance.flux.output import FluxOutput
from sidecar.instance.flux.thread import Callbacks, Finish, FluxThread, Start
from sidecar.runtime.tasks import Supervised, Supervisor
from sidecar.telemetry.instruments import Instruments

T = TypeVar("T")
log = structlog.get_logger("flux")

_LONGEST_PATH = 4096
_PING_INTERVAL = 0.5
_RESOURCES_GOOD_ENOUGH = 30.0  # to tell what may fit; where nothing does, Flux is asked
_DRAIN_TOPIC = "job-manager.drain"
_STATE_TOPIC = "state-machine.get"
_STUCK = 10.0  # seconds
_FIRST_TRY = 2.0  # seconds in which a connection to another machine is usually there


class FluxInstance(FluxAdmin):
    """The instance at ``uri``.

    Args:
        uri: as flux-uri(1) gives it.
        meters: told of each request to Flux.
        rpc_timeout: how long Flux may take for one answer, in seconds.
        lost_timeout: how long a broken connection is retried before the instance counts as gone, in seconds.
        silence_timeout: how long the broker may say nothing at all before it counts as lost, in seconds.
        address: where this server listens, for another one that is refused because of it.
    """

    def __init__(
        self,
        uri: str,
        meters: Instruments,
        *,
        rpc_timeout: float,
        lost_timeout: float,
        silence_timeout: float,
        address: str = "",
    ) -> None:
        super().__init__()
        self._meters = meters
        self.status = Status(kind="flux", uri=uri, since=time.time())
        self.gone = asyncio.Event()
        self.refusal = ""
        self._rpc_timeout = rpc_timeout
        self._lost_timeout = lost_timeout
        self._silence_timeout = silence_timeout
        self._address = address
        self._thread: FluxThread
        self._sink: Sink
        self._tasks: Supervisor
        self._broker: Broker | None = None
        self._environment: Environment | None = None
        self._broker_above = _broker_above()
        self._output = FluxOutput(self._call, lambda: self._thread)
        self._began = math.inf  # until there is a thread
        self._connected = False
        self._giving_up: asyncio.TimerHandle | None = None
        self._pinging: Supervised | None = None

    # ---------------------------------------------------------------------------------------------- life cycle

    async def start(self, sink: Sink, tasks: Supervisor) -> None:
        """Begin to connect; see :class:`~sidecar.instance.base.Instance`."""
        self._sink, self._tasks = sink, tasks
        callbacks = Callbacks(
            self._on_up,
            sink.push,
            sink.interrupted,
            self._on_down,
            self._on_failed,
            self._on_refused,
            self._on_died,
            lambda: sink.backlog,
        )
        loop = asyncio.get_running_loop()
        self._thread = FluxThread(self.status.uri, self._broker_above, loop, callbacks, address=self._address)
        self._thread.start()
        self._began = time.monotonic()
        self._pinging = tasks.start(self._ping, "ping", vital=True)

    def replay_history(self) -> None:
        """Connect anew: the journal then begins with its history."""
        self._thread.begin_again()

    async def close(self) -> None:
        """End the thread; the instance itself goes on."""
        if self._pinging:
            await self._pinging.close()
        self._end_countdown()
        self._thread.stop()
        await asyncio.to_thread(self._thread.join, 1.0)

    @property
    def fault(self) -> str:
        """The thread has ended, and not because the instance has; or it hangs."""
        if self.gone.is_set():
            return ""
        if not self._thread.is_alive():
            return "The Flux thread has ended."
        stuck = self._stuck()
        return f"The Flux thread has done nothing for {stuck:.0f} s." if stuck > _STUCK else ""

    def _stuck(self) -> float:
        """How long the thread has not taken up what was sent to it (seconds): it hangs in a callback."""
        return self._thread.stuck if self._connected else 0.0

    @property
    def may_connect(self) -> bool:
        """Whether a broker may be there: for a local socket that can be seen.

        One elsewhere has to have been reached, unless the first try is not over and began a moment ago.
        """
        if self.status.uri.startswith(LOCAL):
            return _listens(self.status.uri.removeprefix(LOCAL))
        first = not self.status.detail and time.monotonic() - self._began < _FIRST_TRY
        return first or self._thread.reached

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
        self._connected = True
        self._end_countdown()
        self.status.version, self.status.size = broker.version, broker.size
        self.status.set_connection("ready")
        log.info("connected", uri=self.status.uri, version=broker.version, size=broker.size, ending=self.ending)
        self._sink.push(HistoryBegin(broker.identity))

    def _on_down(self, reason: str) -> None:
        self.status.set_connection("lost", reason)
        log.warning("connection lost", reason=reason)
        self._connected = False
        self._give_up_later()

    def _give_up_later(self) -> None:
        """Count the instance as gone unless there is a connection before the lost timeout."""
        if self._giving_up is None:
            self._giving_up = asyncio.get_running_loop().call_later(self._lost_timeout, self.gone.set)

    def _end_countdown(self) -> None:
        if self._giving_up:
            self._giving_up.cancel()
            self._giving_up = None

    def _on_died(self, exc: BaseException) -> None:
        """Note an error of our own; whether the broker is there is to be seen from an error of the connection alone."""
        self._tasks.note("flux", exc)
        self._end_countdown()
        self.status.set_connection(self.status.connection, f"{type(exc).__name__}: {exc}")

    def _on_failed(self, reason: str) -> None:
        if self._thread.starting:
            self._end_countdown()  # there is a broker again, however long it takes to start
        elif self.status.connection == "lost" and not self._connected:
            self._give_up_later()
        if self.status.detail != reason:
            log.info("cannot connect, will retry", uri=self.status.uri, reason=reason)
        self.status.set_connection(self.status.connection, reason)

    def _on_refused(self, reason: str) -> None:
        log.error("this instance cannot be served", uri=self.status.uri, reason=reason)
        self.status.set_connection(self.status.connection, reason)
        self.refusal = reason
        self.gone.set()

    async def _ping(self) -> None:
        """Notice a broker that keeps the connection and answers nothing, and answers that do not come."""
        probe: asyncio.Future[str] | None = None
        interval = min(_PING_INTERVAL, self._silence_timeout / 4)
        while True:
            await asyncio.sleep(interval)
            if not self._connected:
                continue  # there is no connection to ask over
            now = time.monotonic()
            silent = now - self._thread.heard
            # From when it was really asked: this loop may have been busy, and the broker is not to blame.
            unanswered = now - self._thread.asked if self._thread.asked > self._thread.heard else 0.0
            stuck = self._stuck()
            if stuck > self._silence_timeout:
                detail = f"The Flux thread has done nothing for {stuck:.1f} s."
                if self.status.set_connection("lost", detail):
                    log.error("the Flux thread hangs", reason=detail)
                self._thread.give_up(now, detail)
            elif unanswered > self._silence_timeout:
                detail = f"The broker has not answered for {unanswered:.1f} s."
                if self.status.set_connection("lost", detail):
                    log.warning("no answer", reason=detail)
                self._thread.give_up(now, detail)
            elif not unanswered and self.status.set_connection("ready"):
                log.info("the instance answers again")
            self._thread.give_up(now - self._rpc_timeout, f"Flux has not answered for {self._rpc_timeout:g} s.")
            if silent > interval and (probe is None or probe.done()):
                probe = self._thread.ask(_ask_state, lambda rpc: str(rpc.get()["state"]))
                probe.add_done_callback(self._note_state)

    def _note_state(self, probe: asyncio.Future[str]) -> None:
        if not probe.cancelled() and probe.exception() is None:
            self.status.broker_state = probe.result()

    # ------------------------------------------------------------------------------------------------ commands

    async def submit(self, jobspec_: Prepared, urgency: int) -> int:
        """Submit a job; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require_ready()
        await self._check_feasible(jobspec_)
        self.status.require_ready()  # it may have fallen silent meanwhile
        userid = os.getuid()
        owner = self._broker is not None and self._broker.owner == str(userid)
        start, finish = submission.submission(jobspec_.data, urgency, userid=userid, owner=owner)
        try:
            return await self._call(submission.TOPIC, start, finish)
        except OSError as exc:
            raise Rejected(f"Flux refused the job: {exc.strerror}", errors=[str(exc.strerror)]) from None

    async def check(self, jobspec_: Prepared) -> None:
        """Ask for the queue and its limits, and whether the resources could ever be there; see the protocol."""
        self.status.require_ready()
        await self._check_feasible(jobspec_, ask=True)
        known = {queue.name: queue for queue in (await self.queues()).queues}
        name = jobspec.get(jobspec_.outline, "attributes.system.queue")
        queue = known.get(name) if name else next((queue for queue in known.values() if queue.default), None)
        if queue is None:
            why = f"queue: unknown queue {name!r}" if name else "queue: name one, there is no default"
            raise Rejected(f"{why}; use {', '.join(known)}.")
        if not queue.enabled:
            raise Rejected(f"queue: {queue.name!r} takes no jobs: {queue.enabled_reason}.")
        try:
            config = await self._rpc("config.get")
        except OSError as exc:
            raise Unavailable(f"Flux does not tell its limits: {exc.strerror}.") from None
        if faults := policy.faults(config, jobspec_.outline, counts.read(jobspec_.outline)):
            raise Rejected(" ".join(faults), errors=faults)

    async def _check_feasible(self, jobspec_: Prepared, *, ask: bool = False) -> None:
        """Refuse what no set of nodes can ever run; unless told to ``ask``, without an RPC where it is plain."""
        want = counts.read(jobspec_.outline)
        known = self._resources.known
        if not 0 <= time.time() - known.updated <= _RESOURCES_GOOD_ENOUGH:  # the clock may be set back
            known = await self.resources()
        there = [node for node in known.nodes if node.rank not in known.lost]
        missing = feasibility.shortage(want, there) if want and there else None
        if missing is None and not ask:
            return
        try:
            await self._rpc("feasibility.check", b'{"jobspec":%b}' % jobspec_.data)
        except OSError as exc:
            if exc.errno == errno.ENOSYS:  # this scheduler has no such service: it judges after the submit
                return
            errors = [*filter(None, [missing]), str(exc.strerror)]
            raise Rejected(". Flux: ".join(errors), errors=errors) from None

    async def cancel(self, jobid: int, reason: str) -> None:
        """Raise a cancel exception; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require_ready()
        request = {"id": jobid, "severity": 0, "type": "cancel", "note": reason}
        try:
            await self._rpc("job-manager.raise", request)
        except OSError as exc:
            raise refused(exc, jobid, "cancelled") from None

    async def output_chunks(self, jobid: int, before: OutputChunks | None) -> OutputChunks:
        """List the blobs of the job's output eventlog, whether the job runs or not."""
        self.status.require_ready()
        return await self._output.list_chunks(jobid, before)

    async def read_output(self, jobid: int, chunks: OutputChunks, index: int) -> bytes:
        """Load a blob of the job's output eventlog."""
        self.status.require_ready()
        return await self._output.read_chunk(chunks, index)

    async def wait_for_output(self, jobid: int, version: int) -> int | None:
        """Wait for what the job's shell writes next; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require_ready()
        return await self._output.wait(jobid, version)

    async def jobspec(self, jobid: int) -> dict[str, Any]:
        """Ask for a job's jobspec as it was submitted: only its signed envelope, J, holds the environment."""
        self.status.require_ready()
        try:
            envelope = (await self._rpc("job-info.lookup", {"id": jobid, "keys": ["J"], "flags": 0}))["J"]
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                raise Gone(f"Flux has purged job {fluid.f58(jobid)}, and the environment in its jobspec.") from None
            raise NotFound(f"Flux has no jobspec of {fluid.f58(jobid)}: {exc.strerror}.") from None
        try:
            payload = envelope.split(".")[1]  # HEADER.PAYLOAD.SIGNATURE, RFC 15
            spec = msgspec.json.decode(base64.b64decode(payload + "=" * (-len(payload) % 4)), type=dict[str, Any])
        except (AttributeError, IndexError, ValueError, RecursionError) as exc:
            log.warning("a jobspec cannot be read", job=fluid.f58(jobid), reason=str(exc))
            raise NotFound(f"What Flux has as the jobspec of {fluid.f58(jobid)} cannot be read.") from None
        return spec

    async def environment(self) -> Environment:
        """Return the broker's environment: inherited by an initial program, asked for in another container."""
        if self._environment is None:
            inherited = self._broker.inherited if self._broker else None
            if inherited is None and self.ending != "exit":
                log.warning("the broker does not tell its environment; jobs get this server's")
            inherited = inherited or Environment(process_environment(), os.getcwd())
            self._environment = _as_text(Environment(job_environment(inherited.variables), inherited.cwd))
        return self._environment

    async def refuse_submits(self, reason: str) -> None:
        """Disable every queue: also for `flux submit`."""
        try:
            await self._rpc("job-manager.queue-enable", {"enable": False, "reason": reason, "all": True})
        except OSError as exc:
            raise Conflict(f"The queues cannot be disabled: {exc.strerror}.") from None

    async def wait_until_idle(self) -> None:
        """Ask the job manager, which answers when its last job has ended; ask again where the connection breaks."""
        while True:
            try:
                await self._thread.ask(lambda handle: handle.rpc(_DRAIN_TOPIC, None, 0), lambda rpc: rpc.get())
            except (OSError, Unavailable) as exc:
                log.debug("the job manager is asked again", reason=str(exc))
                await asyncio.sleep(_PING_INTERVAL)
            else:
                return

    async def end_jobs(self) -> None:
        """Nothing: jobs are Flux's."""

    async def shutdown(self) -> None:
        """Ask for shutdown, without the stream of log lines: a streaming client would hold the broker up."""
        try:
            await self._rpc("shutdown.start", {"loglevel": 6})
        except OSError as exc:
            raise Conflict(f"Flux refuses to shut down: {exc.strerror}.") from None

    async def end_broker(self) -> None:
        """Have the broker send SIGTERM to itself, by a command: it may run in another container."""
        self.status.require_ready()
        if self._broker is None or not self._broker.pid:
            raise Conflict("The broker's process id is not known.")
        command = {
            "cmdline": ["/bin/sh", "-c", f"kill -TERM {self._broker.pid}"],
            "env": {},
            "opts": {},
            "channels": [],
        }
        try:
            await self._rpc("rexec.exec", {"cmd": command, "flags": 0}, flux.constants.FLUX_RPC_STREAMING)
        except OSError as exc:
            raise Conflict(f"Flux does not run a command: {exc.strerror}.") from None

    def kill(self) -> None:
        """Nothing: jobs are Flux's."""

    async def broker_state(self) -> str:
        """Return the state of the broker's state machine."""
        try:
            self.status.broker_state = str((await self._call(_STATE_TOPIC, _ask_state, lambda rpc: rpc.get()))["state"])
        except OSError as exc:
            raise Unavailable(f"The broker does not tell its state: {exc.strerror}.") from None
        return self.status.broker_state

    # ----------------------------------------------------------------------------------------------------- RPC

    async def _rpc(self, topic: str, payload: Any = None, flags: int = 0) -> Any:
        return await self._call(topic, lambda handle: handle.rpc(topic, payload, 0, flags), lambda rpc: rpc.get())

    async def _call(self, topic: str, start: Start, finish: Finish[T]) -> T:
        try:
            with self._meters.rpc(topic):
                return await self._thread.call(start, finish)
        except OSError as exc:
            if exc.errno == errno.ENOMEM:  # nothing is wrong with what was asked for
                raise Overloaded("Flux has not enough memory for this just now; ask again later.") from None
            raise


def _listens(path: str) -> bool:
    """Whether a process listens on a Unix socket; one that is dead leaves the file."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # more connections wait than it has taken up
        except OSError:
            return False
    return True


def _ask_state(handle: Any) -> Any:
    return handle.rpc(_STATE_TOPIC, None, 0)


def _as_text(environment: Environment) -> Environment:
    """Leave out what a jobspec, which is JSON, cannot hold: bytes that are no UTF-8."""
    kept = {
        name: value
        for name, value in environment.variables.items()
        if untrusted.is_text(name) and untrusted.is_text(value)
    }
    if len(kept) < len(environment.variables):
        names = sorted(ascii(name) for name in environment.variables.keys() - kept.keys())
        log.warning("variables that are not UTF-8 cannot be given to jobs", names=names)
    return Environment(kept, untrusted.text(environment.cwd, _LONGEST_PATH))


def _broker_above() -> int | None:
    """The pid of the broker that this process is the initial program of, if it may be one.

    Told from the processes above, by name and pid: in another container the pid alone could be another process.
    A Flux job descends from its broker too, and is none.
    """
    pid = 0 if in_flux_job() else os.getppid()
    while pid > 0:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        if "flux-broker" in stat[: stat.rindex(")")]:
            return pid
        pid = int(stat[stat.rindex(")") + 2 :].split()[1])
    return None
