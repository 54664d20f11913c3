"""The job store: every job and event that the instance told of, in SQLite, so that no read costs Flux anything."""

from sidecar.store.query import Filter, Search, plain
from sidecar.store.rows import LARGEST_CONTEXT, Page, Row, Stored, Told, together
from sidecar.store.schema import StoreError
from sidecar.store.store import Store

__all__ = [
    "LARGEST_CONTEXT",
    "Filter",
    "Page",
    "Row",
    "Search",
    "Store",
    "StoreError",
    "Stored",
    "Told",
    "plain",
    "together",
]
