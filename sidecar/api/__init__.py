"""The HTTP contract: one class a resource, each a few short handlers that raise typed errors."""
