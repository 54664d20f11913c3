"""The commands ``flux-sidecar token`` and ``flux-sidecar user``: edit the files of --tokens and --users."""

from __future__ import annotations

import contextlib
import getpass
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, Parameter

from sidecar.app.failures import USAGE_ERROR
from sidecar.config import values
from sidecar.runtime import log_writer, termination

_SCOPES = Parameter(help="read, submit or admin; each includes those before it.")
_LONGEST_LINE = 8192  # bytes; more than a password may have
_MISTYPED = "the two passwords are not the same; start again"

tokens = App(name="token", help="Bearer tokens for --tokens.")
users = App(name="user", help="Users with passwords for --users.")


@tokens.command
def new(
    name: str,
    /,
    *,
    scopes: Annotated[str, _SCOPES] = "submit",
    file: Annotated[
        Path | None, Parameter(help="Append the token's line to this file; it is created if it does not exist.")
    ] = None,
    expires: Annotated[
        str, Parameter(help="When the token ends: a duration from now, as in 30d, or a date, as in 2026-12-31 (UTC).")
    ] = "",
) -> None:
    """Create a token for NAME and print it. It cannot be shown again: the file contains only its digest."""
    from sidecar.auth.tokens import append_line, make_token

    with _errors("token new", file):
        token, line = make_token(name, values.parse_list(scopes), expires)
        if file is None:
            _note(f"# the line for the file of --tokens; the token itself follows on stdout\n{line}")
        elif earlier := append_line(file, line):
            _note(_earlier_tokens(name, earlier, file))
    print(token)


def _earlier_tokens(name: str, count: int, file: Path) -> str:
    """Return a note that the earlier tokens of a name stay valid."""
    if count == 1:
        return f"{name} already has 1 token in {file}, which stays valid; `flux-sidecar token revoke` ends it"
    return f"{name} already has {count} tokens in {file}, which stay valid; `flux-sidecar token revoke` ends them"


@tokens.command(name="list")
def list_tokens(*, file: Annotated[Path, Parameter(help="The file of --tokens.")]) -> None:
    """List the tokens of a file: name, scopes, expiry, and the first digits of the digest."""
    from sidecar.auth import expiry
    from sidecar.auth import tokens as token_file
    from sidecar.auth.caller import listed

    with _errors("token list", file):
        found, wrong = token_file.list_tokens(file)
    rows = [
        (
            token.caller.name,
            ",".join(listed(token.caller.scopes)),
            expiry.show_expiry(token.caller.expires),
            token.short_digest,
        )
        for token in found
    ]
    _print_table(("NAME", "SCOPES", "EXPIRES", "DIGEST"), rows, wrong)


@tokens.command
def revoke(
    what: Annotated[str, Parameter(name="NAME|DIGEST")],
    /,
    *,
    file: Annotated[Path, Parameter(help="The file of --tokens.")],
) -> None:
    """Remove the token with this name, or with a digest that begins with these digits (at least eight)."""
    from sidecar.auth import tokens as token_file

    with _errors("token revoke", file):
        token = token_file.revoke(file, what)
    print(f"revoked: {token.caller.name} {token.short_digest}")


@users.command
def add(
    name: str,
    /,
    *,
    file: Annotated[Path, Parameter(help="The file of --users; it is created if it does not exist.")],
    scopes: Annotated[
        str | None,
        Parameter(help="read, submit or admin; each includes those before it. [default: submit, or as before]"),
    ] = None,
    password_stdin: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Read the password from standard input, also if that is a terminal."
        ),
    ] = False,
    replace: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Change the password of a user that exists.")
    ] = False,
) -> None:
    """Add the user NAME with a password, which is read twice from a terminal, or as one line from standard input."""
    from sidecar.auth import passwords
    from sidecar.auth import users as user_file

    with _errors("user add", file):
        chosen = None if scopes is None else values.parse_list(scopes)
        user_file.check_user(name, ("submit",) if chosen is None else chosen)
        if not replace and user_file.exists(file, name):  # before the password is typed
            raise user_file.name_taken(file, name)
        password = passwords.make_hash(_read_password(from_stdin=password_stdin))
        user_file.put(file, name, chosen, password, replace=replace)


@users.command(name="list")
def list_users(*, file: Annotated[Path, Parameter(help="The file of --users.")]) -> None:
    """List the users of a file: name and scopes."""
    from sidecar.auth import users as user_file
    from sidecar.auth.caller import listed

    with _errors("user list", file):
        found, wrong = user_file.list_users(file)
    _print_table(("NAME", "SCOPES"), [(user.name, ",".join(listed(user.scopes))) for user in found], wrong)


@users.command
def remove(name: str, /, *, file: Annotated[Path, Parameter(help="The file of --users.")]) -> None:
    """Remove the user NAME."""
    from sidecar.auth import users as user_file

    with _errors("user remove", file):
        user_file.remove(file, name)


def _read_password(*, from_stdin: bool) -> str:
    """Return the password that is typed twice, or the first line of standard input.

    Raises:
        ValueError: the two are not the same, or the line is not text.
    """
    if from_stdin or not sys.stdin.isatty():
        line = sys.stdin.buffer.readline(_LONGEST_LINE)
        try:
            return line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise ValueError("the password is not UTF-8 text") from None
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise ValueError(_MISTYPED)
    return password


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]], wrong: Sequence[str]) -> None:
    """Print rows in columns, and the errors of malformed lines to standard error."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for text in wrong:
        _note(text)


@contextlib.contextmanager
def _errors(command: str, file: Path | None) -> Iterator[None]:
    """End the process with an error for arguments that are not valid, and for a file that cannot be edited."""
    try:
        yield
    except (ValueError, LookupError) as exc:
        _fail(f"{command}: {exc.args[0]}.")
    except OSError as exc:
        _fail(f"{command}: {file}: {getattr(exc, 'why', '') or exc.strerror or exc}.")
    except (EOFError, KeyboardInterrupt):
        _fail(f"{command}: no password was typed.")


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _fail(text: str) -> NoReturn:
    log_writer.STDERR.write(f"flux-sidecar: {text}")
    termination.exit_process(USAGE_ERROR)
