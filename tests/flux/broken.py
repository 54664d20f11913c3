"""Run a server with one part that hangs, dies or cannot be closed: ``python -m tests.flux.broken FAULT serve …``.

The faults are those of the system below it: a file system that hangs, a callback that does not return. The rest of the
server is unchanged.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import Any

_NEVER = threading.Event()


def hang(*_: Any, **__: Any) -> Any:
    """Never return, like a system call on a dead network file system."""
    _NEVER.wait()


async def never_end(*_: Any, **__: Any) -> None:
    """Never end, even when cancelled."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


async def die(*_: Any, **__: Any) -> None:
    raise LookupError("broken by the test")


def hung_disk() -> None:
    """Threads of the default executor hang in statvfs()."""
    os.statvfs = hang


def hung_open() -> None:
    """The store cannot be opened: its file system hangs."""
    from sidecar.store import connections

    connections.connect = hang  # type: ignore[attr-defined]


def hung_flux_thread() -> None:
    """The Flux thread hangs in a callback, once a job has started."""
    from sidecar.instance.flux import journal

    decode = journal.decode

    def decode_then_hang(text: bytes) -> Any:
        found = decode(text)
        if b'"start"' in bytes(text):
            hang()
        return found

    journal.decode = decode_then_hang


def dead_survey() -> None:
    from sidecar.services.resources import ResourcePoller

    ResourcePoller._run = die  # type: ignore[method-assign]


def dead_ping() -> None:
    from sidecar.instance.flux.connection import FluxConnection

    FluxConnection._ping = die  # type: ignore[method-assign]


def dead_feed() -> None:
    """The feed's task dies in the middle of a batch, once, after a job has started."""
    from sidecar.journal.projection import Projection

    write = Projection.write
    count: list[None] = []

    async def fails_once(self: Projection, batch: Any) -> None:
        if not count and any(record.job.state == "RUN" for record in batch.records.values()):
            count.append(None)
            raise LookupError("broken by the test")
        await write(self, batch)

    Projection.write = fails_once  # type: ignore[method-assign]


def bad_closes() -> None:
    """One part raises when it is closed, one does not end, and the task of a third takes no cancellation."""
    from sidecar.services.idle import IdleStop
    from sidecar.services.resources import ResourcePoller
    from sidecar.web.history import History

    History.close = die  # type: ignore[method-assign]
    IdleStop.close = never_end  # type: ignore[method-assign]
    ResourcePoller._run = never_end  # type: ignore[method-assign]


def blocked_loop() -> None:
    """The event loop is blocked, from the tenth request for the service's state on."""
    from sidecar.services.lifecycle import Lifecycle

    service = Lifecycle.service
    count: list[None] = []

    def block_later(self: Lifecycle) -> Any:
        count.append(None)
        while len(count) >= 10:
            time.sleep(0.1)
        return service(self)

    Lifecycle.service = block_later  # type: ignore[method-assign]


def failing_stop() -> None:
    """The first stop dies of an error of its own."""
    from sidecar.services.stop import Stop

    end = Stop._end_instance
    count: list[None] = []

    async def fails_once(self: Stop) -> None:
        count.append(None)
        if len(count) == 1:
            raise ZeroDivisionError("broken by the test")
        await end(self)

    Stop._end_instance = fails_once  # type: ignore[method-assign]


def everything() -> None:
    """Everything hangs: the disk, the Kubernetes Event, the closing of several parts."""
    from sidecar.instance.embedded.instance import EmbeddedInstance
    from sidecar.services.pod import Pod
    from sidecar.store import writer

    hung_disk()
    bad_closes()
    writer.write_batch = hang  # type: ignore[attr-defined]
    Pod._record_event = never_end  # type: ignore[method-assign]
    EmbeddedInstance.close = never_end  # type: ignore[method-assign]


FAULTS = {
    each.__name__.replace("_", "-"): each
    for each in (
        hung_disk, hung_open, hung_flux_thread, dead_survey, dead_ping, dead_feed, bad_closes, blocked_loop, failing_stop,
        everything,
    )
}  # fmt: skip


def main() -> None:
    fault = FAULTS[sys.argv.pop(1)]
    from sidecar.__main__ import main as serve

    fault()
    serve()


if __name__ == "__main__":
    main()
