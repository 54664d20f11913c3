"""Output eventlogs of a Flux instance, read in chunks.

An eventlog is one KVS value, to which a job's shell appends a blob for each batch that it writes (RFC 11: a valref).
A lookup of the whole value would make the KVS assemble it while everything else in the instance waits. So the list of
its blobs is looked up and each blob is loaded separately: a few megabytes at most from Flux's shell, and the broker
serves other requests in between. Measured: while an eventlog of 200 MB is read this way, submits by others take no
longer than while nothing is read.
"""

from __future__ import annotations

import asyncio
import base64
import errno
from collections.abc import Sequence
from typing import Any

import msgspec
from flux.core.inner import raw
from flux.future import Future

from sidecar.domain import fluid
from sidecar.domain.errors import Gone, Problem, Unavailable
from sidecar.instance.base import OutputChunks
from sidecar.instance.flux import payload
from sidecar.instance.flux.client import FluxClient

_TREEOBJ = 16  # FLUX_KVS_TREEOBJ of src/common/libkvs/kvs.h
_ANY_NODE = 0xFFFFFFFF
_SHORT = 1024  # bytes of a response that may be an error of the lookup
_LONG_LIST = 64 * 1024  # bytes of a response that is decoded in a thread rather than on the event loop


class _TreeObject(msgspec.Struct):
    type: str
    data: list[str] | str | dict[str, Any] | None = None


class _LookupError(msgspec.Struct):
    errno: int = 0


class _Lookup(msgspec.Struct):
    val: _TreeObject | None = None


class BlobChunks:
    """The blobs of an eventlog, one chunk each.

    Args:
        hashes: the concatenated hashes of the blobs.
        width: bytes of one hash.
        inline: the eventlog itself while it is short enough to need no blob.
    """

    def __init__(self, hashes: bytes = b"", width: int = 1, inline: bytes | None = None) -> None:
        self._hashes = hashes
        self._width = width
        self.inline = inline

    def __len__(self) -> int:
        return 1 if self.inline is not None else len(self._hashes) // self._width

    def hash(self, index: int) -> bytes:
        """Return the hash by which the content store finds a blob."""
        return self._hashes[index * self._width : (index + 1) * self._width]

    def chunk_id(self, index: int) -> int:
        """Return the index: blobs are only appended."""
        return index

    def find(self, chunk_id: int) -> int | None:
        """Return the index of the blob with an ID."""
        return chunk_id if chunk_id <= len(self) else None

    def cache_key(self, index: int) -> tuple[int, int]:
        """Return the index twice: a blob never changes, and an inline eventlog becomes the first blob unchanged."""
        return index, index

    def last_stable(self, index: int) -> int:
        """Return the index: every server sees the same blobs."""
        return index

    def is_prefix_of(self, other: BlobChunks) -> bool:
        """Whether another list begins with the blobs of this one."""
        return self.inline is not None or other.inline is not None or other._hashes.startswith(self._hashes)


