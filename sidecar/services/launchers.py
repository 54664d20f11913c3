"""Workflow launchers (nextflow, snakemake): programs that run beside the server and submit jobs to the instance.

A launcher takes no core of the instance, where it would wait for jobs that wait for its core. It is followed to its
end, listed with its output, and ended with the server.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog

from sidecar.domain.errors import Conflict, NotFound, Rejected, Unavailable
from sidecar.runtime.tasks import Supervisor

log = structlog.get_logger("launchers")

_TAIL = 64 * 1024
_KEPT = 100  # launchers that have ended, with their output
_KILLED = 2.0  # seconds from SIGKILL until a process that has not ended is left behind


class Launcher(msgspec.Struct, omit_defaults=False):
    """A launcher, running or ended."""

    id: int
    command: list[str]
    state: Literal["running", "ended"]
    t_start: float
    t_end: float | None = None
    returncode: Annotated[int | None, msgspec.Meta(description="exit code, or minus the signal")] = None
    pid: int = 0
    submitter: Annotated[str, msgspec.Meta(description="who has started it")] = ""


class Launchers:
    """All launchers of this server.

    Args:
        directory: where their output goes.
        uri: the instance that they submit to, as FLUX_URI.
        kill_timeout: from SIGTERM to SIGKILL, in seconds.
        tasks: runs the tasks that wait for the end of each.
    """

    def __init__(self, directory: Path, *, uri: str, kill_timeout: float, tasks: Supervisor) -> None:
        self._directory = directory / "launchers"
        self._uri = uri
        self._kill_timeout = kill_timeout
        self._supervisor = tasks
        self._numbers = itertools.count(1)
        self._launchers: dict[int, Launcher] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ending: set[int] = set()
        self._starting: set[asyncio.Event] = set()
        self._grace: float | None = None
        """While all are being ended: the seconds from SIGTERM to SIGKILL."""

    @property
    def running(self) -> int:
        """How many have not ended."""
        return len(self._tasks) + len(self._starting)

    async def start(
        self, program: str, command: list[str], environment: Mapping[str, str], workdir: str, submitter: str
    ) -> Launcher:
        """Start a launcher.

        Args:
            program: the path of what is run.
            command: its words, of which the first is what it is called.
            environment: all of its variables, but for FLUX_URI.
            workdir: where it runs.
            submitter: who has asked for it.

        Raises:
            Rejected: it cannot be started; the text is the system's.
        """
        number, started = next(self._numbers), asyncio.Event()
        self._starting.add(started)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._output_path(number).open("wb") as output:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    executable=program,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    cwd=workdir,
                    env={**environment, "FLUX_URI": self._uri},
                    start_new_session=True,
                )
        except (OSError, ValueError) as exc:
            raise Rejected(f"The launcher {command[0]} cannot be started: {exc}.") from None
        finally:
            self._starting.discard(started)
            started.set()
        launcher = Launcher(number, command, "running", time.time(), pid=process.pid, submitter=submitter)
        self._launchers[number] = launcher
        self._tasks[number] = self._supervisor.start(
            lambda: self._follow(launcher, process), "launcher", launcher=number
        ).task
        log.info("launcher started", launcher=number, pid=process.pid, program=command[0])
        if self._grace is not None:  # all are being ended since it was asked for
            self._end(launcher, self._grace)
        return launcher

    async def _follow(self, launcher: Launcher, process: asyncio.subprocess.Process) -> None:
        launcher.returncode = await process.wait()
        launcher.state, launcher.t_end = "ended", time.time()
        del self._tasks[launcher.id]
        if launcher.id in self._ending:  # also what it has started and what does not end by SIGTERM
            self._ending.discard(launcher.id)
            _signal(launcher.pid, signal.SIGKILL)
        log.info("launcher ended", launcher=launcher.id, returncode=launcher.returncode)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Keep the last of those that have ended: neither memory nor disk may fill with them."""
        ended = [number for number in self._launchers if number not in self._tasks]
        for number in ended[:-_KEPT]:
            del self._launchers[number]
            try:
                self._output_path(number).unlink(missing_ok=True)
            except OSError as exc:
                log.warning("the output of a launcher cannot be removed", launcher=number, reason=str(exc))

    def all(self) -> list[Launcher]:
        """Return every launcher, newest first."""
        return list(reversed(self._launchers.values()))

    def get(self, number: int) -> Launcher:
        """Return one launcher.

        Raises:
            NotFound: there is none of that number.
        """
        if number not in self._launchers:
            raise NotFound(f"There is no launcher {number}; GET /v1/launchers lists them.")
        return self._launchers[number]

    async def output(self, number: int) -> list[str]:
        """Return the lines at the end of a launcher's output, both streams.

        Raises:
            NotFound: there is no launcher of that number, or its output has been removed.
            Unavailable: the output cannot be read.
        """
        self.get(number)
        try:
            data = await asyncio.to_thread(_tail, self._output_path(number))
        except FileNotFoundError:
            raise NotFound(f"The output of launcher {number} has been removed; the launcher itself is known.") from None
        except OSError as exc:
            raise Unavailable(f"The output of launcher {number} cannot be read: {exc.strerror}.") from None
        return data.decode(errors="replace").splitlines(keepends=True)

    def cancel(self, number: int) -> None:
        """End a launcher: SIGTERM, and SIGKILL when it does not listen.

        Raises:
            Conflict: it has ended already.
        """
        launcher = self.get(number)
        if number not in self._tasks:
            raise Conflict(f"Launcher {number} has ended with code {launcher.returncode}.")
        self._end(launcher, self._kill_timeout)

    def _end(self, launcher: Launcher, grace: float) -> None:
        self._ending.add(launcher.id)
        _signal(launcher.pid, signal.SIGTERM)
        asyncio.get_running_loop().call_later(grace, self._kill, launcher)

    def kill(self) -> None:
        """End all at once, without waiting for them."""
        for number in self._tasks:
            _signal(self._launchers[number].pid, signal.SIGKILL)

    def _kill(self, launcher: Launcher) -> None:
        if launcher.id in self._tasks:
            _signal(launcher.pid, signal.SIGKILL)

    async def idle(self) -> None:
        """Wait until every launcher has ended."""
        while self._tasks or self._starting:
            if self._starting:
                await next(iter(self._starting)).wait()
            else:
                await asyncio.wait(list(self._tasks.values()))

    async def close(self, grace: float | None = None) -> None:
        """End all launchers, also those that are just being started, and wait for them.

        Args:
            grace: from SIGTERM to SIGKILL, in seconds, instead of the setting. What has not ended two seconds after
                SIGKILL (it hangs in the kernel) is logged and left behind.
        """
        self._grace = self._kill_timeout if grace is None else grace
        for number in list(self._tasks):
            self._end(self._launchers[number], self._grace)
        try:
            async with asyncio.timeout(self._grace + _KILLED):
                await self.idle()
        except TimeoutError:
            log.error("launchers do not end; they are left behind", launchers=list(self._tasks))
        finally:
            self._grace = None

    def _output_path(self, number: int) -> Path:
        return self._directory / f"{number}.log"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return  # it has ended meanwhile
    except PermissionError as exc:  # it runs as another user
        log.error("a launcher cannot be signalled", pid=pid, signal=number.name, reason=str(exc))


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return file.read()
