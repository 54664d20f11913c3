"""Bearer tokens from a file, which holds their digests only: ``name:scopes:sha256``, a line each.

A token is 256 random bits: nobody guesses one, and a plain SHA-256 is as good as a slow hash.
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

PREFIX = "fxs_"  # so that a token that got into a repository is recognized
_MAKE = "flux-sidecar token new NAME --file FILE"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 5  # lines that are wrong; of more the number alone is told


class _Entry(NamedTuple):
    digest: str
    caller: Caller


class TokenFile:
    """The method ``token``.

    Args:
        path: the file; it is read again by :meth:`read_again`.

    Raises:
        SettingsError: the file cannot be read, or a line of it is wrong.
    """

    name = "token"
    kinds = frozenset({"bearer"})
    cache_ttl = 3600.0  # a change of the file ends it earlier
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
        """Read the file again, in any thread; return what lets it count, in the event loop.

        Lines that are wrong, and a file that is gone or cannot be read, let no caller in.
        """
        entries: Sequence[_Entry]
        try:
            entries, wrong = _read(self.path)
        except (OSError, UnicodeDecodeError) as exc:
            entries, wrong = (), [f"{_unreadable(exc)}."]

        def take() -> None:
            if self._taken is None:  # else the file comes later than what was taken
                self._entries = entries
                self._tell(wrong, str(self.path))

        return take

    def take(self, text: str, *, source: str) -> bool:
        """Let this text count, and the file no longer.

        Args:
            text: what a file would hold.
            source: where it is from, for the log.

        Returns:
            Whether the tokens are others than before.
        """
        if text == self._taken:
            return False
        self._taken, before = text, self._entries
        self._entries, wrong = _parse_lines(text)
        if wrong or self._entries != before:
            self._tell(wrong, source)
        return self._entries != before

    def release(self) -> None:
        """Let a change of the file count again, from now on; until then what was taken does."""
        self._taken = None

    def _tell(self, wrong: Sequence[str], source: str) -> None:
        for text in wrong:
            log.error("a line of the token file is left out", file=source, reason=text)
        log.info("tokens read", file=source, tokens=len(self._entries))
        self._warn_of_none()

    def _warn_of_none(self) -> None:
        if not self._entries:
            hint = f"add a line with: {_MAKE}"
            log.warning("the token file has no token: no caller can log in by it", file=str(self.path), hint=hint)

    async def identify(self, credential: Credential) -> Caller | None:
        """Return whose token it is."""
        digest = _digest(credential.secret)
        found = [entry.caller for entry in self._entries if hmac.compare_digest(entry.digest, digest)]
        return found[0] if found else None


def make_token(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """Make a token.

    Returns:
        The token, and its line for the file.

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
    """Append a line to a token file, which only its owner may read when it is made here.

    Returns:
        How many tokens of the same name the file had before.

    Raises:
        OSError: it cannot be read, or written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "ab+") as file:
        file.seek(0)
        before = file.read()
        begin = b"" if not before or before.endswith(b"\n") else b"\n"  # or it would be one with the last line
        file.write(begin + f"{line}\n".encode())
    name = _parse(line).caller.name
    return sum(entry.caller.name == name for entry in _parse_lines(before.decode(errors="replace"))[0])


def _unreadable(exc: OSError | UnicodeDecodeError) -> str:
    """Say why a file cannot be read."""
    return exc.strerror or str(exc) if isinstance(exc, OSError) else "the file is not UTF-8 text"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _read(path: Path) -> tuple[Sequence[_Entry], list[str]]:
    """Return the entries, and what is wrong with the other lines."""
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
    """Read a line.

    Raises:
        ValueError: it is wrong. The text quotes nothing: where columns were mixed up, any of them is a token.
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
