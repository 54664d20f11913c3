"""The cache of documents: its limits."""

from __future__ import annotations

import pytest

from sidecar.store import documents
from sidecar.store.documents import Document, DocumentCache


def test_discarded_documents_free_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that changes often must not clear the cache of the others."""
    monkeypatch.setattr(documents, "_MAX_BYTES", 100)
    cache = DocumentCache()
    cache.put(1, Document(None, b"x" * 10))
    for _ in range(20):
        cache.put(2, Document(None, b"x" * 10))
        cache.discard(2)
    assert cache.get(1)
    for _ in range(20):
        cache.put(3, Document(None, b"x" * 10))  # two reads may add the same document
    assert cache.get(1)


def test_a_full_cache_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_MAX_BYTES", 100)
    cache = DocumentCache()
    for jobid in range(11):
        cache.put(jobid, Document(None, b"x" * 10))
    assert [jobid for jobid in range(11) if cache.get(jobid)] == [10]
    cache.put(11, Document(None, b"x" * 101))
    assert cache.get(11) is None
