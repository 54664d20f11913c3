"""One job of the embedded engine: its processes, their output, their end."""

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
_KILLED = 0.5  # seconds after SIGKILL until what is left of a job is looked for, and then until it is left behind
_LOOKED_FOR = 1.0  # seconds
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127  # exit codes of sh(1) and of Flux's shell


class ExecError(Exception):
    """A task could not be started, or its output not be kept; ``status`` is the job's wait status."""

    def __init__(self, note: str, status: int) -> None:
        super().__init__(note)
        self.note = note
        self.status = status


class Processes:
    """The tasks of one running job.

    Args:
        job_id: the job's FLUID.
        spec: its jobspec.
        tasks: how many processes to run.
        hostname: this machine's name, for messages.
        directory: where its output eventlog and its temporary files go.
    """

    def __init__(self, job_id: int, spec: Mapping[str, Any], tasks: int, hostname: str, directory: Path) -> None:
        self._f58 = fluid.f58(job_id)
        self._command: list[str] = spec["tasks"][0]["command"]
        self._system: Mapping[str, Any] = spec["attributes"]["system"]
        self.duration = float(self._system.get("duration") or 0)
        """The time limit in seconds; 0: none."""
        self._tasks = tasks
        self._hostname = hostname
        self._directory = directory
        self._tmpdir = directory / f"{self._f58}.tmp"
        self._running: list[asyncio.subprocess.Process] = []
        self._pipes: list[asyncio.BaseTransport] = []
        self._letting_go: asyncio.Task[None] | None = None
        self._abandoned = asyncio.Event()
        self._signals: list[int] = []
        self._unwritten: OSError | None = None
        self._version = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self) -> int:
        """Run all tasks to their end and return the job's wait status, as Flux's shell would.

        Raises:
            ExecError: a task could not be started, or output not be written; all of them are killed then.
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
            await self._tasks_end()
            if self._letting_go:
                self._letting_go.cancel()
            shutil.rmtree(self._tmpdir, ignore_errors=True)  # whatever its tasks have left there
            self._changed()

    async def _tasks_end(self) -> None:
        """Wait until every task has ended, or is left behind."""

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
                    self.kill()  # their output ends with them, and so does the group
                    failure = exc
                    break
                self._running.append(process)
                for number in self._signals:  # sent to the job while this task was being started
                    _send(process, number)
                for stream, reader in zip(("stdout", "stderr"), streams, strict=True):
                    readers.create_task(self._copy(reader, stream, rank, output))
        failure = failure or self._unwritten
        if failure:
            raise failure
        await self._tasks_end()
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
        # Pipes of our own: those of asyncio's are closed by the last process that has them, and it waits for that.
        ends: list[int] = []
        try:
            stdout, stderr = await self._pipe(ends), await self._pipe(ends)
            argv, stdin = self._reads(ends)
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
            words = exc.strerror if isinstance(exc, OSError) else str(exc)
            note = f"task {rank} (host {self._hostname}): start failed: {self._command[0]}: {words}"
            raise ExecError(note, (_NOT_FOUND if missing else _CANNOT_EXECUTE) << 8) from None
        finally:
            for end in ends:
                os.close(end)
        return process, stdout, stderr

    def _reads(self, ends: list[int]) -> tuple[list[str], int]:
        """Return what runs a task that reads what the jobspec says, and its standard input.

        Raises:
            OSError: there is no such file.
        """
        words, wrapper = self._command, jobspec.STDIN_WRAPPER
        if words[: len(wrapper)] == wrapper:
            # Without the shell, which would drop variables whose names it cannot have. Another task may have put
            # anything in the file's place.
            ends.append(os.open(self._tmpdir / "stdin", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
            return words[len(wrapper) :], ends[-1]
        path = jobspec.get(self._system, "shell.options.input.stdin.path", os.devnull)
        if path == os.devnull:
            return words, asyncio.subprocess.DEVNULL
        # Any other file is opened by the task itself: the path may lead to what is the server's (/proc/self/fd/7), or
        # to a pipe that holds up whatever opens it.
        return [*_FROM_FILE, path, *words], asyncio.subprocess.DEVNULL

    async def _pipe(self, ends: list[int]) -> asyncio.StreamReader:
        """Make a pipe; add the end that a task writes to, and return what reads the other."""
        reader = asyncio.StreamReader()
        read, write = os.pipe()
        ends.append(write)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", buffering=0)
        )
        self._pipes.append(transport)
        return reader

    def signal(self, number: int) -> bool:
        """Send a signal to every task of the job, and to what they have started in their sessions.

        Returns:
            Whether it may be sent to all of them; one may run as another user.
        """
        self._signals.append(number)
        sent = [_send(process, number) for process in self._running]
        return all(sent)

    def kill(self) -> None:
        """Kill every process of the job; what outlives that is left behind after a moment."""
        self.signal(signal.SIGKILL)
        if self._letting_go is None:
            self._letting_go = asyncio.create_task(self._let_go(), name="what is left of a job")

    async def _let_go(self) -> None:
        """End what holds up the end of a job that was killed: a process in a session of its own, or another user's."""
        await asyncio.sleep(_KILLED)
        try:
            async with asyncio.timeout(_LOOKED_FOR):
                left = await asyncio.to_thread(orphans.end, self._tmpdir)
        except (OSError, TimeoutError) as exc:
            log.error("processes of a job cannot be looked for", job=self._f58, reason=str(exc) or "no answer")
        else:
            if left:
                log.info("processes of a job in other sessions were ended", job=self._f58, processes=left)
        await asyncio.sleep(_KILLED)
        pids = [process.pid for process in self._running if process.returncode is None]
        log.error("a job does not end; what cannot be killed is left behind", job=self._f58, tasks=pids)
        self._abandoned.set()
        for pipe in self._pipes:
            pipe.close()

    async def _copy(self, reader: asyncio.StreamReader, stream: str, rank: int, output: IO[bytes]) -> None:
        """Write what a task writes to the output eventlog, as it comes (RFC 24)."""
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
            except OSError as exc:  # the disk is full: a job whose output is lost must not look well
                self._unwritten = exc
                self.kill()
            self._changed()

    def _changed(self) -> None:
        self._version += 1
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def written(self, version: int) -> int:
        """Wait until something was written after a version, or the tasks have ended; return the version then."""
        if self._version <= version:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        return self._version


def _send(process: asyncio.subprocess.Process, number: int) -> bool:
    """Signal a task and its session; return whether that is allowed."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return True  # it has ended meanwhile
    except PermissionError as exc:  # it runs as another user
        log.error("a task cannot be signalled", pid=process.pid, signal=number, reason=str(exc))
        return False
    return True


def output_path(directory: Path, f58: str) -> Path:
    """Where the output eventlog of a job is."""
    return directory / f"{f58}.output"
