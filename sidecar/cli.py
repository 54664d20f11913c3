"""The command line of ``flux-sidecar``."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from typing import Annotated, NoReturn

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
from sidecar.app import accounts, failures
from sidecar.config import table, values
from sidecar.config.early import early_option
from sidecar.config.environment import in_kubernetes
from sidecar.config.settings import Settings
from sidecar.runtime import log_writer, termination

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
        gc.disable()  # what modules create stays: to look for garbage in it takes a tenth of the start
        from sidecar.app import command  # it imports the whole server, which a wrong option does not need

        gc.enable()
        warnings = _warnings.copy()
        _warnings.clear()
        command.run(settings, warnings)
    except (failures.Failed, values.SettingsError, ImportError, OSError) as exc:
        code = exc.code if isinstance(exc, failures.Failed) else failures.USAGE_ERROR
        text = _failure(exc)
        if code == failures.USAGE_ERROR and not settings.kubernetes.no_cluster:
            _report(settings, text)
        _fail(text, code)
    termination.exit_process(0)


def _failure(exc: Exception) -> str:
    """Return why the server has not started, with warnings that were not logged: one may be the cause."""
    return "\n".join([failures.describe(exc), *(_warnings if isinstance(exc, values.SettingsError) else ())])


app.command(accounts.tokens)
app.command(accounts.users)


@app.command
def openapi() -> None:
    """Print the OpenAPI document of this version. It needs no instance."""
    from sidecar.app import command

    print(json.dumps(command.openapi_document(), indent=2, ensure_ascii=False))


def _report(settings: Settings, text: str) -> None:
    """Record a failed start in the cluster, if all modules can be loaded."""
    with contextlib.suppress(ImportError):
        from sidecar.app import command

        command.report(settings, text)


def _fail(text: str, code: int = failures.USAGE_ERROR) -> NoReturn:
    if _serves() and _as_json():
        from sidecar.telemetry import logs

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
        _fail(_usage_error(exc), failures.USAGE_ERROR)
