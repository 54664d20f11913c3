"""Cache responses until the store changes: clients that poll an unchanged list cost little."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

_MAX_SIZE = 8 * 1024 * 1024  # bytes
_MAX_KEY = 512  # characters


class CachedResponse(NamedTuple):
    """A body and its headers."""

    body: bytes
    headers: Mapping[str, str]


class ResponseCache:
    """Caches responses of one revision of the store, up to some megabytes."""

    def __init__(self) -> None:
        self._revision = -1
        self._responses: dict[Hashable, CachedResponse] = {}
        self._size = 0

    def get(self, revision: int, key: Hashable) -> CachedResponse | None:
        """Return the response of this revision, if it is cached."""
        if revision != self._revision:
            self._revision, self._size = revision, 0
            self._responses.clear()
        return self._responses.get(key)

    def put(self, revision: int, key: Hashable, body: bytes, headers: Mapping[str, str]) -> None:
        """Cache a response that was read at a revision, unless the revision is outdated by now."""
        size = len(body) + 2 * _MAX_KEY  # with its key, and some hundred bytes of headers
        if revision == self._revision and self._size + size <= _MAX_SIZE and len(repr(key)) <= _MAX_KEY:
            self._size += size
            self._responses[key] = CachedResponse(body, dict(headers))  # a copy: headers are added per response