class FluxOutput:
    """Reads output eventlogs.

    Args:
        client: sends the requests.
    """

    def __init__(self, client: FluxClient) -> None:
        self._client = client
        self._waiting: dict[int, tuple[int, asyncio.Future[int]]] = {}

    async def list_chunks(self, jobid: int, before: OutputChunks | None) -> OutputChunks:
        """Look up the list of blobs; see :class:`~sidecar.instance.base.Instance`."""
        self._client.status.require_ready()
        response = await self._look_up(f"{fluid.kvs(jobid)}.guest.output", "output")
        if response is None:
            return await self._without_output(jobid, before)
        chunks = await asyncio.to_thread(_decode, response) if len(response) > _LONG_LIST else _decode(response)
        if isinstance(before, BlobChunks) and len(chunks) >= len(before) and not before.is_prefix_of(chunks):
            raise Problem("The output was replaced while it was read; read it again from the start.")
        return chunks

    async def _without_output(self, jobid: int, before: OutputChunks | None) -> OutputChunks:
        """Distinguish an eventlog that does not exist yet from one that was purged with everything else of the job.

        Raises:
            Gone: it was purged.
        """
        if await self._look_up(f"{fluid.kvs(jobid)}.eventlog", "job") is not None:
            return BlobChunks()
        if before:  # a reader that has started can continue: the blobs still exist
            return before
        raise Gone(f"Flux has purged job {fluid.f58(jobid)}, and its output with it.")

    async def _look_up(self, key: str, what: str) -> bytes | None:
        """Look up the tree object of a key, not its value; return None if there is no such key."""
        request = {"key": key, "namespace": "primary", "flags": _TREEOBJ}
        try:
            response = await self._client.call(
                "kvs.lookup-plus", lambda handle: handle.rpc("kvs.lookup-plus", request, 0), payload.read_json
            )
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise Problem(f"Flux could not look up the {what}: {exc.strerror}") from None
        if len(response) <= _SHORT and msgspec.json.decode(response, type=_LookupError).errno:
            return None
        return response

    async def read_chunk(self, chunks: OutputChunks, index: int) -> bytes:
        """Load one blob."""
        self._client.status.require_ready()
        assert isinstance(chunks, BlobChunks)  # noqa: S101 - the result of list_chunks()
        if chunks.inline is not None:
            return chunks.inline
        hash_ = chunks.hash(index)

        def start(handle: Any) -> Any:
            return Future(raw.flux_rpc_raw(handle.handle, b"content.load", hash_, len(hash_), _ANY_NODE, 0))

        try:
            return await self._client.call("content.load", start, payload.read_raw)
        except OSError as exc:
            raise Problem(f"Flux could not read the output: {exc.strerror}") from None

    async def wait(self, jobid: int, version: int) -> int | None:
        """Wait for the next commit to the job's own KVS namespace, which has its output while it runs.

        One request serves all waiters of a job; it stays with the broker after they have gone.
        """
        self._client.status.require_ready()
        known, waiting = self._waiting.get(jobid, (-2, None))
        if waiting is None or known != version:
            request = {"rootseq": version + 1, "namespace": f"job-{jobid}"}
            waiting = self._client.rpc_untimed("kvs.wait-version", request, _version)
            entry = self._waiting[jobid] = (version, waiting)
            waiting.add_done_callback(lambda _: self._waiting.get(jobid) is entry and self._waiting.pop(jobid))
        try:
            return await asyncio.shield(waiting)
        except OSError as exc:
            if exc.errno in (errno.ENOTSUP, errno.ENOENT):  # the job is not running yet, or has ended
                return None
            raise Unavailable(f"Flux could not follow the output: {exc.strerror}") from None


def _decode(response: bytes) -> BlobChunks:
    """Decode the response of a lookup.

    Raises:
        Problem: it is not a list of blobs.
    """
    try:
        value = msgspec.json.decode(response, type=_Lookup).val
        if value is None:
            return BlobChunks()
        if value.type == "val" and isinstance(value.data, str):
            return BlobChunks(inline=base64.b64decode(value.data))
        if value.type == "valref" and isinstance(value.data, list):
            return _pack(value.data)
        raise ValueError(f"it is of type {value.type[:20]!r}")
    except (msgspec.MsgspecError, ValueError) as exc:
        raise Problem(f"The output is not stored as Flux stores it: {exc}.") from None


def _pack(references: Sequence[str]) -> BlobChunks:
    """Pack blob references, such as ``sha1-6c8f…``.

    Raises:
        ValueError: they are not all of the same kind.
    """
    hashes = [reference.partition("-")[2] for reference in references]
    if len({len(each) for each in hashes}) != 1:
        raise ValueError("its blob references differ in length")
    return BlobChunks(bytes.fromhex("".join(hashes)), len(hashes[0]) // 2)


def _version(rpc: Any) -> int:
    return int(rpc.get()["rootseq"])
