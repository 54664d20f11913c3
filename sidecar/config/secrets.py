"""Keeps secrets of the server from jobs that run as the same user: out of its environment, and out of ``/proc``."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def hide(names: Collection[str]) -> None:
    """Overwrite the values of variables where the process was started with them, which ``/proc/PID/environ`` shows.

    ``unsetenv`` takes only the pointer away; the text stays where the kernel reads it.
    """
    entries = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    index = 0
    while address := entries[index]:
        name, equals, value = ctypes.string_at(address).partition(b"=")
        if equals and os.fsdecode(name) in names:
            ctypes.memset(address + len(name) + 1, ord("x"), len(value))
        index += 1


def forbid_inspection() -> None:
    """Let no process of the same user read this one's memory, environment or files by ``/proc``, or trace it.

    It also ends core dumps. Root may still do all of it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
