"""The environment that jobs inherit."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from sidecar.config.environment import in_flux_job, job_environment, process_environment
from sidecar.domain import untrusted
from sidecar.domain.model import Environment

log = structlog.get_logger("flux")

_LONGEST_PATH = 4096


def inherited_environment(inherited: Environment | None, *, initial_program: bool) -> Environment:
    """Return the environment of jobs: the broker's, without the server's settings and secrets.

    Args:
        inherited: the environment that a broker in another container reported.
        initial_program: whether this process inherits the broker's environment, as its initial program.
    """
    if inherited is None:
        if not initial_program:
            log.warning("the broker does not report its environment; jobs get this server's")
        inherited = Environment(process_environment(), os.getcwd())
    return _as_text(Environment(job_environment(inherited.variables), inherited.cwd))


def _as_text(environment: Environment) -> Environment:
    """Remove variables that a jobspec, which is JSON, cannot contain: bytes that are not UTF-8."""
    kept = {
        name: value
        for name, value in environment.variables.items()
        if untrusted.is_text(name) and untrusted.is_text(value)
    }
    if len(kept) < len(environment.variables):
        names = sorted(ascii(name) for name in environment.variables.keys() - kept.keys())
        log.warning("variables that are not UTF-8 cannot be given to jobs", names=names)
    return Environment(kept, untrusted.text(environment.cwd, _LONGEST_PATH))


def find_broker_above() -> int | None:
    """Return the pid of the broker that may have started this process as its initial program; None without one.

    It is found among the ancestors by name and pid: in another container the pid alone could be another process. A
    Flux job descends from its broker too, and is not an initial program.
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
