"""The process's environment: which parts jobs inherit, which are secret, and what it says about Kubernetes and Flux."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from sidecar.config import predecessor
from sidecar.config.early import PREFIX

_SECRET_VARIABLES = (
    "FLUX_TOKEN",
    "FLUX_SECRET_KEY",
    "FLUX_TOKEN_SIGNING_KEY",
    f"{PREFIX}LOGIN_PASSWORD",
    f"{PREFIX}LOGIN_SECRET",
)
_OTEL_HEADERS = re.compile("OTEL_EXPORTER_OTLP(_[A-Z]+)?_HEADERS")  # contain the credential of a collector
PRIVATE_VARIABLES = frozenset(
    {
        "FLUX_USER",
        "FLUX_TOKEN",
        "FLUX_SECRET_KEY",
        "FLUX_REQUIRE_AUTH",
        "FLUX_OPTION_FLAGS",
        "FLUX_SERVER_MODE",
        "FLUX_ACCESS_TOKEN_EXPIRES_MINUTES",
        "FLUX_NUMBER_NODES",
        "FLUX_HAS_GPUS",
        "HOST",
        "PORT",
    }
    | predecessor.PRIVATE
)
"""Settings of the server and its predecessor without our prefix; no job inherits them."""


def is_secret(name: str) -> bool:
    """Whether a variable contains a secret of the server."""
    return name in _SECRET_VARIABLES or bool(_OTEL_HEADERS.fullmatch(name))


def process_environment() -> dict[str, str]:
    """Return what a job inherits of this process's environment."""
    return job_environment(os.environ)


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``environ`` without the server's settings and secrets."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(PREFIX) and name not in PRIVATE_VARIABLES and not _OTEL_HEADERS.fullmatch(name)
    }


def in_flux_job() -> bool:
    """Whether this process is part of a Flux job, and so not an initial program."""
    return "FLUX_JOB_ID" in os.environ


def in_kubernetes() -> bool:
    """Whether this process runs in a pod."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def api_server(url: str) -> str:
    """Return the URL of the Kubernetes API server: ``url`` if it is set, else that of the cluster of this process."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if url or not host:
        return url or "https://kubernetes.default.svc"
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def service_names() -> frozenset[str]:
    """Return the Services of this pod's namespace, in the spelling that Kubernetes uses for names of variables."""
    suffix = "_SERVICE_HOST"
    return frozenset(name.removesuffix(suffix) for name in os.environ if name.endswith(suffix))


class TracingConfig(NamedTuple):
    """Settings of OpenTelemetry that its SDK does not read itself."""

    exporter: str
    names_service: bool
    """Whether the environment names the service."""


def tracing_config() -> TracingConfig | None:
    """Return the tracing settings of OpenTelemetry's variables; None if tracing is off."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    enabled = exporter or any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT"))
    if not enabled or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return TracingConfig(exporter or "otlp", named)
