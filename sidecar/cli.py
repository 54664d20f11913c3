"""The command ``flux-sidecar``."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import structlog
from cyclopts import App, Parameter

import sidecar
from sidecar import app as server
from sidecar import openapi as documents
from sidecar.settings import Settings, SettingsError
from sidecar.store import StoreError

_USAGE_ERROR = 2

app = App(
    name="flux-sidecar",
    help="A REST API beside a Flux broker: submit, list, read and cancel jobs, and end the instance with exit code 0.",
    version=sidecar.__version__,
)


@app.command
def serve(settings: Annotated[Settings, Parameter(name="*")] = Settings()) -> None:  # noqa: B008 - frozen
    """Serve a Flux instance until it is stopped.

    As initial program of an instance (`flux start flux-sidecar serve`) it needs no option.
    """
    try:
        settings.check()
        _log(settings)
        asyncio.run(server.serve(settings, _announce))
    except SettingsError as exc:
        _fail(str(exc))
    except StoreError as exc:
        _fail(str(exc))
    except ImportError as exc:
        _fail(
            f"The Flux bindings cannot be loaded: {exc}.\n"
            "They need libflux-core where the loader finds it, and: pip install 'flux-sidecar[flux]'"
        )
    except OSError as exc:
        _fail(f"Cannot listen on {settings.host} port {settings.port}: {exc.strerror or exc}. Choose another --port.")


@app.command
def openapi() -> None:
    """Print the OpenAPI document of this version; no instance is needed."""
    operations = server.Server(Settings(embedded=True), Path("/nonexistent")).operations
    print(json.dumps(documents.document(operations), indent=2, ensure_ascii=False))


def _announce(url: str) -> None:
    """Tell a person at a terminal, or the log of a pod, where to go on."""
    print(
        f"\nflux-sidecar {sidecar.__version__} listens on {url} (docs: {url}/docs)\n\n"
        f"  curl -X POST {url}/v1/jobs/submit -d command='echo hello'\n"
        f"  curl {url}/v1/jobs\n"
        f"  curl -X POST {url}/v1/service/stop\n",
        flush=True,
    )


def _log(settings: Settings) -> None:
    renderer = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=_named_logger,
        cache_logger_on_first_use=True,
    )


def _named_logger(*names: str) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)


def _fail(text: str) -> None:
    print(f"flux-sidecar: {text}", file=sys.stderr)
    sys.exit(_USAGE_ERROR)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
