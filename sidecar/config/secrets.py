"""Protection of the server's secrets from jobs that run as the same user."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

from sidecar.config.environment import is_secret

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def hide_secrets() -> None:
    """Remove secrets from this process's environment, after they have been read."""
    names = {name for name in os.environ if is_secret(name)}
    if names:
        _overwrite(names)
    for name in names:
        del os.environ[name]


def _overwrite(names: Collection[str]) -> None:
    """Overwrite the values of variables in the process's initial environment, which ``/proc/PID/environ`` shows.

    ``unsetenv`` removes only the pointer; the text stays in the memory that the kernel reads.
    """
    entries = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    index = 0
    while address := entries[index]:
        name, equals, value = ctypes.string_at(address).partition(b"=")
        if equals and os.fsdecode(name) in names:
            ctypes.memset(address + len(name) + 1, ord("x"), len(value))
        index += 1


def forbid_inspection() -> None:
    """Forbid other processes of the same user to read this one's memory, environment or files in ``/proc``.

    It also forbids tracing and core dumps. Root is still allowed all of it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
