"""The encoding of JSON in the store's cells: compressed, or an eventlog entry as a number and a time.

A cell whose first byte is a format's number has that format; any other cell is JSON as it is, as in files of earlier
versions. Zstandard with a dictionary, because a job is small: without one it would shrink by a third only. Its frame
has no magic number here, which saves four bytes of some thirty, and may have a checksum.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import zstandard

from sidecar.store import dictionary

_FIRST, _ENTRIES, _SECOND = b"\x01", b"\x02", b"\x03"  # frames with dictionary 1, entries, frames with dictionary 2
_FRAMES = (_FIRST, _SECOND)
_LONG = b"\x80"  # the descriptor of a frame (RFC 8878, 3.1.1.1.1) is below it if its size has two bytes at most
_MAGIC = zstandard.FRAME_HEADER
_LEVEL = 3
_LARGEST = 64 * 1024 * 1024  # bytes of a cell; a damaged header could claim any size
_HEAD = b'{"timestamp":'
_TIME = len(b"[" + _HEAD)  # where the time begins in an array
_ENTRY = struct.Struct(">Bd")
_NUMBERS = {tail: number for number, tail in enumerate(dictionary.TAILS)}


class Damaged(ValueError):
    """A cell cannot be decoded."""


class _Codecs(threading.local):
    """Compressors and decompressors of a thread: they work without the GIL."""

    def __init__(self) -> None:
        text = zstandard.ZstdCompressionDict(dictionary.FIRST, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        trained = zstandard.ZstdCompressionDict(dictionary.SECOND, dict_type=zstandard.DICT_TYPE_FULLDICT)
        self.checked = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=trained, write_checksum=True, write_dict_id=False
        ).compress
        self.unchecked = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=trained, write_checksum=False, write_dict_id=False
        ).compress
        self.first = zstandard.ZstdDecompressor(dict_data=text).decompress
        self.second = zstandard.ZstdDecompressor(dict_data=trained).decompress


_codecs = _Codecs()


def packed(json: bytes) -> bytes:
    """Compress JSON, with a checksum; return it unchanged, without one, if that is not smaller."""
    return _smaller(_codecs.checked(json), json)


def unpacked(cell: bytes) -> bytes:
    """Return the JSON of a cell of any format.

    Raises:
        Damaged: it cannot be decoded. JSON that is not packed is not checked.
    """
    first = cell[:1]
    if first in _FRAMES:
        frame = _MAGIC + cell[1:]
        try:
            if cell[1:2] >= _LONG and zstandard.frame_content_size(frame) > _LARGEST:
                raise Damaged("its size is not valid")
            return _codecs.second(frame) if first == _SECOND else _codecs.first(frame)
        except zstandard.ZstdError as exc:
            raise Damaged(str(exc)) from None
    return _read_entries(cell) if first == _ENTRIES else cell


def member(cell: bytes | None, name: str) -> Any:
    """Return a member of the JSON object in a cell, for SQL; None if it is missing, not a scalar, or damaged.

    Args:
        cell: the cell.
        name: of the member; of a nested one ``outer.inner``.
    """
    try:
        found = msgspec.json.decode(unpacked(cell or b""))
        for part in name.split("."):
            found = found[part]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return found if isinstance(found, str | float) or (isinstance(found, int) and abs(found) < 2**63) else None


def is_checked(cell: bytes) -> bool:
    """Whether a cell that can be decoded has the bytes that were written."""
    return cell[:1] in _FRAMES


def packed_entries(rows: Iterable[bytes]) -> bytes:
    """Compress eventlog entries: JSON arrays, one after the other, as a single one."""
    rows = list(rows)
    records = [record for row in rows if (record := _record(row)) is not None]
    if len(records) == len(rows):
        return _ENTRIES + b"".join(records)
    json = rows[0] if len(rows) == 1 else b"[%b]" % b",".join(row[1:-1] for row in rows)
    return _smaller(_codecs.unchecked(json), json)


def _record(row: bytes) -> bytes | None:
    """Return the record of an array of one common entry; None for any other."""
    comma = row.find(b",", _TIME)
    number = _NUMBERS.get(row[comma:-1])
    if number is None:
        return None
    text = row[_TIME:comma]
    try:
        time = float(text)
    except ValueError:
        return None
    return _ENTRY.pack(number, time) if repr(time).encode() == text else None  # another notation would not come back


def _entries(records: bytes) -> Iterator[bytes]:
    for number, time in _ENTRY.iter_unpack(records):
        yield b"%b%b%b" % (_HEAD, repr(time).encode(), dictionary.TAILS[number])


def _read_entries(cell: bytes) -> bytes:
    try:
        return b"[%b]" % b",".join(_entries(cell[1:]))
    except (struct.error, IndexError):
        raise Damaged("its entries are not valid") from None


def _smaller(frame: bytes, json: bytes) -> bytes:
    cell = _SECOND + frame[len(_MAGIC) :]
    return cell if len(cell) < len(json) else json
