"""The job store: every job and event that the instance told of, in SQLite, so that no read costs Flux anything."""

from sidecar.domain.errors import StoreError
from sidecar.store.query import Filter, Search, plain
from sidecar.store.rows import LARGEST_CONTEXT, LoggedEvents, Page, Row, StoredEvent, merged
from sidecar.store.store import Store

__all__ = [
    "LARGEST_CONTEXT",
    "Filter",
    "LoggedEvents",
    "Page",
    "Row",
    "Search",
    "Store",
    "StoreError",
    "StoredEvent",
    "merged",
    "plain",
]
