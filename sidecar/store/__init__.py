"""The job store: every job and event that the instance told of, in SQLite, so that no read costs Flux anything."""

from sidecar.store.query import Filter, Search
from sidecar.store.reader import Store
from sidecar.store.rows import Page, Row, Stored, Told
from sidecar.store.schema import StoreError

__all__ = ["Filter", "Page", "Row", "Search", "Store", "StoreError", "Stored", "Told"]
