"""The server's own data in a jobspec: submitter and idempotency key, in ``attributes.user.flux-sidecar``.

They are there because Flux's journal then returns them with the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidecar.domain.jobspec import get

_OURS = "flux-sidecar"
_PREDECESSOR = "attributes.system.user"  # where flux-restful 1.1 writes the caller
LONGEST_KEY = 1024
"""Maximum length of an idempotency key, and of the name of its caller, in characters."""


def mark(jobspec: dict[str, Any], **data: str) -> dict[str, Any]:
    """Add data of the server (``submitter``, ``key``, ``request``) to a jobspec, and return the jobspec."""
    jobspec["attributes"].setdefault("user", {}).setdefault(_OURS, {}).update(data)
    return jobspec


def submitter(jobspec: Mapping[str, Any]) -> str:
    """Return the caller that submitted the job through this server or flux-restful 1.1; otherwise empty."""
    data = get(jobspec, f"attributes.user.{_OURS}")
    name = data.get("submitter") if isinstance(data, dict) else get(jobspec, _PREDECESSOR)
    return name if isinstance(name, str) else ""


def scoped_key(key: str, submitter: str) -> str:
    """Return an idempotency key that is unique to its caller."""
    return f"{submitter}\n{key}" if submitter else key


def idempotency_key(jobspec: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the idempotency key of a jobspec, scoped to its submitter, and the digest of its request.

    Returns:
        None if the jobspec has no valid one.
    """
    data = get(jobspec, f"attributes.user.{_OURS}")
    if not isinstance(data, dict):
        return None
    key, digest, caller = data.get("key"), data.get("request"), submitter(jobspec)
    if not isinstance(key, str) or not isinstance(digest, str) or max(map(len, (key, digest, caller))) > LONGEST_KEY:
        return None  # this server did not write it
    return scoped_key(key, caller), digest
