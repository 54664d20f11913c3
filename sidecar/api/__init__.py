"""The HTTP contract: one class per resource, each with a few short handlers that raise typed errors."""
