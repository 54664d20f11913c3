"""The end file of a pod: its exit code and the reason, in one line; what runs the broker reads it and ends it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from sidecar.domain.untrusted import digits

FAILURE = 1


class Verdict(NamedTuple):
    """The exit code of this pod, and the reason."""

    code: int
    reason: str


def write(path: Path, verdict: Verdict) -> None:
    """Write the end file as a whole; a failure also without a draft, where the disk has no room for one.

    Raises:
        OSError: it cannot be written.
    """
    text = f"{verdict.code} {' '.join(verdict.reason.split())}\n"
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()  # its part that was written takes room too
        if not verdict.code:
            raise
        with contextlib.suppress(OSError):
            path.write_text(text)
        if not path.is_file():  # an empty one, on a full disk, is read as a failure too
            raise


def read(path: Path) -> Verdict | None:
    """Return the content of an end file; None: it does not exist."""
    try:
        text, _, reason = path.read_text().strip().partition(" ")
    except FileNotFoundError:
        return None
    code = digits(text)
    return Verdict(FAILURE if code is None else code, reason)
