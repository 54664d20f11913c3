"""What flux-rest-server does, by the services of this server: submit, read and cancel jobs, describe the instance."""

from __future__ import annotations

import asyncio
import functools
import os
import pwd
import time
from typing import Annotated

import msgspec
from msgspec import Meta

from sidecar.auth.caller import Caller
from sidecar.domain import fluid, rest_info, rest_request
from sidecar.domain.errors import Conflict, Ended, InvalidRequest, NotFound
from sidecar.domain.model import Environment
from sidecar.domain.rest_info import RestInfo
from sidecar.domain.rest_request import RestJob
from sidecar.instance import Instance
from sidecar.services.job_commands import JobCommands
from sidecar.services.lookup import JobLookup
from sidecar.services.submissions import Accepted, check_key
from sidecar.services.submit import SubmitService

INVALID_JOBSPEC = "invalid jobspec"

_PATH = "/usr/local/bin:/usr/bin:/bin"


class RestRoot(msgspec.Struct):
    """The instance."""

    name: Annotated[str, Meta(description="always flux-rest-server: the name of the dialect")]
    user: Annotated[str, Meta(description="name of the user that jobs run as")]
    broker_version: Annotated[str, Meta(description="version of Flux; empty with the embedded engine")]
    rank: Annotated[int, Meta(description="rank of the broker that this server is connected to")]
    size: Annotated[int, Meta(description="number of brokers")]


class _Account(msgspec.Struct, frozen=True):
    """The passwd entry of the user that jobs run as."""

    name: str
    home: str
    shell: str


class RestJobs:
    """Jobs and the instance, in the words of flux-rest-server.

    Args:
        submits: accepts jobs.
        lookup: finds jobs.
        commands: cancels them.
        instance: runs them.
    """

    def __init__(self, submits: SubmitService, lookup: JobLookup, commands: JobCommands, instance: Instance) -> None:
        self._submits = submits
        self._lookup = lookup
        self._commands = commands
        self._instance = instance

    async def root(self) -> RestRoot:
        """Describe the instance.

        Raises:
            Unavailable: it is not connected.
        """
        status = self._instance.status
        status.require_ready()
        account = await asyncio.to_thread(_account)
        return RestRoot("flux-rest-server", account.name, status.version, status.rank, status.size)

    async def submit(self, job: RestJob, key: str | None, caller: Caller) -> Accepted:
        """Submit a job; see :meth:`SubmitService.submit`.

        Raises:
            InvalidRequest: arguments are not valid, or contradict each other; or the key is not valid.
            Problem: the job is not accepted.
        """
        if key is not None:
            check_key(key)
        try:
            context = rest_request.context(job, await _default_environment())
            return await self._submits.submit(rest_request.translated(job), key, caller, context)
        except InvalidRequest as exc:
            raise InvalidRequest(exc.detail, message=INVALID_JOBSPEC) from None

    def warnings(self, job: RestJob) -> list[str]:
        """Return texts on arguments that have no effect with the embedded engine."""
        return self._submits.warnings(rest_request.translated(job))

    async def job(self, jobid: int, attributes: frozenset[str]) -> tuple[RestInfo, bool]:
        """Return the description of a job, and whether the job is active.

        Args:
            jobid: the job.
            attributes: members to include.

        Raises:
            NotFound: no job has this ID.
            Unavailable, Lagging: see :meth:`JobLookup.state`.
        """
        try:
            job = await self._lookup.job(jobid)
        except NotFound:
            raise _no_such(jobid) from None
        return rest_info.describe(job, attributes, time.time()), job.state != "INACTIVE"

    async def cancel(self, jobid: int, reason: str, caller: Caller) -> None:
        """Cancel a job; see :meth:`JobCommands.cancel`.

        Raises:
            Conflict: the job has ended already.
            Forbidden: another caller has submitted it.
            NotFound: no job has this ID.
            Unavailable: the instance does not answer, or the job is not known yet.
        """
        try:
            await self._commands.cancel(jobid, reason, caller)
        except NotFound:
            raise _no_such(jobid) from None
        except Ended:
            raise Conflict(f"job {fluid.f58_ascii(jobid)} is already inactive, cannot cancel") from None


def _no_such(jobid: int) -> NotFound:
    return NotFound(f"no such job: {fluid.f58_ascii(jobid)}")


async def _default_environment() -> Environment:
    """Return the environment of jobs that have none of their own: that of a login, nothing of the broker's."""
    account = await asyncio.to_thread(_account)
    user = {"HOME": account.home, "USER": account.name, "LOGNAME": account.name, "SHELL": account.shell}
    return Environment({**user, "PATH": _PATH}, account.home)


@functools.cache
def _account() -> _Account:
    """Return the passwd entry of this process, whose user jobs run as; where it has none, one for its uid."""
    uid = os.getuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return _Account(str(uid), "/", "/bin/sh")
    return _Account(entry.pw_name, entry.pw_dir, entry.pw_shell or "/bin/sh")
