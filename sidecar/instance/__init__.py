"""Where jobs run: a real Flux instance, or the embedded engine of one machine. Both speak one protocol."""

from sidecar.instance.base import Ending, HistoryBegin, Instance, Pieces, Sink, Status

__all__ = ["Ending", "HistoryBegin", "Instance", "Pieces", "Sink", "Status"]
