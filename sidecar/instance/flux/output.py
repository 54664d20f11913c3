"""The output eventlogs of a Flux instance, read by pieces.

A log is one value of the KVS, to which a job's shell appends a blob for each batch that it writes (RFC 11: a valref).
To look the value up whole would have the KVS put it together, and everything else in the instance wait for that; so
the list of its blobs is looked up, and each blob asked for by its own: a few megabytes at most from Flux's shell, and
the broker answers others in between. Measured: while a log of 200 MB is read so, other callers' submits take no longer
than while nothing is read.
"""

from __future__ import annotations

import asyncio
import base64
import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from flux.core.inner import ffi, raw
from flux.future import Future

from sidecar.domain import fluid
from sidecar.domain.errors import Gone, Problem, Unavailable
from sidecar.instance.base import OutputChunks
from sidecar.instance.flux.thread import FluxThread

Call = Callable[[str, Callable[[Any], Any], Callable[[Any], bytes]], Awaitable[bytes]]

_TREEOBJ = 16  # FLUX_KVS_TREEOBJ of src/common/libkvs/kvs.h
_ANY_NODE = 0xFFFFFFFF
_SHORT = 1024  # bytes of an answer that says that there is nothing
_LONG_LIST = 64 * 1024  # bytes of an answer that is decoded beside the event loop


class _TreeObject(msgspec.Struct):
    type: str
    data: list[str] | str | dict[str, Any] | None = None


class _Absent(msgspec.Struct):
    errno: int = 0


class _Found(msgspec.Struct):
    val: _TreeObject | None = None


class Blobs:
    """The blobs of a log: their hashes, one behind the other, or the log itself while it is short."""

    def __init__(self, hashes: bytes = b"", width: int = 1, inline: bytes | None = None) -> None:
        self._hashes = hashes
        self._width = width
        self.inline = inline

    def __len__(self) -> int:
        return 1 if self.inline is not None else len(self._hashes) // self._width

    def hash(self, number: int) -> bytes:
        """Return what the content store knows a blob by."""
        return self._hashes[number * self._width : (number + 1) * self._width]

    def name(self, number: int) -> int:
        """Return a blob's number: blobs are only ever appended."""
        return number

    def find(self, name: int) -> int | None:
        """Return the number of the blob of a name."""
        return name if name <= len(self) else None

    def extent(self, number: int) -> tuple[int, int]:
        """Return the number: a blob never changes, and what was short becomes the first blob as it is."""
        return number, number

    def stable(self, number: int) -> int:
        """Return the number: every server sees the same blobs."""
        return number

    def begins(self, other: Blobs) -> bool:
        """Whether another list goes on where this one ends."""
        return self.inline is not None or other.inline is not None or other._hashes.startswith(self._hashes)


