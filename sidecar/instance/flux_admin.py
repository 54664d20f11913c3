"""What an operator asks of a Flux instance: signals, urgencies.

:class:`~sidecar.instance.flux.FluxInstance` is built on this class, which only sends requests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from sidecar import fluid
from sidecar.errors import Conflict, NotFound
from sidecar.instance.base import Status


class FluxAdmin(ABC):
    """Requests to rank 0 that need no more than an answer."""

    status: Status

    @abstractmethod
    async def _rpc(self, topic: str, payload: Any = None) -> Any:
        """Send a request to rank 0 and return its answer.

        Raises:
            OSError: Flux's error, with its own words.
            Unavailable: no answer in time, or no connection.
        """

    async def send_signal(self, fluid_: int, number: int) -> None:
        """Signal a running job; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require()
        try:
            await self._rpc("job-manager.kill", {"id": fluid_, "signum": number})
        except OSError as exc:
            raise _refused(exc, fluid_, "signalled") from None

    async def set_urgency(self, fluid_: int, urgency: int) -> int:
        """Change a pending job's urgency; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require()
        try:
            answer = await self._rpc("job-manager.urgency", {"id": fluid_, "urgency": urgency})
        except OSError as exc:
            raise _refused(exc, fluid_, "reprioritized") from None
        return int(answer["old_urgency"])


def _refused(exc: OSError, fluid_: int, what: str) -> NotFound | Conflict:
    """Tell an unknown job from one in the wrong state: Flux answers EINVAL to both, and differs in its words."""
    if "unknown job" in str(exc.strerror):
        return NotFound(f"Flux knows no job {fluid.f58(fluid_)}: {exc.strerror}.")
    return Conflict(f"Job cannot be {what}: {exc.strerror}.")
