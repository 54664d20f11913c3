"""All jobs and events of the instance in SQLite, so that a read of jobs sends no RPC to Flux."""

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
