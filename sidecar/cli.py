"""The command ``flux-sidecar``."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, Parameter

import sidecar
from sidecar import app as server
from sidecar import logs
from sidecar import openapi as documents
from sidecar.auth.tokens import append as append_line
from sidecar.auth.tokens import new as make_token
from sidecar.options import SettingsError, parse_list
from sidecar.settings import Settings
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
        logs.configure(settings)
        asyncio.run(server.serve(settings, functools.partial(_announce, settings)))
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


tokens = App(name="token", help="Bearer tokens for --tokens.")
app.command(tokens)


@tokens.command
def new(
    name: str,
    /,
    *,
    scopes: Annotated[str, Parameter(help="read, submit or admin; each implies those before it.")] = "submit",
    file: Annotated[Path | None, Parameter(help="Append its line to this file, and make the file if need be.")] = None,
) -> None:
    """Make a token for NAME, and print it: it is shown this once, the file holds its digest only."""
    try:
        token, line = make_token(name, parse_list(scopes))
    except ValueError as exc:
        _fail(f"token new: {exc}.")
    if file is None:
        print(f"# the line for the file of --tokens; the token itself follows on stdout\n{line}", file=sys.stderr)
    else:
        try:
            append_line(file, line)
        except OSError as exc:
            _fail(f"token new: {file}: {exc.strerror or exc}.")
    print(token)


@app.command
def openapi() -> None:
    """Print the OpenAPI document of this version; no instance is needed."""
    operations = server.Server(Settings(embedded=True), Path("/nonexistent")).operations
    print(json.dumps(documents.document(operations), indent=2, ensure_ascii=False))


def _announce(settings: Settings, urls: list[str]) -> None:
    """Tell a person at a terminal, or the log of a pod, where to go on."""
    url, curl = urls[0], "curl"
    if url.startswith("unix:"):
        curl, base = f"curl --unix-socket {url.removeprefix('unix://')}", "http://localhost"
    else:
        base = url
        if settings.authenticates:
            curl = 'curl -H "Authorization: Bearer $TOKEN"'
    print(
        f"\nflux-sidecar {sidecar.__version__} listens on {' and '.join(urls)} (docs: {base}/docs)\n\n"
        f"  {curl} -X POST {base}/v1/jobs/submit -d command='echo hello'\n"
        f"  {curl} {base}/v1/jobs\n"
        f"  {curl} -X POST {base}/v1/service/stop\n",
        flush=True,
    )


def _fail(text: str) -> NoReturn:
    print(f"flux-sidecar: {text}", file=sys.stderr)
    sys.exit(_USAGE_ERROR)


def main() -> None:
    """Run the command line."""
    app()
