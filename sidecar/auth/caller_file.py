"""Files with one caller a line, ``name:scopes:SECRET``, that are read again when they change.

The last field never is a secret itself, only what verifies one: the digest of a token, or the hash of a password.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import structlog

from sidecar.auth.caller import SCOPES, Caller, Scope, implied
from sidecar.config.values import SettingsError
from sidecar.runtime import files

log = structlog.get_logger("auth")

TOKEN_PREFIX = "fxs_"  # noqa: S105 - lets secret scanners recognize a token in a repository
_SHOWN = 5  # malformed lines that are reported one by one; of the rest only the number is


class Entry(Protocol):
    """What a line says."""

    @property
    def caller(self) -> Caller:
        """Its caller."""


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, kw_only=True)
class Form(Generic[E]):
    """The form of a file's lines."""

    option: str
    """Option that names the file."""
    what: str
    """What a line is, for the log: token, user."""
    make: str
    """Command that adds a line."""
    parse: Callable[[str], E]
    """Parses a line; raises ValueError, with a text that quotes nothing of it."""
    unique: bool = False
    """Whether a name may have one line only."""


class CallerFile(Generic[E]):
    """A file of callers.

    Args:
        path: the file; it is read again by :meth:`read_again`.
        form: of its lines.

    Raises:
        SettingsError: the file cannot be read, or a line of it is malformed.
    """

    def __init__(self, path: Path, form: Form[E]) -> None:
        self.path = path
        self._form = form
        self._taken: str | None = None
        self.entries: Sequence[E]
        try:
            self.entries, wrong = files.run_with_timeout(self._read, path)
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{form.option} {path}: {_unreadable(exc)}. Make one with: {form.make}") from None
        if wrong:
            raise SettingsError(f"{form.option} {path}: {' '.join(wrong)}")
        self._warn_of_none()

    def read_again(self) -> Callable[[], None]:
        """Read the file again, in any thread; return a function that applies it in the event loop.

        Malformed lines are skipped. A missing or unreadable file has no callers.
        """
        entries: Sequence[E]
        try:
            entries, wrong = self._read()
        except (OSError, UnicodeDecodeError) as exc:
            entries, wrong = (), [f"{_unreadable(exc)}."]

        def take() -> None:
            if self._taken is None:  # else the text passed to take() is newer than the file
                self.entries = entries
                self._log_lines(wrong, str(self.path))

        return take

    def take(self, text: str, *, source: str) -> bool:
        """Use the callers of a text instead of the file's.

        Args:
            text: in the format of the file.
            source: of the text, for the log.

        Returns:
            Whether the callers have changed.
        """
        if text == self._taken:
            return False
        self._taken, before = text, self.entries
        self.entries, wrong = _parse(text, self._form)
        if wrong or self.entries != before:
            self._log_lines(wrong, source)
        return self.entries != before

    def release(self) -> None:
        """Use the file again from its next change on; until then the text passed to :meth:`take` stays in use."""
        self._taken = None

    def _read(self) -> tuple[Sequence[E], list[str]]:
        """Return the entries, and the errors of malformed lines."""
        return _parse(files.read_small(self.path).decode(), self._form)

    def _log_lines(self, wrong: Sequence[str], source: str) -> None:
        what = self._form.what
        for text in wrong:
            log.error(f"a line of the {what} file is left out", file=source, reason=text)
        log.info(f"{what}s read", file=source, **{f"{what}s": len(self.entries)})
        self._warn_of_none()

    def _warn_of_none(self) -> None:
        if not self.entries:
            what, hint = self._form.what, f"add a line with: {self._form.make}"
            log.warning(f"the {what} file has no {what}: no caller can log in by it", file=str(self.path), hint=hint)


def parse_lines(text: str, form: Form[E]) -> tuple[dict[int, E], list[str]]:
    """Parse the text of a file.

    Returns:
        The entries by the index of their line, and the errors of malformed lines.
    """
    entries: dict[int, E] = {}
    wrong: list[str] = []
    names: set[str] = set()
    more = 0
    for index, line in enumerate(text.splitlines()):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entry = form.parse(line.strip())
            if form.unique and entry.caller.name in names:
                raise ValueError("an earlier line has the same name")
        except ValueError as exc:
            if len(wrong) < _SHOWN:
                wrong.append(f"Line {index + 1}: {exc}.")
            else:
                more += 1
            continue
        names.add(entry.caller.name)
        entries[index] = entry
    if more:
        wrong.append(f"{more} more lines are wrong.")
    return entries, wrong


def _parse(text: str, form: Form[E]) -> tuple[Sequence[E], list[str]]:
    entries, wrong = parse_lines(text, form)
    return list(entries.values()), wrong


def split_line(line: str, last: str) -> tuple[str, str, str]:
    """Return name, scopes and last field of a line; a name may contain colons.

    Args:
        line: without white space around it.
        last: name of the last field, for the error.

    Raises:
        ValueError: the line has no name, or a token in its place.
    """
    name, _, scopes = line.rpartition(":")[0].rpartition(":")
    if not name or not name.isprintable():
        raise ValueError(f"the form is name:scopes:{last}")
    if name.startswith(TOKEN_PREFIX):
        raise ValueError("the first field is a token; it must be a name")
    return name, scopes, line.rpartition(":")[2]


def parse_scopes(text: str) -> frozenset[Scope]:
    """Return the scopes of a line, with those that they imply.

    Raises:
        ValueError: one of them is unknown.
    """
    scopes = [scope.strip() for scope in text.split(",")]
    if not set(scopes) <= set(SCOPES):
        raise ValueError(f"unknown scope; use {', '.join(SCOPES)}")
    return implied(cast(list[Scope], scopes))


def check_line(name: str, scopes: Sequence[str]) -> None:
    """Check the name and the scopes of a new line.

    Raises:
        ValueError: the name or a scope is not valid.
    """
    if not name.strip() or not name.isprintable() or name.startswith(TOKEN_PREFIX):
        raise ValueError(f"NAME must be printable text, not empty, and must not begin with {TOKEN_PREFIX}")
    if name.startswith("#"):
        raise ValueError("NAME must not begin with #: its line in the file would be a comment")
    if name != name.strip():
        raise ValueError(f"NAME must not begin or end with white space; write {name.strip()!r}")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ValueError(f"--scopes: unknown scope {unknown[0]!r}; use {', '.join(SCOPES)}")
    if not scopes:
        raise ValueError(f"--scopes: name at least one of {', '.join(SCOPES)}")


def _unreadable(exc: OSError | UnicodeDecodeError) -> str:
    """Return the reason why a file cannot be read."""
    return exc.strerror or str(exc) if isinstance(exc, OSError) else "the file is not UTF-8 text"
