"""The server's own keys in the instance's KVS. Runs in the Flux thread; these calls may block.

Every job of the instance's owner can write there too. So a value may be anything, a directory a symbolic link, and none
of that may keep a server from starting: what cannot be read is as if it were not there, and is written anew.
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
#: What a lookup or a commit says of the key, and not of the broker or of this server's rights.
_OF_THE_KEY = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTO, errno.EFBIG,
    errno.EOVERFLOW, errno.ENAMETOOLONG,
})  # fmt: skip


def read(handle: Any, key: str) -> Any:
    """Return a value, which may be anything; None where there is none that can be read.

    Raises:
        OSError: the broker does not answer, or not to a guest.
    """
    with _whatever_stands_there():
        return flux.kvs.get(handle, key)
    return None


def servers(handle: Any) -> list[str]:
    """Return the names in the directory of servers; raises as :func:`read` does."""
    with _whatever_stands_there():
        return [str(name) for name in flux.kvs.get_dir(handle, SERVERS).files()]
    return []


def write(handle: Any, key: str, value: Any) -> None:
    """Write a value, whatever stands in its place.

    Raises:
        OSError: the broker does not answer, or not to a guest.
    """
    _clear_the_way(handle)
    try:
        _put(handle, key, value)
    except OSError as exc:
        if exc.errno not in _OF_THE_KEY:
            raise
        _unlink(handle, TOP, exc.strerror or str(exc))
        _put(handle, key, value)


@contextlib.contextmanager
def _whatever_stands_there() -> Iterator[None]:
    """Pass over what is wrong with a key or its value."""
    try:
        yield
    except (ValueError, RecursionError):
        return  # it is no JSON, or nested too deeply to be read
    except OSError as exc:
        if exc.errno not in _OF_THE_KEY:
            raise


def _clear_the_way(handle: Any) -> None:
    """Remove what stands where a directory should be: a link to itself crashes Flux's KVS with the next write."""
    for key in (TOP, SERVERS):
        with _whatever_stands_there():
            request = {"key": key, "namespace": "primary", "flags": flux.constants.FLUX_KVS_TREEOBJ}
            found = handle.rpc("kvs.lookup", request).get().get("val")
            kind = found.get("type") if isinstance(found, dict) else None
            if kind is not None and kind not in _DIRECTORIES:
                _unlink(handle, key, f"it is a {kind}, not a directory")


def _put(handle: Any, key: str, value: Any) -> None:
    flux.kvs.put(handle, key, value)
    flux.kvs.commit(handle)


def _unlink(handle: Any, key: str, reason: str) -> None:
    log.warning("a key of the server in the KVS is not what it was; it is made anew", key=key, reason=reason)
    flux.kvs.put_unlink(handle, key)
    flux.kvs.commit(handle)
