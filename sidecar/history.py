"""Entry point of the process that reads the history of an instance for the server that has started it.

It has an interpreter of its own, so that requests to the server do not wait while a long history is decoded, folded
and encoded. It writes frames (:mod:`sidecar.journal.history_frame`) to its standard output, whose reader bounds how far
ahead it is, and ends when its standard input does: with the server, however that ends.
"""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from sidecar.instance.flux import journal
from sidecar.instance.flux.history import responses
from sidecar.journal.history_fold import frames, has_end
from sidecar.journal.history_frame import Frame, encode
from sidecar.journal.history_order import in_order
from sidecar.store import retention
from sidecar.store.known import read_only, stored_events

_FAILURE = 1  # exit code


def main() -> None:
    """Read the history. Arguments: URI of the instance, its broker, path of the store."""
    uri, broker, path = sys.argv[1:]
    run(responses(uri, broker), Path(path))


def run(texts: Iterable[bytes], path: Path) -> None:
    """Write a history to the standard output.

    Args:
        texts: the responses of the journal, up to the response that ends the history.
        path: of the store, which is only read.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # of a whole process group: the server ends this one
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # there are no cycles, and to look for them takes a tenth of the time
    threading.Thread(target=_end_with_server, daemon=True).start()
    try:
        _read(texts, path)
    except BrokenPipeError:
        sys.exit(_FAILURE)
    except (OSError, sqlite3.Error) as exc:
        text = (exc.strerror if isinstance(exc, OSError) else "") or str(exc)
        _write(encode(Frame(0, failure=text)))
        sys.exit(_FAILURE)


def _read(texts: Iterable[bytes], path: Path) -> None:
    with read_only(path) as db:
        removed_until = retention.load(db).until
        ordered = in_order(filter(has_end, texts))
        found = frames(ordered, journal.decode, lambda jobids: stored_events(db, jobids), removed_until)
        for frame in found:
            _write(encode(frame))


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


def _end_with_server() -> None:
    """Wait for the end of the standard input, to which the server writes nothing; then end this process at once."""
    while os.read(sys.stdin.fileno(), 1):
        continue
    os._exit(_FAILURE)


if __name__ == "__main__":
    main()
