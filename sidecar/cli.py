"""The command ``flux-sidecar``."""

from __future__ import annotations

import dataclasses
import functools
import json
import socket
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    CycloptsPanel,
    Parameter,
    RepeatArgumentError,
    UnusedCliTokensError,
)

import sidecar
from sidecar import app as server
from sidecar.auth.tokens import append_line, make_token
from sidecar.config import values
from sidecar.config.groups import LISTS
from sidecar.config.options import SettingsError, early_option, in_kubernetes, parse_list
from sidecar.config.settings import Settings, heed_environment
from sidecar.http import openapi as documents
from sidecar.runtime import exit as leaving
from sidecar.runtime import log_writer, parts
from sidecar.services.lifecycle import ServerFailed
from sidecar.store import StoreError
from sidecar.telemetry import logs

log = structlog.get_logger("server")

_ALL = ("0.0.0.0", "[::]")  # noqa: S104 - not listened on here
_noticed: list[str] = []  # in the environment, before there is a log
_BINDINGS = frozenset({"flux", "_flux", "cffi", "_cffi_backend", "ply", "yaml"})


def _usage_error(error: CycloptsError) -> str:
    """Return what is wrong with a command line, and what to write instead."""
    if isinstance(error, CoercionError) and error.target_type is bool and error.token:
        return f"Invalid value for {error.token.keyword}: {values.not_yes_or_no(error.token.value)}."
    if isinstance(error, RepeatArgumentError):
        return _repeated(error.token.keyword or "")
    if not isinstance(error, UnusedCliTokensError) or not error.unused_tokens:
        text = str(error)
        return text if text.endswith((".", "?")) else f"{text}."
    word = error.unused_tokens[0]
    known = {field.name.replace("_", "-") for field in dataclasses.fields(Settings)}
    hint = f'Did you mean "--{word}"?' if word in known else "Options begin with --; see --help."
    return f'Unexpected argument "{word}". {hint}'


def _repeated(flag: str) -> str:
    """Say how an option is given that was given more than once."""
    name = flag.removeprefix("--").replace("-", "_")
    if name in LISTS:
        return f"{flag} is given more than once: give it once, with its values separated by commas."
    if name == "option_flags":
        return f"{flag} is given more than once: give it once, as in {flag}='-oKEY=VALUE -oKEY=VALUE'."
    return f"{flag} is given more than once: give it once."


app = App(
    name="flux-sidecar",
    help="A REST API beside a Flux broker: submit, list, read and cancel jobs, and end the instance with exit code 0.",
    version=sidecar.__version__,
    error_formatter=lambda error: CycloptsPanel(_usage_error(error)),
)


@app.command
def serve(settings: Annotated[Settings, Parameter(name="*")] = Settings()) -> None:  # noqa: B008 - frozen
    """Serve a Flux instance until it is stopped.

    As initial program of an instance (`flux start flux-sidecar serve`) it needs no option. Each option can also be
    given as a variable: FLUX_SIDECAR_PORT for --port.
    """
    settings = settings.located()
    try:
        settings.check()
        logs.configure(settings)
        logs.take_over()
        _say(settings)
        parts.run(server.serve(settings, functools.partial(_announce, settings)))
    except ServerFailed as exc:
        _fail(f"The server has ended with a failure: {exc}.", server.SOFTWARE_ERROR)
    except (SettingsError, StoreError, ImportError, OSError) as exc:
        text = _start_failure(exc)
        parts.run(server.report_failure(settings, text))
        _fail(text)
    leaving.end(0)


def _say(settings: Settings) -> None:
    """Log what was noticed in the environment, and where values come from that others set too."""
    for text in settings.borrowed:
        log.info(text)
    for text in _noticed:
        log.warning(text)
    _noticed.clear()


def _start_failure(exc: Exception) -> str:
    """Say why the server has not started."""
    if isinstance(exc, ImportError):
        return _unloadable(exc)
    if isinstance(exc, OSError):
        where = f"{exc.filename}: " if exc.filename else ""
        return f"The server cannot start: {where}{exc.strerror or exc}."
    return "\n".join([str(exc), *_noticed])


def _unloadable(exc: ImportError) -> str:
    """Say what to install for a module that cannot be loaded."""
    if (exc.name or "").partition(".")[0] in _BINDINGS:
        return (
            f"The Flux bindings cannot be loaded: {exc}.\n"
            "They need libflux-core where the loader finds it, and the extra flux-sidecar[flux] of its version. In the "
            "source tree: pip install '.[flux]' flux-python==VERSION (`flux version` shows libflux-core's)."
        )
    return f"A module cannot be loaded: {exc}. Install flux-sidecar anew, into an environment of its own."


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
            before = append_line(file, line)
        except OSError as exc:
            _fail(f"token new: {file}: {exc.strerror or exc}.")
        if before:
            print(_note_earlier(name, before, file), file=sys.stderr)
    print(token)


def _note_earlier(name: str, before: int, file: Path) -> str:
    """Say that a name has other tokens: a new one replaces none."""
    if before == 1:
        return f"{name} already has 1 token in {file}, which stays valid; delete its line to revoke it"
    return f"{name} already has {before} tokens in {file}, which stay valid; delete their lines to revoke them"


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
        base = callable_url(url)
        if settings.authenticates:
            curl = 'curl -H "Authorization: Bearer $TOKEN"'
    if settings.log_format == "json":
        text = f"flux-sidecar {sidecar.__version__} listens on {' and '.join(urls)} (docs: {base}/docs)"
        log.info(text, version=sidecar.__version__, urls=urls, docs=f"{base}/docs")
        return
    log_writer.to(sys.stdout).write(
        f"\nflux-sidecar {sidecar.__version__} listens on {' and '.join(urls)} (docs: {base}/docs)\n\n"
        f"  {curl} -X POST {base}/v1/jobs/submit -d command='echo hello'\n"
        f"  {curl} {base}/v1/jobs\n"
        f"  {curl} -X POST {base}/v1/service/stop\n"
    )


def callable_url(url: str) -> str:
    """Return an address by which others can call a server that listens on all of its addresses."""
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    return f"{scheme}://{socket.gethostname()}:{port}" if host in _ALL else url


def _fail(text: str, code: int = server.USAGE_ERROR) -> NoReturn:
    if _serves() and _as_json():
        log_writer.STDERR.write(logs.line("error", "the server has not started or has failed", reason=text, code=code))
    else:
        log_writer.STDERR.write(f"flux-sidecar: {text}")
    if _serves():
        leaving.note_failure(f"flux-sidecar: {text}")
    leaving.end(code)


def _serves() -> bool:
    return sys.argv[1:2] == ["serve"]


def _as_json() -> bool:
    return early_option(sys.argv[1:], "log_format") == "json"


def main() -> None:
    """Run the command line."""
    if _serves():
        _noticed.extend(heed_environment(sys.argv[2:]))
    if not (_serves() and (in_kubernetes() or _as_json())):
        app()
        return
    try:  # where nothing reads a terminal, what is wrong with an option has to be where other failures are
        app(exit_on_error=False, print_error=False)
    except CycloptsError as exc:
        _fail(_usage_error(exc), server.USAGE_ERROR)
