"""Pages that were sent at one revision of the store: who polls a list that does not change costs little."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

_SIZE = 8 * 1024 * 1024
_LONGEST_KEY = 512  # characters of what is asked for; beside it a page has some hundred bytes of headers


class Page(NamedTuple):
    """A body, and the headers that go with it."""

    body: bytes
    headers: Mapping[str, str]


class ResponseCache:
    """Keeps pages until something is written to the store, and no more than some megabytes of them."""

    def __init__(self) -> None:
        self._revision = -1
        self._pages: dict[Hashable, Page] = {}
        self._size = 0

    def get(self, revision: int, key: Hashable) -> Page | None:
        """Return the page of this revision, if it is kept."""
        if revision != self._revision:
            self._revision, self._size = revision, 0
            self._pages.clear()
        return self._pages.get(key)

    def put(self, revision: int, key: Hashable, body: bytes, headers: Mapping[str, str]) -> None:
        """Keep a page that was read at a revision, unless that is past by now."""
        size = len(body) + 2 * _LONGEST_KEY
        if revision == self._revision and self._size + size <= _SIZE and len(repr(key)) <= _LONGEST_KEY:
            self._size += size
            self._pages[key] = Page(body, dict(headers))  # what is added to one answer belongs to no other
