"""The job store: every job that the instance told of, in SQLite, so that no read costs Flux anything."""

from sidecar.store.query import Filter, Search, Short
from sidecar.store.store import Row, Store, StoreError

__all__ = ["Filter", "Row", "Search", "Short", "Store", "StoreError"]
