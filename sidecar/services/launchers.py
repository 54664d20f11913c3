"""Workflow launchers (nextflow, snakemake): programs that run beside the server and submit jobs to the instance.

A launcher is no job: as a job it would occupy a core of the instance, and on a small one its own jobs would wait for
that core. The server follows each launcher, lists it with its output, and ends it when the server ends.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog

from sidecar.domain.errors import Conflict, NotFound, Rejected, Unavailable
from sidecar.runtime.tasks import Supervisor

log = structlog.get_logger("launchers")

_TAIL = 64 * 1024  # bytes
_MAX_ENDED = 100  # ended launchers that are listed with their output
_KILL_WAIT = 2.0  # seconds from SIGKILL until a process that has not ended is abandoned


class Launcher(msgspec.Struct, omit_defaults=False):
    """A launcher, running or ended."""

    id: Annotated[int, msgspec.Meta(description="number of the launcher, from 1")]
    command: Annotated[list[str], msgspec.Meta(description="program and arguments")]
    state: Annotated[Literal["running", "ended"], msgspec.Meta(description="whether it still runs")]
    t_start: Annotated[float, msgspec.Meta(description="when it was started, in Unix seconds")]
    t_end: Annotated[float | None, msgspec.Meta(description="when it ended, in Unix seconds; null: it runs")] = None
    returncode: Annotated[int | None, msgspec.Meta(description="exit code, or minus the signal number")] = None
    pid: Annotated[int, msgspec.Meta(description="process ID")] = 0
    submitter: Annotated[str, msgspec.Meta(description="name of the caller that started it")] = ""


class Launchers:
    """The launchers of one server.

    Args:
        directory: run directory; a subdirectory of it receives the output.
        uri: FLUX_URI of the instance for the launchers.
        kill_timeout: seconds from SIGTERM to SIGKILL.
        tasks: runs a task for each launcher that waits for its end.
    """

    def __init__(self, directory: Path, *, uri: str, kill_timeout: float, tasks: Supervisor) -> None:
        self._directory = directory / "launchers"
        self._uri = uri
        self._kill_timeout = kill_timeout
        self._supervisor = tasks
        self._ids = itertools.count(1)
        self._launchers: dict[int, Launcher] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ending: set[int] = set()
        self._starting: set[asyncio.Event] = set()
        self._closing_grace: float | None = None
        """Seconds from SIGTERM to SIGKILL while :meth:`close` runs."""

    @property
    def running(self) -> int:
        """The number of launchers that have not ended."""
        return len(self._tasks) + len(self._starting)

    # ------------------------------------------------------------------------------------------------------ start

    async def start(
        self, program: str, command: list[str], environment: Mapping[str, str], workdir: str, submitter: str
    ) -> Launcher:
        """Start a launcher.

        Args:
            program: path of the executable.
            command: its argv.
            environment: its environment, without FLUX_URI.
            workdir: its working directory.
            submitter: the caller.

        Raises:
            Rejected: it cannot be started; the text is from the operating system.
        """
        launcher_id, started = next(self._ids), asyncio.Event()
        self._starting.add(started)
        try:
            process = await self._spawn(launcher_id, program, command, environment, workdir)
        except (OSError, ValueError) as exc:
            raise Rejected(f"The launcher {command[0]} cannot be started: {exc}.") from None
        finally:
            self._starting.discard(started)
            started.set()
        launcher = Launcher(launcher_id, command, "running", time.time(), pid=process.pid, submitter=submitter)
        self._launchers[launcher_id] = launcher
        self._tasks[launcher_id] = self._supervisor.start(
            lambda: self._follow(launcher, process), "launcher", launcher=launcher_id
        ).task
        log.info("launcher started", launcher=launcher_id, pid=process.pid, program=command[0])
        if self._closing_grace is not None:  # close() was called while it was started
            self._end(launcher, self._closing_grace)
        return launcher

    async def _spawn(
        self, launcher_id: int, program: str, command: Sequence[str], environment: Mapping[str, str], workdir: str
    ) -> asyncio.subprocess.Process:
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._output_path(launcher_id).open("wb") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                executable=program,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                cwd=workdir,
                env={**environment, "FLUX_URI": self._uri},
                start_new_session=True,
            )

    async def _follow(self, launcher: Launcher, process: asyncio.subprocess.Process) -> None:
        launcher.returncode = await process.wait()
        launcher.state, launcher.t_end = "ended", time.time()
        del self._tasks[launcher.id]
        if launcher.id in self._ending:  # kill its children too, which may ignore SIGTERM
            self._ending.discard(launcher.id)
            _signal(launcher.pid, signal.SIGKILL)
        log.info("launcher ended", launcher=launcher.id, returncode=launcher.returncode)
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        """Remove all but the last ended launchers: they must fill neither the memory nor the disk."""
        ended = [launcher_id for launcher_id in self._launchers if launcher_id not in self._tasks]
        for launcher_id in ended[:-_MAX_ENDED]:
            del self._launchers[launcher_id]
            try:
                self._output_path(launcher_id).unlink(missing_ok=True)
            except OSError as exc:
                log.warning("the output of a launcher cannot be removed", launcher=launcher_id, reason=str(exc))

    # ------------------------------------------------------------------------------------------------------- read

    def all(self) -> list[Launcher]:
        """Return the launchers, newest first."""
        return list(reversed(self._launchers.values()))

    def get(self, launcher_id: int) -> Launcher:
        """Return a launcher.

        Raises:
            NotFound: the ID is unknown.
        """
        if launcher_id not in self._launchers:
            raise NotFound(f"There is no launcher {launcher_id}; GET /v1/launchers lists them.")
        return self._launchers[launcher_id]

    async def output(self, launcher_id: int) -> list[str]:
        """Return the last lines of a launcher's standard output and standard error.

        Raises:
            NotFound: the ID is unknown, or the output was removed.
            Unavailable: the output cannot be read.
        """
        self.get(launcher_id)
        try:
            data = await asyncio.to_thread(_tail, self._output_path(launcher_id))
        except FileNotFoundError:
            raise NotFound(
                f"The output of launcher {launcher_id} has been removed; the launcher itself is known."
            ) from None
        except OSError as exc:
            raise Unavailable(f"The output of launcher {launcher_id} cannot be read: {exc.strerror}.") from None
        return data.decode(errors="replace").splitlines(keepends=True)

    async def wait_idle(self) -> None:
        """Wait until every launcher has ended."""
        while self._tasks or self._starting:
            if self._starting:
                await next(iter(self._starting)).wait()
            else:
                await asyncio.wait(list(self._tasks.values()))

    # -------------------------------------------------------------------------------------------------------- end

    def cancel(self, launcher_id: int) -> None:
        """End a launcher with SIGTERM, and with SIGKILL after the kill timeout.

        Raises:
            NotFound: the ID is unknown.
            Conflict: it has ended.
        """
        launcher = self.get(launcher_id)
        if launcher_id not in self._tasks:
            raise Conflict(f"Launcher {launcher_id} has ended with code {launcher.returncode}.")
        self._end(launcher, self._kill_timeout)

    async def close(self, grace: float | None = None) -> None:
        """End all launchers, including those that are being started, and wait for them.

        Args:
            grace: seconds from SIGTERM to SIGKILL instead of the kill timeout. A process that has not ended two seconds
                after SIGKILL (it hangs in the kernel) is logged and abandoned.
        """
        self._closing_grace = self._kill_timeout if grace is None else grace
        for launcher_id in list(self._tasks):
            self._end(self._launchers[launcher_id], self._closing_grace)
        try:
            async with asyncio.timeout(self._closing_grace + _KILL_WAIT):
                await self.wait_idle()
        except TimeoutError:
            log.error("launchers do not end; they are left behind", launchers=list(self._tasks))
        finally:
            self._closing_grace = None

    def kill(self) -> None:
        """Kill all launchers without waiting for them."""
        for launcher_id in self._tasks:
            _signal(self._launchers[launcher_id].pid, signal.SIGKILL)

    def _end(self, launcher: Launcher, grace: float) -> None:
        self._ending.add(launcher.id)
        _signal(launcher.pid, signal.SIGTERM)
        asyncio.get_running_loop().call_later(grace, self._kill_unless_ended, launcher)

    def _kill_unless_ended(self, launcher: Launcher) -> None:
        if launcher.id in self._tasks:
            _signal(launcher.pid, signal.SIGKILL)

    def _output_path(self, launcher_id: int) -> Path:
        return self._directory / f"{launcher_id}.log"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return  # it has ended
    except PermissionError as exc:  # it runs as another user
        log.error("a launcher cannot be signalled", pid=pid, signal=number.name, reason=str(exc))


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return file.read()
