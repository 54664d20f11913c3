"""Where jobs run: a real Flux instance, or the embedded engine of one machine. Both implement one protocol."""

from sidecar.instance.base import Ending, Instance, OutputChunks, Sink, Status

__all__ = ["Ending", "Instance", "OutputChunks", "Sink", "Status"]
