"""Why the server has not started, or has failed, as text for the terminal or the log.

This module is cheap to import: an error in the command line is reported without loading the server.
"""

from __future__ import annotations

USAGE_ERROR, SOFTWARE_ERROR = 2, 70  # exit codes; the second is EX_SOFTWARE of sysexits.h
_BINDINGS = frozenset({"flux", "_flux", "cffi", "_cffi_backend", "ply", "yaml"})


class Failed(Exception):
    """The server has not started, or has failed.

    Args:
        text: the reason, and what to do.
        code: exit code of the process.
    """

    def __init__(self, text: str, code: int = USAGE_ERROR) -> None:
        super().__init__(text)
        self.code = code


def describe(exc: Exception) -> str:
    """Return the reason of a failed start as text."""
    if isinstance(exc, ImportError):
        return _unloadable(exc)
    if isinstance(exc, OSError):
        where = f"{exc.filename}: " if exc.filename else ""
        return f"The server cannot start: {where}{exc.strerror or exc}."
    return str(exc)


def _unloadable(exc: ImportError) -> str:
    """Return what to install for a module that cannot be loaded."""
    if (exc.name or "").partition(".")[0] in _BINDINGS:
        return (
            f"The Flux bindings cannot be loaded: {exc}.\n"
            "They need libflux-core where the loader finds it, and the extra flux-sidecar[flux] of its version. In the "
            "source tree: pip install '.[flux]' flux-python==VERSION (`flux version` shows libflux-core's)."
        )
    return f"A module cannot be loaded: {exc}. Install flux-sidecar again, into an environment of its own."
