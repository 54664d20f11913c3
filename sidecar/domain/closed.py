"""The end of a stream of events."""

from __future__ import annotations


class Closed(Exception):
    """There are no more events; ``reason`` is a word for programs, ``detail`` a text for users."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
