"""The messages from the process that reads the history to the server: batches of jobs that are ready to be written.

Each message is its length (4 bytes, big-endian) and a :class:`Frame` in MessagePack.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from sidecar.journal.counts import Values
from sidecar.store import Row

HEADER = struct.Struct(">I")
LARGEST = 256 * 1024 * 1024
"""Maximum bytes of a message; a larger length means that the stream is corrupt."""


class StoredJob(msgspec.Struct, array_like=True, gc=False):
    """A job that has ended, and what is to be stored of it."""

    row: Row
    known: int
    """Number of its events that the store had before."""
    f58id: str
    events: list[tuple[int, bytes]]
    """Its other events, in rows: the number of events in each row, and their JSON array."""


class Frame(msgspec.Struct, array_like=True):
    """A part of the history, or its end."""

    read: int
    """Number of ended jobs that were read so far, also those that the store has."""
    jobs: list[msgspec.Raw] = []
    """Jobs to write, each a :class:`StoredJob`."""
    totals: list[tuple[str, tuple[str, ...], Values]] = []
    """Changes of the totals by these jobs: name of the metric, values of its labels, and the change."""
    faults: list[tuple[int, str, str]] = []
    """Parts of jobs that cannot be read: job, kind and detail."""
    failure: str = ""
    """Why the process ends before the history does."""
    complete: bool = False
    """Whether this is the end of the history."""


_encoder = msgspec.msgpack.Encoder()
_decode_frame = msgspec.msgpack.Decoder(Frame).decode
_decode_job = msgspec.msgpack.Decoder(StoredJob).decode


def encode(frame: Frame) -> bytes:
    """Return a frame with its header."""
    body = _encoder.encode(frame)
    return HEADER.pack(len(body)) + body


def encode_job(job: StoredJob) -> msgspec.Raw:
    """Encode one job of a frame.

    Raises:
        Exception: a value cannot be encoded.
    """
    return msgspec.Raw(_encoder.encode(job))


def decode(body: Any) -> Frame:
    """Return the frame in a message without its header.

    Raises:
        msgspec.DecodeError: it is not a frame.
    """
    return _decode_frame(body)


def decode_job(raw: msgspec.Raw) -> StoredJob:
    """Return a job of a frame."""
    return _decode_job(raw)
