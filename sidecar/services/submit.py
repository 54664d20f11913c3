"""Submit, check and launch for callers, while the service accepts jobs; :mod:`sidecar.services.submissions` submits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from sidecar.auth.caller import Caller
from sidecar.domain import jobspec, parameters, shell_options
from sidecar.domain.errors import InvalidRequest, Rejected
from sidecar.domain.job_request import JobContext, JobRequest
from sidecar.instance import Instance
from sidecar.services.launchers import Launcher, Launchers
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.submissions import Accepted, Submissions, check_key

#: Fields that have no meaning for a launcher, which is not a job and uses no resources of the instance.
_JOB_ONLY = (
    "num_tasks",
    "cores_per_task",
    "gpus_per_task",
    "num_nodes",
    "exclusive",
    "runtime",
    "queue",
    "urgency",
    "dry_run",
)


class SubmitService:
    """Accept requests to run a job or a launcher.

    Args:
        instance: runs the jobs.
        lifecycle: refuses submits once a stop has begun.
        submissions: submits jobs once per idempotency key.
        launchers: runs the launchers.
        launcher_names: the programs that may run as launchers (--launchers).
    """

    def __init__(
        self,
        instance: Instance,
        lifecycle: Lifecycle,
        submissions: Submissions,
        launchers: Launchers,
        launcher_names: frozenset[str],
    ) -> None:
        self._instance = instance
        self._lifecycle = lifecycle
        self._submissions = submissions
        self._launchers = launchers
        self._launcher_names = launcher_names

    def require_accepting(self) -> None:
        """Check that submits are accepted now.

        Raises:
            Conflict: a stop has begun.
            Unavailable: the instance is not connected.
        """
        self._lifecycle.require_running()
        self._instance.status.require_ready()

    async def submit(
        self, request: JobRequest, key: str | None, caller: Caller, context: JobContext | None = None
    ) -> Accepted:
        """Submit a job; see :meth:`Submissions.submit`.

        Raises:
            Conflict, Unavailable: see :meth:`require_accepting`.
            Problem: the job is not accepted.
        """
        self.require_accepting()
        return await self._submissions.submit(request, key, caller, context)

    async def ease(self, pending: Callable[[], int]) -> None:
        """Wait until a bulk submit may go on; see :meth:`Submissions.ease`."""
        await self._submissions.ease(pending)

    async def check(self, request: JobRequest, key: str | None, caller: Caller) -> dict[str, Any]:
        """Check a job without submitting it; return its jobspec without the environment.

        Raises:
            InvalidRequest, Forbidden: as for a submit.
            Rejected: the job's queue, its limits or the resources do not allow the job.
            Conflict, Unavailable: see :meth:`require_accepting`.
        """
        self.require_accepting()
        if key is not None:
            check_key(key)
        spec = await self._submissions.build(request, caller)
        await self._instance.check(jobspec.prepared(spec))
        return jobspec.without_environment(spec)

    async def launch(self, request: JobRequest, key: str | None, caller: Caller) -> Launcher:
        """Start a launcher beside the server.

        Raises:
            Forbidden: the caller lacks the scope admin.
            InvalidRequest: the program is not a known launcher, or the request has parameters of jobs.
            Rejected: the program is not in the instance's PATH, or cannot be started.
            Conflict, Unavailable: see :meth:`require_accepting`.
        """
        self.require_accepting()
        caller.require("admin")  # a launcher runs beside the server and can do whatever the server can
        words = parameters.parse_command(request.command)
        self._check_launch(words[0], request, key)
        environment = await self._instance.environment()
        # By the instance's PATH: with a PATH of the request any program could have the name of a known launcher.
        program = shutil.which(words[0], path=environment.variables.get("PATH"))
        if program is None:
            raise Rejected(f"is_launcher: {words[0]} is not in the instance's PATH, or not on the server's machine.")
        variables = {**environment.variables, **parameters.parse_envars(request.envars)}
        return await self._launchers.start(program, words, variables, request.workdir or environment.cwd, caller.name)

    def warnings(self, request: JobRequest) -> list[str]:
        """Return texts on what is probably a mistake in a request, such as a pipe without a shell."""
        ignored = shell_options.ignored(request.option_flags) if self._instance.status.kind == "embedded" else ""
        return [text for text in (parameters.shell_warning(request.command), ignored) if text]

    def _check_launch(self, program: str, request: JobRequest, key: str | None) -> None:
        if program not in self._launcher_names:
            known = ", ".join(sorted(self._launcher_names)) or "none"
            raise InvalidRequest(f"is_launcher: {program!r} is not a known launcher (--launchers): {known}.")
        if given := [name for name in _JOB_ONLY if getattr(request, name, None) is not None]:
            raise InvalidRequest(f"is_launcher: a launcher is not a job; leave out {', '.join(given)}.")
        if key is not None:
            raise InvalidRequest("Idempotency-Key: a launcher is not a job, and has no key; leave it out.")
