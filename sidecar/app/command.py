"""Run the server as a command: with its log, its announcement at the start, and the reason if it fails."""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

import sidecar
from sidecar.app.failures import SOFTWARE_ERROR, Failed
from sidecar.app.run import report_failure, serve
from sidecar.app.server import Server
from sidecar.config.embedded import EmbeddedOptions
from sidecar.config.settings import Settings
from sidecar.http import openapi
from sidecar.runtime import log_writer, parts
from sidecar.services.lifecycle import ServerFailed
from sidecar.store import StoreError
from sidecar.telemetry import logs

log = structlog.get_logger("server")

_ALL = ("0.0.0.0", "[::]")  # noqa: S104 - compared, not listened on


def run(settings: Settings, warnings: Sequence[str]) -> None:
    """Run the server until it is stopped.

    Args:
        settings: checked options.
        warnings: about the environment, to be logged at the start.

    Raises:
        Failed: the store cannot be used, or the server has failed.
        SettingsError, ImportError, OSError: the server cannot start.
    """
    logs.configure(settings.telemetry)
    logs.take_over()
    for text in settings.notes:
        log.info(text)
    for text in warnings:
        log.warning(text)
    try:
        parts.run(serve(settings, functools.partial(_announce, settings)))
    except ServerFailed as exc:
        raise Failed(f"The server has ended with a failure: {exc}.", SOFTWARE_ERROR) from exc
    except StoreError as exc:
        raise Failed(str(exc)) from exc


def report(settings: Settings, text: str) -> None:
    """Record a Kubernetes Event that says why the server did not start."""
    parts.run(report_failure(settings, text))


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of this version."""
    settings = Settings(engine=EmbeddedOptions(embedded=True))
    return openapi.document(Server(settings, Path("/nonexistent")).operations)


def _announce(settings: Settings, urls: list[str]) -> None:
    """Print the first commands for a user at a terminal, or log the addresses."""
    url, curl = urls[0], "curl"
    if url.startswith("unix:"):
        curl, base = f"curl --unix-socket {url.removeprefix('unix://')}", "http://localhost"
    else:
        base = callable_url(url)
        if settings.authenticates:
            curl = 'curl -H "Authorization: Bearer $TOKEN"'
    text = f"flux-sidecar {sidecar.__version__} listens on {' and '.join(urls)} (docs: {base}/docs)"
    if settings.telemetry.log_format == "json":
        log.info(text, version=sidecar.__version__, urls=urls, docs=f"{base}/docs")
        return
    log_writer.writer_to(sys.stdout).write(
        f"\n{text}\n\n"
        f"  {curl} -X POST {base}/v1/jobs/submit -d command='echo hello'\n"
        f"  {curl} {base}/v1/jobs\n"
        f"  {curl} -X POST {base}/v1/service/stop\n"
    )


def callable_url(url: str) -> str:
    """Return a URL that other machines can use for a server that listens on all of its addresses."""
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    return f"{scheme}://{socket.gethostname()}:{port}" if host in _ALL else url
