"""flux-sidecar: a REST API beside a Flux broker."""

DISTRIBUTION = "flux-sidecar"
"""Distinguishes this package from another one of the same name on PyPI."""

__version__ = "0.1.0"
