"""One job of the embedded engine: its processes, their output, their end."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from sidecar import fluid, jobspec

_CHUNK = 64 * 1024
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
        self._tasks = tasks
        self._hostname = hostname
        self._directory = directory
        self._running: list[asyncio.subprocess.Process] = []
        self._signalled: int | None = None
        self._unwritten: OSError | None = None
        self.watchers: list[Callable[[str], None]] = []
        """Told every entry that is added to the output eventlog."""

    async def run(self) -> int:
        """Run all tasks to their end and return the job's wait status, as Flux's shell would.

        Raises:
            ExecError: a task could not be started, or output not be written; all of them are killed then.
        """
        tmpdir = self._directory / f"{self._f58}.tmp"
        try:
            tmpdir.mkdir(parents=True)
            for name, file in (self._system.get("files") or {}).items():
                (tmpdir / name).write_text(file["data"])
            with output_path(self._directory, self._f58).open("ab") as log:
                return await self._run(tmpdir, log)
        except OSError as exc:
            self.signal(signal.SIGKILL)
            note = f"host {self._hostname}: {exc.filename or 'output'}: {exc.strerror}"
            raise ExecError(note, _CANNOT_EXECUTE << 8) from None
        finally:
            await asyncio.gather(*(process.wait() for process in self._running))
            shutil.rmtree(tmpdir, ignore_errors=True)  # whatever its tasks have left there

    async def _run(self, tmpdir: Path, log: IO[bytes]) -> int:
        failure: Exception | None = None
        async with asyncio.TaskGroup() as readers:
            for rank in range(self._tasks):
                try:
                    process = await self._start(rank, tmpdir)
                except ExecError as exc:
                    self.signal(signal.SIGKILL)  # their output ends with them, and so does the group
                    failure = exc
                    break
                self._running.append(process)
                if self._signalled is not None:  # the job was ended while it was being started
                    self.signal(self._signalled)
                for stream in ("stdout", "stderr"):
                    readers.create_task(self._copy(getattr(process, stream), stream, rank, log))
        failure = failure or self._unwritten
        if failure:
            raise failure
        codes = [await process.wait() for process in self._running]
        return max(code if code >= 0 else 128 - code for code in codes) << 8

    async def _start(self, rank: int, tmpdir: Path) -> asyncio.subprocess.Process:
        environment = {
            **self._system["environment"],
            "FLUX_JOB_ID": self._f58,
            "FLUX_JOB_SIZE": str(self._tasks),
            "FLUX_JOB_NNODES": "1",
            "FLUX_JOB_TMPDIR": str(tmpdir),
            "FLUX_TASK_RANK": str(rank),
            "FLUX_TASK_LOCAL_ID": str(rank),
        }
        options = jobspec.get(self._system, "shell.options.input.stdin") or {}
        try:
            with open(options.get("path", os.devnull), "rb") as stdin:  # noqa: ASYNC230 - a local file, opened once
                return await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=stdin,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    cwd=self._system["cwd"],
                    env=environment,
                    start_new_session=True,
                )
        except (OSError, ValueError) as exc:
            missing = isinstance(exc, FileNotFoundError)
            words = exc.strerror if isinstance(exc, OSError) else str(exc)
            note = f"task {rank} (host {self._hostname}): start failed: {self._command[0]}: {words}"
            raise ExecError(note, (_NOT_FOUND if missing else _CANNOT_EXECUTE) << 8) from None

    def signal(self, number: int) -> None:
        """Send a signal to every process of the job, also to what its tasks have left behind."""
        self._signalled = number
        for process in self._running:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                continue  # it has ended meanwhile

    async def _copy(self, reader: asyncio.StreamReader, stream: str, rank: int, log: IO[bytes]) -> None:
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
                log.write(text)
                log.flush()
                for take in self.watchers:
                    take(text.decode())
            except OSError as exc:  # the disk is full: a job whose output is lost must not look well
                self._unwritten = exc
                self.signal(signal.SIGKILL)


def output_path(directory: Path, f58: str) -> Path:
    """Where the output eventlog of a job is."""
    return directory / f"{f58}.output"
