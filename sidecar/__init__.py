"""flux-sidecar: a REST API beside a Flux broker."""

__version__ = "0.1.0"