class FluxOutput:
    """Reads output eventlogs.

    Args:
        call: sends a request and returns its answer's bytes.
        thread: gives the thread that asks.
    """

    def __init__(self, call: Call, thread: Callable[[], FluxThread]) -> None:
        self._call = call
        self._thread = thread
        self._waiting: dict[int, tuple[int, asyncio.Future[int]]] = {}

    async def pieces(self, job: int, before: OutputChunks | None) -> OutputChunks:
        """Look up the list of blobs."""
        answer = await self._look_up(f"{fluid.kvs(job)}.guest.output", "output")
        if answer is None:
            return await self._none(job, before)
        blobs = await asyncio.to_thread(_blobs, answer) if len(answer) > _LONG_LIST else _blobs(answer)
        if isinstance(before, Blobs) and len(blobs) >= len(before) and not before.begins(blobs):
            raise Problem("The output was written anew meanwhile; read it again.")
        return blobs

    async def _none(self, job: int, before: OutputChunks | None) -> OutputChunks:
        """Tell a log that is not there yet from one that was purged, with all that Flux has of the job.

        Raises:
            Gone: it was purged.
        """
        if await self._look_up(f"{fluid.kvs(job)}.eventlog", "job") is not None:
            return Blobs()
        if before:  # a reader that has begun goes on: the blobs are still there
            return before
        raise Gone(f"Flux has purged job {fluid.f58(job)}, and its output with it.")

    async def _look_up(self, key: str, what: str) -> bytes | None:
        """Look up what a key holds, not what it stands for; None where there is no such key."""
        request = {"key": key, "namespace": "primary", "flags": _TREEOBJ}
        try:
            answer = await self._call(
                "kvs.lookup-plus", lambda handle: handle.rpc("kvs.lookup-plus", request, 0), _payload
            )
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise Problem(f"Flux could not look the {what} up: {exc.strerror}") from None
        return None if len(answer) <= _SHORT and msgspec.json.decode(answer, type=_Absent).errno else answer

    async def piece(self, pieces: OutputChunks, number: int) -> bytes:
        """Load one blob."""
        assert isinstance(pieces, Blobs)  # noqa: S101 - what it gave itself
        if pieces.inline is not None:
            return pieces.inline
        hash_ = pieces.hash(number)

        def start(handle: Any) -> Any:
            return Future(raw.flux_rpc_raw(handle.handle, b"content.load", hash_, len(hash_), _ANY_NODE, 0))

        try:
            return await self._call("content.load", start, _raw_payload)
        except OSError as exc:
            raise Problem(f"Flux could not read the output: {exc.strerror}") from None

    async def change(self, job: int, version: int) -> int | None:
        """Wait for the next commit to the job's own namespace, where its output is while it runs.

        One request serves all waiters of a job: it stays with the broker when they have gone.
        """
        known, waiting = self._waiting.get(job, (-2, None))
        if waiting is None or known != version:
            request = {"rootseq": version + 1, "namespace": f"job-{job}"}
            waiting = self._thread().ask(lambda handle: handle.rpc("kvs.wait-version", request, 0), _version)
            entry = self._waiting[job] = (version, waiting)
            waiting.add_done_callback(lambda _: self._waiting.get(job) is entry and self._waiting.pop(job))
        try:
            return await asyncio.shield(waiting)
        except OSError as exc:
            if exc.errno in (errno.ENOTSUP, errno.ENOENT):  # it does not run yet, or no longer
                return None
            raise Unavailable(f"Flux could not follow the output: {exc.strerror}") from None


def _blobs(answer: bytes) -> Blobs:
    """Read the answer of a lookup.

    Raises:
        Problem: it is no list of blobs.
    """
    try:
        found = msgspec.json.decode(answer, type=_Found).val
        if found is None:
            return Blobs()
        if found.type == "val" and isinstance(found.data, str):
            return Blobs(inline=base64.b64decode(found.data))
        if found.type == "valref" and isinstance(found.data, list):
            return _packed(found.data)
        raise ValueError(f"it is a {found.type[:20]}")
    except (msgspec.MsgspecError, ValueError) as exc:
        raise Problem(f"The output is not kept as Flux keeps one: {exc}.") from None


def _packed(references: Sequence[str]) -> Blobs:
    """Pack blob references, such as ``sha1-6c8f…``."""
    hashes = [reference.partition("-")[2] for reference in references]
    if len({len(each) for each in hashes}) != 1:
        raise ValueError("its blobs are named in several ways")
    return Blobs(bytes.fromhex("".join(hashes)), len(hashes[0]) // 2)


def _payload(rpc: Any) -> bytes:
    text = ffi.new("char *[1]")
    raw.flux_rpc_get(rpc.handle, text)
    return bytes(ffi.string(text[0])) if text[0] != ffi.NULL else b"{}"


def _raw_payload(rpc: Any) -> bytes:
    data, size = ffi.new("void *[1]"), ffi.new("size_t[1]")
    raw.flux_rpc_get_raw(rpc.handle, data, size)
    return bytes(ffi.buffer(data[0], size[0])) if data[0] != ffi.NULL else b""


def _version(rpc: Any) -> int:
    return int(rpc.get()["rootseq"])
