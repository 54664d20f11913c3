"""The server's own keys in the instance's KVS. Runs in the Flux thread; these calls may block.

Every job of the instance's owner can write there too: a value may be anything and a directory may be a symbolic link.
None of that may keep a server from starting: a key that cannot be read counts as missing and is written again.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import flux.constants
import flux.kvs
import structlog

log = structlog.get_logger("flux")

TOP = "flux-sidecar"
INSTANCE = f"{TOP}.instance"
SERVERS = f"{TOP}.servers"
_DIRECTORIES = ("dir", "dirref")
#: Errors of a lookup or a commit that concern the key, not the broker or this server's rights.
_KEY_ERRORS = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTO, errno.EFBIG,
    errno.EOVERFLOW, errno.ENAMETOOLONG,
})  # fmt: skip


def read(handle: Any, key: str) -> Any:
    """Return a value, which may be anything; None if the key is missing or cannot be read.

    Raises:
        OSError: the broker does not respond, or denies access.
    """
    with _suppress_key_errors():
        return flux.kvs.get(handle, key)
    return None


def servers(handle: Any) -> list[str]:
    """Return the names in the directory of servers; raises as :func:`read` does."""
    with _suppress_key_errors():
        return [str(name) for name in flux.kvs.get_dir(handle, SERVERS).files()]
    return []


def write(handle: Any, key: str, value: Any) -> None:
    """Write a value, and replace whatever is stored there.

    Raises:
        OSError: the broker does not respond, or denies access.
    """
    _remove_non_directories(handle)
    try:
        _put(handle, key, value)
    except OSError as exc:
        if exc.errno not in _KEY_ERRORS:
            raise
        _unlink(handle, TOP, exc.strerror or str(exc))
        _put(handle, key, value)


@contextlib.contextmanager
def _suppress_key_errors() -> Iterator[None]:
    """Suppress errors of a key or its value."""
    try:
        yield
    except (ValueError, RecursionError):
        return  # not JSON, or nested too deeply
    except OSError as exc:
        if exc.errno not in _KEY_ERRORS:
            raise


def _remove_non_directories(handle: Any) -> None:
    """Remove keys that should be directories and are not: a link to itself crashes Flux's KVS at the next write."""
    for key in (TOP, SERVERS):
        with _suppress_key_errors():
            request = {"key": key, "namespace": "primary", "flags": flux.constants.FLUX_KVS_TREEOBJ}
            value = handle.rpc("kvs.lookup", request).get().get("val")
            kind = value.get("type") if isinstance(value, dict) else None
            if kind is not None and kind not in _DIRECTORIES:
                _unlink(handle, key, f"it is of type {kind!r}, not a directory")


def _put(handle: Any, key: str, value: Any) -> None:
    flux.kvs.put(handle, key, value)
    flux.kvs.commit(handle)


def _unlink(handle: Any, key: str, reason: str) -> None:
    log.warning("a key of the server in the KVS was overwritten; it is created again", key=key, reason=reason)
    flux.kvs.put_unlink(handle, key)
    flux.kvs.commit(handle)
