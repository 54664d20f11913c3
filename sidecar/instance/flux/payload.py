"""Payloads of responses, read without the overhead of flux-python's accessors."""

from __future__ import annotations

from typing import Any

from flux.core.inner import ffi, raw


def read_json(rpc: Any) -> bytes:
    """Return a response's JSON; ``RPC.get_str()`` looks up the handle each time, which matters at 1,000 per second.

    Raises:
        OSError: the response is an error.
    """
    text = ffi.new("char *[1]")
    raw.flux_rpc_get(rpc.handle, text)
    return bytes(ffi.string(text[0])) if text[0] != ffi.NULL else b"{}"


def read_raw(rpc: Any) -> bytes:
    """Return a response's raw payload; raises as :func:`read_json` does."""
    data, size = ffi.new("void *[1]"), ffi.new("size_t[1]")
    raw.flux_rpc_get_raw(rpc.handle, data, size)
    return bytes(ffi.buffer(data[0], size[0])) if data[0] != ffi.NULL else b""


def release(rpc: Any) -> None:
    """Free a response and its result now; call it at the end of a continuation.

    flux-python's future refers to itself by its ``cb_handle``. Until the cycle collector runs, which counts objects
    and not bytes, such a cycle keeps the message and, by its arguments, the result: 30 MB for an eventlog of 36 MB.
    """
    rpc.handle = None
    rpc.then_args = ()
    rpc.cb_handle = None
