"""Fold the job manager's events journal into the store, and wake the requests that wait for it."""
