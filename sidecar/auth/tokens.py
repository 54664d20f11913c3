"""Bearer tokens from a file that contains their digests only, one ``name:scopes:sha256`` a line.

A token has 256 random bits and cannot be guessed, so a plain SHA-256 is as safe as a slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import structlog

from sidecar.auth.caller import SCOPES, Caller, Credential, Scope, implied
from sidecar.config.values import SettingsError
from sidecar.runtime import files

log = structlog.get_logger("auth")

PREFIX = "fxs_"  # lets secret scanners recognize a token in a repository
_MAKE = "flux-sidecar token new NAME --file FILE"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 5  # malformed lines that are reported one by one; of the rest only the number is


class _Entry(NamedTuple):
    digest: str
    caller: Caller


class TokenFile:
    """The method ``token``.

    Args:
        path: the file; it is read again by :meth:`read_again`.

    Raises:
        SettingsError: the file cannot be read, or a line of it is malformed.
    """

    name = "token"
    kinds = frozenset({"bearer"})
    cache_ttl = 3600.0  # a change of the file clears the cache
    max_concurrent = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._taken: str | None = None
        try:
            self._entries, wrong = files.run_with_timeout(lambda: _read(path), path)
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"--tokens {path}: {_unreadable(exc)}. Make one with: {_MAKE}") from None
        if wrong:
            raise SettingsError(f"--tokens {path}: {' '.join(wrong)}")
        self._warn_of_none()

    def read_again(self) -> Callable[[], None]:
        """Read the file again, in any thread; return a function that applies it in the event loop.

        Malformed lines are skipped. A missing or unreadable file has no tokens.
        """
        entries: Sequence[_Entry]
        try:
            entries, wrong = _read(self.path)
        except (OSError, UnicodeDecodeError) as exc:
            entries, wrong = (), [f"{_unreadable(exc)}."]

        def take() -> None:
            if self._taken is None:  # else the text passed to take() is newer than the file
                self._entries = entries
                self._log_lines(wrong, str(self.path))

        return take

    def take(self, text: str, *, source: str) -> bool:
        """Use the tokens of a text instead of the file's.

        Args:
            text: in the format of the file.
            source: of the text, for the log.

        Returns:
            Whether the tokens have changed.
        """
        if text == self._taken:
            return False
        self._taken, before = text, self._entries
        self._entries, wrong = _parse_lines(text)
        if wrong or self._entries != before:
            self._log_lines(wrong, source)
        return self._entries != before

    def release(self) -> None:
        """Use the file again from its next change on; until then the text passed to :meth:`take` stays in use."""
        self._taken = None

    def _log_lines(self, wrong: Sequence[str], source: str) -> None:
        for text in wrong:
            log.error("a line of the token file is left out", file=source, reason=text)
        log.info("tokens read", file=source, tokens=len(self._entries))
        self._warn_of_none()

    def _warn_of_none(self) -> None:
        if not self._entries:
            hint = f"add a line with: {_MAKE}"
            log.warning("the token file has no token: no caller can log in by it", file=str(self.path), hint=hint)

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the caller of a token; None if the file does not have it."""
        digest = _digest(credential.secret)
        found = [entry.caller for entry in self._entries if hmac.compare_digest(entry.digest, digest)]
        return found[0] if found else None


def make_token(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """Create a token.

    Returns:
        The token, and its line of the file.

    Raises:
        ValueError: the name or a scope is not valid.
    """
    if not name.strip() or not name.isprintable() or name.startswith(PREFIX):
        raise ValueError(f"NAME must be printable text, not empty, and must not begin with {PREFIX}")
    if name.startswith("#"):
        raise ValueError("NAME must not begin with #: its line in the file would be a comment")
    if name != name.strip():
        raise ValueError(f"NAME must not begin or end with white space; write {name.strip()!r}")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ValueError(f"--scopes: unknown scope {unknown[0]!r}; use {', '.join(SCOPES)}")
    if not scopes:
        raise ValueError(f"--scopes: name at least one of {', '.join(SCOPES)}")
    token = PREFIX + secrets.token_urlsafe(32)
    line = f"{name}:{','.join(scopes)}:{_digest(token)}"
    _parse(line)
    return token, line


def append_line(path: Path, line: str) -> int:
    """Append a line to a token file; a new file is readable by its owner only.

    Returns:
        The number of tokens of the same name that the file had before.

    Raises:
        OSError: the file cannot be read or written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "ab+") as file:
        file.seek(0)
        before = file.read()
        begin = b"" if not before or before.endswith(b"\n") else b"\n"  # end an unterminated line
        file.write(begin + f"{line}\n".encode())
    name = _parse(line).caller.name
    return sum(entry.caller.name == name for entry in _parse_lines(before.decode(errors="replace"))[0])


def _unreadable(exc: OSError | UnicodeDecodeError) -> str:
    """Return the reason why a file cannot be read."""
    return exc.strerror or str(exc) if isinstance(exc, OSError) else "the file is not UTF-8 text"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _read(path: Path) -> tuple[Sequence[_Entry], list[str]]:
    """Return the entries, and the errors of malformed lines."""
    return _parse_lines(files.read_small(path).decode())


def _parse_lines(text: str) -> tuple[Sequence[_Entry], list[str]]:
    entries: list[_Entry] = []
    wrong: list[str] = []
    more = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entries.append(_parse(line.strip()))
        except ValueError as exc:
            if len(wrong) < _SHOWN:
                wrong.append(f"Line {number}: {exc}.")
            else:
                more += 1
    if more:
        wrong.append(f"{more} more lines are wrong.")
    return entries, wrong


def _parse(line: str) -> _Entry:
    """Parse a line.

    Raises:
        ValueError: it is malformed. The message quotes nothing: if the fields are swapped, any of them may be a token.
    """
    name, _, rest = line.rpartition(":")[0].rpartition(":")
    digest = line.rpartition(":")[2].lower()
    if not name or not name.isprintable():
        raise ValueError("the form is name:scopes:sha256")
    if name.startswith(PREFIX):
        raise ValueError("the first field is a token; it must be a name")
    scopes = [scope.strip() for scope in rest.split(",")]
    if not set(scopes) <= set(SCOPES):
        raise ValueError(f"unknown scope; use {', '.join(SCOPES)}")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("the last field must be a SHA-256 in 64 hexadecimal digits: `flux-sidecar token new`")
    caller = Caller(name=name, scopes=implied(cast(list[Scope], scopes)), method=TokenFile.name)
    return _Entry(digest, caller)
