"""Read the journal with the whole history on a connection of its own; runs in a process of its own.

The responses are taken from the connection one after the other, without a reactor and callbacks: that takes a third of
the time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import flux
import flux.constants
from flux.core.inner import ffi, lib, raw

from sidecar.instance.flux.broker import process_of

_TOPIC = "job-manager.events-journal"
_END = b'{"id":-1,'


def responses(uri: str, broker: str) -> Iterator[bytes]:
    """Yield the responses of the journal, up to the one that ends the history.

    Args:
        uri: of the instance.
        broker: process of the broker that the server is connected to.

    Raises:
        OSError: the connection breaks, the journal ends, or another broker is at the URI.
    """
    handle = flux.Flux(uri)
    if process_of(handle) != broker:
        raise OSError(errno.ESTALE, "another broker is at the address")
    rpc = handle.rpc(_TOPIC, {"full": True}, 0, flux.constants.FLUX_RPC_STREAMING)
    match = ffi.new("struct flux_match *")
    match.typemask = flux.constants.FLUX_MSGTYPE_RESPONSE
    match.matchtag = raw.flux_rpc_get_matchtag(rpc.handle)
    match.topic_glob = ffi.NULL
    text = ffi.new("char *[1]")
    while not (response := _receive(handle, match[0], text)).startswith(_END):
        yield response


def _receive(handle: Any, match: Any, text: Any) -> bytes:
    """Return the next response.

    Raises:
        OSError: the connection broke, or the response is an error.
    """
    message = lib.flux_recv(handle.handle, match, 0)
    if message == ffi.NULL:
        raise _error("the connection broke")
    try:
        if lib.flux_response_decode(message, ffi.NULL, text) < 0:
            raise _error("the journal ended")
        return bytes(ffi.string(text[0])) if text[0] != ffi.NULL else b""
    finally:
        lib.flux_msg_destroy(message)


def _error(what: str) -> OSError:
    return OSError(ffi.errno, f"{what}: {os.strerror(ffi.errno)}")
