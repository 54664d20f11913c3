"""The command line."""

from __future__ import annotations

import socket

import pytest
from cyclopts import CycloptsError

import sidecar
from sidecar import cli
from sidecar.app import command, failures
from tests.support.command_line import run_and_find_modules, run_command
from tests.support.harness import BIN


def usage_error(*arguments: str) -> str:
    """Return the error for a command line that cannot be parsed."""
    with pytest.raises(CycloptsError) as caught:
        cli.app.parse_args(["serve", *arguments], exit_on_error=False, print_error=False)
    return cli._usage_error(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("port", "7413.9", "expected a whole number; got '7413.9'"),
        ("port", "30.0", "expected a whole number; got '30.0'"),
        ("port", "1e3", "expected a whole number; got '1e3'"),
        ("port", "9" * 30, "expected a whole number of at most 18 digits"),
        ("max_body", "1.9", "expected a whole number of bytes, as in 1048576 for 1 MiB; got '1.9'"),
        ("max_body", "1M", "expected a whole number of bytes, as in 1048576 for 1 MiB; got '1M'"),
        ("max_in_flight", "64MiB", "expected a whole number of MiB, as in 64; got '64MiB'"),
        ("cores", "half", "expected a whole number; got 'half'"),
        ("rate_limit", "many", "expected a number below 10^12; got 'many'"),
        ("rate_limit", "nan", "expected a number below 10^12; got 'nan'"),
        ("kill_timeout", "999999d", "'999999d' is not a duration; use at most 3650d"),
        ("linger", "inf", "'inf' is not a duration; use at most 3650d"),
        ("embedded", "maybe", "expected true, yes or 1, or false, no or 0; got 'maybe'"),
    ],
)
def test_a_value_of_another_type_is_rejected(
    monkeypatch: pytest.MonkeyPatch, option: str, value: str, text: str
) -> None:
    """As a flag and as a variable: the error names it, and says what to write."""
    flag, variable = f"--{option.replace('_', '-')}", f"FLUX_SIDECAR_{option.upper()}"
    assert usage_error(f"{flag}={value}").startswith(f"Invalid value for {flag}: {text}")
    monkeypatch.setenv(variable, value)
    assert usage_error().startswith(f"Invalid value for {variable}: {text}")


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--allowed-hosts", "give it once, with its values separated by commas"),
        ("--launchers", "give it once, with its values separated by commas"),
        ("--option-flags", "give it once, as in --option-flags='-oKEY=VALUE -oKEY=VALUE'"),
        ("--port", "give it once"),
    ],
)
def test_a_repeated_option(flag: str, text: str) -> None:
    assert usage_error(f"{flag}=1", f"{flag}=2") == f"{flag} is given more than once: {text}."


def test_a_missing_module_is_named() -> None:
    assert "flux-sidecar[flux]" in failures.describe(ImportError("No module named 'flux'", name="flux.job"))
    assert "pip install '.[flux]' flux-python==" in failures.describe(
        ImportError("libflux-core.so.2: cannot open", name="_flux._core")
    )
    text = failures.describe(ImportError("No module named 'joserfc'", name="joserfc"))
    assert "joserfc" in text
    assert "libflux" not in text


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "https://{}:5000"), ("[::]", "https://{}:5000"), ("127.0.0.1", "")]
)
def test_the_announced_address_can_be_called(host: str, url: str) -> None:
    given = f"https://{host}:5000"
    assert command.callable_url(given) == (url.format(socket.gethostname()) or given)


def test_the_version() -> None:
    assert run_command("--version").stdout.strip() == sidecar.__version__
    assert (BIN / "flux-sidecar").exists()


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["serve", "--port", "many"], 2), (["serve", "--uri", "/x"], 2)]
)
def test_help_and_errors_do_not_load_the_server(arguments: list[str], code: int) -> None:
    """They answer in a fraction of the time that the server needs to start."""
    assert run_and_find_modules(arguments, "aiohttp", "sqlite3", "sidecar.app.server") == (code, [])
