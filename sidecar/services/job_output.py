"""Open the output of a job, and say why a job has none."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import UNSET

from sidecar.domain.errors import Gone
from sidecar.domain.output import Stream
from sidecar.services.lookup import JobLookup
from sidecar.services.output_log import Cursor, OutputLog, OutputLogs

_NOT_YET = "The output does not exist yet"


class OpenedOutput(NamedTuple):
    """The output of a job as it was when it was opened."""

    log: OutputLog
    end: int
    """The number of chunks in the log."""
    complete: bool
    """Whether the job has ended, so that no chunk follows."""

    def cursor(self) -> Cursor:
        """Return a cursor at the first line."""
        return Cursor(self.log)


class JobOutputs:
    """The output of jobs, as Flux has it.

    Args:
        lookup: finds the jobs.
        logs: read the output from the instance.
    """

    def __init__(self, lookup: JobLookup, logs: OutputLogs) -> None:
        self._lookup = lookup
        self._logs = logs

    async def open(self, jobid: int) -> OpenedOutput:
        """Return the output of a job as it is now.

        Raises:
            NotFound: no job has this ID.
            Gone: Flux has purged the output, with the job.
            Unavailable: the instance does not answer, or the job is not known yet.
        """
        state = await self._lookup.state(jobid)
        log = self._logs.open(jobid)
        try:
            await log.refresh()
        except Gone:
            if log.count == 0 and (await self._lookup.job(jobid)).t_run is not UNSET:
                raise
        return OpenedOutput(log, log.count, state == "INACTIVE")

    async def why_empty(self, jobid: int, stream: Stream, redirected: dict[str, str], *, shell_log: bool) -> str:
        """Return why the output has no line of a stream.

        Args:
            jobid: the job.
            stream: the stream that was asked for.
            redirected: the path of each stream that goes to a file.
            shell_log: whether the job's shell has logged something: a limit may have dropped all lines.
        """
        job = await self._lookup.job(jobid)
        ended = job.state == "INACTIVE"
        if job.t_run is UNSET:
            return "There is no output: the job never ran." if ended else f"{_NOT_YET}: the job has not started."
        if files := [f"{name} to {path}" for name, path in redirected.items() if stream in ("both", name)]:
            return f"The output does not exist here: the job writes {', '.join(files)}."
        target = "" if stream == "both" else f" to {stream}"
        why = "the job's shell has logged nothing" if stream == "log" else f"the job has written nothing{target}"
        if shell_log and stream != "log":
            why += ", or nothing of it was stored: see the messages of the job's shell in Log"
        return f"There is no output: {why}." if ended else f"{_NOT_YET}: {why} so far."
