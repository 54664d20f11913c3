"""Flux's RFCs and the server's own types, as pure code: no I/O."""
