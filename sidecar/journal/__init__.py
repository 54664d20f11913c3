"""The events journal, folded into the store, and the waiters for what it brings."""
