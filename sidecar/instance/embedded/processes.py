"""Runs the tasks of one job of the embedded engine as processes: their start, their output, their end."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import structlog

from sidecar.domain import fluid, jobspec
from sidecar.instance.embedded import orphans

log = structlog.get_logger("embedded")

_CHUNK = 64 * 1024
_FROM_FILE = ["/bin/sh", "-c", 'exec "$@" <"$0"']
_KILL_GRACE = 0.5  # seconds from SIGKILL to the search for other processes, and from there until they are abandoned
_SEARCH_TIMEOUT = 1.0  # seconds
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127  # exit codes of sh(1) and of Flux's shell


class ExecError(Exception):
    """A task could not be started, or its output not be written; ``status`` is the job's wait status."""

    def __init__(self, note: str, status: int) -> None:
        super().__init__(note)
        self.note = note
        self.status = status


class Processes:
    """The tasks of one running job.

    Args:
        jobid: the job.
        spec: its jobspec.
        tasks: the number of processes.
        hostname: this machine's name, for messages.
        directory: of its output eventlog and its temporary files.
    """

    def __init__(self, jobid: int, spec: Mapping[str, Any], tasks: int, hostname: str, directory: Path) -> None:
        self._f58 = fluid.f58(jobid)
        self._command: list[str] = spec["tasks"][0]["command"]
        self._system: Mapping[str, Any] = spec["attributes"]["system"]
        self.duration = float(self._system.get("duration") or 0)
        """The time limit in seconds; 0 if unlimited."""
        self._tasks = tasks
        self._hostname = hostname
        self._directory = directory
        self._tmpdir = directory / f"{self._f58}.tmp"
        self._running: list[asyncio.subprocess.Process] = []
        self._pipes: list[asyncio.BaseTransport] = []
        self._cleanup: asyncio.Task[None] | None = None
        self._abandoned = asyncio.Event()
        self._signals: list[int] = []
        self._write_error: OSError | None = None
        self._version = 0
        self._waiters: list[asyncio.Future[None]] = []

    async def run(self) -> int:
        """Run all tasks to their end and return the job's wait status, as Flux's shell would.

        Raises:
            ExecError: a task could not be started, or output not be written; all tasks are killed.
        """
        try:
            self._tmpdir.mkdir(parents=True)
            for name, file in (self._system.get("files") or {}).items():
                (self._tmpdir / name).write_text(file["data"])
            with output_path(self._directory, self._f58).open("ab") as output:
                return await self._run(output)
        except OSError as exc:
            self.kill()
            note = f"host {self._hostname}: {exc.filename or 'output'}: {exc.strerror}"
            raise ExecError(note, _CANNOT_EXECUTE << 8) from None
        finally:
            await self._wait_for_tasks()
            if self._cleanup:
                self._cleanup.cancel()
            shutil.rmtree(self._tmpdir, ignore_errors=True)
            self._changed()

    async def _wait_for_tasks(self) -> None:
        """Wait until every task has ended or was abandoned."""

        async def end() -> None:
            for process in self._running:
                await process.wait()

        ending, abandoned = asyncio.create_task(end()), asyncio.create_task(self._abandoned.wait())
        await asyncio.wait([ending, abandoned], return_when=asyncio.FIRST_COMPLETED)
        for each in (ending, abandoned):
            each.cancel()

    async def _run(self, output: IO[bytes]) -> int:
        failure: Exception | None = None
        async with asyncio.TaskGroup() as readers:
            for rank in range(self._tasks):
                try:
                    process, *streams = await self._start(rank)
                except ExecError as exc:
                    self.kill()  # ends their output, and so the group
                    failure = exc
                    break
                self._running.append(process)
                for signum in self._signals:  # sent to the job while this task was started
                    _send(process, signum)
                for stream, reader in zip(("stdout", "stderr"), streams, strict=True):
                    readers.create_task(self._copy(reader, stream, rank, output))
        failure = failure or self._write_error
        if failure:
            raise failure
        await self._wait_for_tasks()
        codes = [-signal.SIGKILL if process.returncode is None else process.returncode for process in self._running]
        return max(code if code >= 0 else 128 - code for code in codes) << 8

    async def _start(self, rank: int) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamReader]:
        environment = {
            **self._system["environment"],
            "FLUX_JOB_ID": self._f58,
            "FLUX_JOB_SIZE": str(self._tasks),
            "FLUX_JOB_NNODES": "1",
            "FLUX_JOB_TMPDIR": str(self._tmpdir),
            "FLUX_TASK_RANK": str(rank),
            "FLUX_TASK_LOCAL_ID": str(rank),
        }
        # Not asyncio's pipes: those are closed by the last process that has them open, and asyncio waits for that.
        ends: list[int] = []
        try:
            stdout, stderr = await self._pipe(ends), await self._pipe(ends)
            argv, stdin = self._argv_and_stdin(ends)
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=stdin,
                stdout=ends[0],
                stderr=ends[1],
                cwd=self._system["cwd"],
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            missing = isinstance(exc, FileNotFoundError)
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            note = f"task {rank} (host {self._hostname}): start failed: {self._command[0]}: {reason}"
            raise ExecError(note, (_NOT_FOUND if missing else _CANNOT_EXECUTE) << 8) from None
        finally:
            for end in ends:
                os.close(end)
        return process, stdout, stderr

    def _argv_and_stdin(self, ends: list[int]) -> tuple[list[str], int]:
        """Return the command line and the standard input of a task that reads the jobspec's input.

        Args:
            ends: file descriptors to close after the start; one is added for an opened file.

        Raises:
            OSError: there is no such file.
        """
        command, wrapper = self._command, jobspec.STDIN_WRAPPER
        if command[: len(wrapper)] == wrapper:
            # Without the shell, which would drop variables with names that it does not support. Another task may have
            # replaced the file.
            ends.append(os.open(self._tmpdir / "stdin", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
            return command[len(wrapper) :], ends[-1]
        path = jobspec.get(self._system, "shell.options.input.stdin.path", os.devnull)
        if path == os.devnull:
            return command, asyncio.subprocess.DEVNULL
        # The task itself opens any other file: the path may lead to a descriptor of the server (/proc/self/fd/7), or to
        # a pipe that blocks the process that opens it.
        return [*_FROM_FILE, path, *command], asyncio.subprocess.DEVNULL

    async def _pipe(self, ends: list[int]) -> asyncio.StreamReader:
        """Create a pipe; append its write end to ``ends`` and return a reader of the other end."""
        reader = asyncio.StreamReader()
        read, write = os.pipe()
        ends.append(write)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", buffering=0)
        )
        self._pipes.append(transport)
        return reader

    def signal(self, signum: int) -> bool:
        """Send a signal to every task of the job and the processes in their sessions.

        Returns:
            Whether all may be signaled; a task may run as another user.
        """
        self._signals.append(signum)
        sent = [_send(process, signum) for process in self._running]
        return all(sent)

    def kill(self) -> None:
        """Kill every process of the job; those that survive are abandoned after a grace period."""
        self.signal(signal.SIGKILL)
        if self._cleanup is None:
            self._cleanup = asyncio.create_task(self._end_survivors(), name="cleanup of a killed job")

    async def _end_survivors(self) -> None:
        """End the processes that delay the end of a killed job: in a session of their own, or of another user."""
        await asyncio.sleep(_KILL_GRACE)
        try:
            async with asyncio.timeout(_SEARCH_TIMEOUT):
                killed = await asyncio.to_thread(orphans.kill, self._tmpdir)
        except (OSError, TimeoutError) as exc:
            log.error("cannot search for processes of a job", job=self._f58, reason=str(exc) or "timed out")
        else:
            if killed:
                log.info("processes of a job in other sessions were ended", job=self._f58, processes=killed)
        await asyncio.sleep(_KILL_GRACE)
        pids = [process.pid for process in self._running if process.returncode is None]
        log.error("a job does not end; its processes are abandoned", job=self._f58, tasks=pids)
        self._abandoned.set()
        for pipe in self._pipes:
            pipe.close()

    async def _copy(self, reader: asyncio.StreamReader, stream: str, rank: int, output: IO[bytes]) -> None:
        """Append a task's output to the output eventlog as it is written (RFC 24)."""
        while data := await reader.read(_CHUNK):
            context: dict[str, Any] = {"stream": stream, "rank": str(rank)}
            try:
                context["data"] = data.decode()
            except UnicodeDecodeError:
                context.update(encoding="base64", data=base64.b64encode(data).decode())
            entry = {"timestamp": time.time(), "name": "data", "context": context}
            text = msgspec.json.encode(entry) + b"\n"
            try:
                output.write(text)
                output.flush()
            except OSError as exc:  # the disk is full: a job must not appear successful if its output is lost
                self._write_error = exc
                self.kill()
            self._changed()

    def _changed(self) -> None:
        self._version += 1
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)

    async def wait_for_output(self, version: int) -> int:
        """Wait for a write after a version, or the end of the tasks; return the version then."""
        if self._version <= version:
            future = asyncio.get_running_loop().create_future()
            self._waiters.append(future)
            await future
        return self._version


def _send(process: asyncio.subprocess.Process, signum: int) -> bool:
    """Signal a task and its session; return whether that is permitted."""
    try:
        os.killpg(process.pid, signum)
    except ProcessLookupError:
        return True  # it has ended meanwhile
    except PermissionError as exc:  # it runs as another user
        log.error("a task cannot be signaled", pid=process.pid, signal=signum, reason=str(exc))
        return False
    return True


def output_path(directory: Path, f58: str) -> Path:
    """Return the path of a job's output eventlog."""
    return directory / f"{f58}.output"
