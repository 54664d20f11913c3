"""The notifications of the Flux thread: how its events reach the event loop."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sidecar.domain.model import JobEvents
from sidecar.instance.flux.broker import Broker


class Callbacks(msgspec.Struct, kw_only=True):
    """Functions that the Flux thread runs on the event loop, in order; except ``backlog``."""

    connected: Callable[[Broker], None]
    """The journal has started."""
    events: Callable[[JobEvents], None]
    interrupted: Callable[[], None]
    """The journal was canceled; the events that are missed come with the next connection's history."""
    disconnected: Callable[[str], None]
    """The connection is broken, after its journal had started."""
    connect_failed: Callable[[str], None]
    """No connection could be made; the thread retries."""
    refused: Callable[[str], None]
    """The broker belongs to another user, or another server serves it; the thread has ended."""
    crashed: Callable[[BaseException], None]
    """The thread failed with an error of its own and starts again; this does not indicate the broker's state."""
    backlog: Callable[[], int]
    """Returns the number of events that are not processed yet; called in the Flux thread."""
