"""The command line of ``flux-sidecar``."""

from __future__ import annotations

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
from sidecar.config import table, values
from sidecar.config.early import early_option
from sidecar.config.embedded import EmbeddedOptions
from sidecar.config.environment import in_kubernetes
from sidecar.config.settings import Settings
from sidecar.http import openapi as openapi_document
from sidecar.runtime import log_writer, parts, termination
from sidecar.services.lifecycle import ServerFailed
from sidecar.store import StoreError
from sidecar.telemetry import logs

log = structlog.get_logger("server")

_ALL = ("0.0.0.0", "[::]")  # noqa: S104 - compared, not listened on
_BINDINGS = frozenset({"flux", "_flux", "cffi", "_cffi_backend", "ply", "yaml"})
_EXAMPLES = """Examples:

    flux start flux-sidecar serve
    flux-sidecar serve --embedded --port 8080
    flux-sidecar serve --uri local:///run/flux/local --store /data/jobs.sqlite
    flux-sidecar serve --host 0.0.0.0 --tokens tokens.txt"""
_warnings: list[str] = []  # about the environment, until the log is configured


def _usage_error(error: CycloptsError) -> str:
    """Return what is wrong with a command line, and how to correct it."""
    if isinstance(error, CoercionError) and error.target_type is bool and error.token:
        return f"Invalid value for {error.token.keyword}: {values.not_yes_or_no(error.token.value)}."
    if isinstance(error, RepeatArgumentError):
        return _repeated(error.token.keyword or "")
    if not isinstance(error, UnusedCliTokensError) or not error.unused_tokens:
        text = str(error)
        return text if text.endswith((".", "?")) else f"{text}."
    word = error.unused_tokens[0]
    known = word.replace("-", "_") in table.all_options()
    hint = f'Did you mean "--{word}"?' if known else "Options begin with --; see --help."
    return f'Unexpected argument "{word}". {hint}'


def _repeated(flag: str) -> str:
    """Return the error for an option that is given more than once."""
    name = flag.removeprefix("--").replace("-", "_")
    if name in table.LISTS:
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


@app.command(help_epilogue=_EXAMPLES)
def serve(settings: Annotated[Settings, Parameter(name="*")] = Settings()) -> None:  # noqa: B008 - frozen
    """Serve a Flux instance until it is stopped.

    As initial program of an instance (`flux start flux-sidecar serve`) it needs no option. Each option can also be
    set by a variable: FLUX_SIDECAR_PORT for --port.
    """
    settings = settings.located()
    try:
        settings.check()
        logs.configure(settings.telemetry)
        logs.take_over()
        _log_environment(settings)
        parts.run(server.serve(settings, functools.partial(_announce, settings)))
    except ServerFailed as exc:
        _fail(f"The server has ended with a failure: {exc}.", server.SOFTWARE_ERROR)
    except (values.SettingsError, StoreError, ImportError, OSError) as exc:
        text = _start_failure(exc)
        parts.run(server.report_failure(settings, text))
        _fail(text)
    termination.exit_process(0)


def _log_environment(settings: Settings) -> None:
    """Log warnings about the environment, and options with values from variables of other programs."""
    for text in settings.listen.notes:
        log.info(text)
    for text in _warnings:
        log.warning(text)
    _warnings.clear()


def _start_failure(exc: Exception) -> str:
    """Return why the server has not started."""
    if isinstance(exc, ImportError):
        return _unloadable(exc)
    if isinstance(exc, OSError):
        where = f"{exc.filename}: " if exc.filename else ""
        return f"The server cannot start: {where}{exc.strerror or exc}."
    return "\n".join([str(exc), *_warnings])


def _unloadable(exc: ImportError) -> str:
    """Return what to install for a module that cannot be loaded."""
    if (exc.name or "").partition(".")[0] in _BINDINGS:
        return (
            f"The Flux bindings cannot be loaded: {exc}.\n"
            "They need libflux-core where the loader finds it, and the extra flux-sidecar[flux] of its version. In the "
            "source tree: pip install '.[flux]' flux-python==VERSION (`flux version` shows libflux-core's)."
        )
    return f"A module cannot be loaded: {exc}. Install flux-sidecar again, into an environment of its own."


tokens = App(name="token", help="Bearer tokens for --tokens.")
app.command(tokens)


@tokens.command
def new(
    name: str,
    /,
    *,
    scopes: Annotated[str, Parameter(help="read, submit or admin; each includes those before it.")] = "submit",
    file: Annotated[
        Path | None, Parameter(help="Append the token's line to this file; it is created if it does not exist.")
    ] = None,
) -> None:
    """Create a token for NAME and print it. It cannot be shown again: the file contains only its digest."""
    try:
        token, line = make_token(name, values.parse_list(scopes))
    except ValueError as exc:
        _fail(f"token new: {exc}.")
    if file is None:
        print(f"# the line for the file of --tokens; the token itself follows on stdout\n{line}", file=sys.stderr)
    else:
        try:
            earlier = append_line(file, line)
        except OSError as exc:
            _fail(f"token new: {file}: {exc.strerror or exc}.")
        if earlier:
            print(_earlier_tokens(name, earlier, file), file=sys.stderr)
    print(token)


def _earlier_tokens(name: str, count: int, file: Path) -> str:
    """Return a note that the earlier tokens of a name stay valid."""
    if count == 1:
        return f"{name} already has 1 token in {file}, which stays valid; delete its line to revoke it"
    return f"{name} already has {count} tokens in {file}, which stay valid; delete their lines to revoke them"


@app.command
def openapi() -> None:
    """Print the OpenAPI document of this version. It needs no instance."""
    settings = Settings(engine=EmbeddedOptions(embedded=True))
    operations = server.Server(settings, Path("/nonexistent")).operations
    print(json.dumps(openapi_document.document(operations), indent=2, ensure_ascii=False))


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


def _fail(text: str, code: int = server.USAGE_ERROR) -> NoReturn:
    if _serves() and _as_json():
        log_writer.STDERR.write(logs.line("error", "the server has not started or has failed", reason=text, code=code))
    else:
        log_writer.STDERR.write(f"flux-sidecar: {text}")
    if _serves():
        termination.write_termination_message(f"flux-sidecar: {text}")
    termination.exit_process(code)


def _serves() -> bool:
    return sys.argv[1:2] == ["serve"]


def _as_json() -> bool:
    return early_option(sys.argv[1:], "log_format") == "json"


def main() -> None:
    """Run the command line."""
    if _serves():
        _warnings.extend(table.clean_environment(sys.argv[2:]))
    if not (_serves() and (in_kubernetes() or _as_json())):
        app()
        return
    try:  # without a terminal, report an error of the command line as every other failure
        app(exit_on_error=False, print_error=False)
    except CycloptsError as exc:
        _fail(_usage_error(exc), server.USAGE_ERROR)
