"""Sends the requests of a Flux instance's parts, and counts them."""

from __future__ import annotations

import asyncio
import errno
from typing import Any, TypeVar

from sidecar.domain.errors import Overloaded
from sidecar.instance.base import Status
from sidecar.instance.flux.requests import Finish, Requests, Start
from sidecar.telemetry.instruments import Instruments

T = TypeVar("T")


class FluxClient:
    """Requests to rank 0.

    Args:
        status: of the connection.
        instruments: count the requests by topic.
    """

    def __init__(self, status: Status, instruments: Instruments) -> None:
        self.status = status
        self._instruments = instruments
        self.requests: Requests
        """Set when the Flux thread starts."""

    async def rpc(self, topic: str, payload: Any = None, flags: int = 0) -> Any:
        """Send a request and return its response.

        Raises:
            OSError: Flux's error, with its message.
            Overloaded: Flux has not enough memory.
            Unavailable: no response in time, or no connection.
        """
        return await self.call(topic, lambda handle: handle.rpc(topic, payload, 0, flags), lambda rpc: rpc.get())

    async def call(self, topic: str, start: Start, finish: Finish[T]) -> T:
        """Send a request with ``start`` and read the response with ``finish``; raises as :meth:`rpc` does."""
        try:
            with self._instruments.rpc(topic):
                return await self.requests.call(start, finish)
        except OSError as exc:
            if exc.errno == errno.ENOMEM:  # the request itself is valid
                raise Overloaded("Flux has not enough memory for this request now; retry later.") from None
            raise

    def rpc_untimed(self, topic: str, payload: Any, finish: Finish[T]) -> asyncio.Future[T]:
        """Send a request without a timeout; see :meth:`Requests.call_untimed`."""
        return self.requests.call_untimed(lambda handle: handle.rpc(topic, payload, 0), finish)
