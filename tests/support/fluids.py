"""Text forms of jobids that the server reads but never writes."""

from __future__ import annotations

import mnemonicode


def words(jobid: int) -> str:
    """Return a jobid as words, ``academy-...--...``: its eight bytes, least significant first, in mnemonicode."""
    return str(mnemonicode.mnformat(jobid.to_bytes(8, "little")))
