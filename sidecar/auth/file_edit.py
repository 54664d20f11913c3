"""Edit files of callers from the command line: other lines, comments, order and mode stay as they are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from sidecar.auth.caller_file import E, Form, parse_lines
from sidecar.runtime import files


class Lines:
    """The lines of a file, as text with their line ends.

    Args:
        data: the file's content; bytes that are not UTF-8, perhaps in a comment, are kept.
    """

    def __init__(self, data: bytes) -> None:
        self.lines = data.decode(errors="surrogateescape").splitlines(keepends=True)

    def entries(self, form: Form[E]) -> tuple[dict[int, E], list[str]]:
        """Return the entries by the index of their line, and the errors of malformed lines."""
        return parse_lines("".join(self.lines), form)

    def append(self, line: str) -> None:
        """Add a line; a last line without an end gets one."""
        if self.lines and not self.lines[-1].endswith("\n"):
            self.lines[-1] += "\n"
        self.lines.append(f"{line}\n")

    def replace(self, index: int, line: str) -> None:
        """Replace a line."""
        self.lines[index] = f"{line}\n"

    def remove(self, indexes: Collection[int]) -> None:
        """Remove lines."""
        self.lines = [line for index, line in enumerate(self.lines) if index not in indexes]

    def encode(self) -> bytes:
        """Return the file's content."""
        return "".join(self.lines).encode(errors="surrogateescape")


def read_lines(path: Path) -> Lines:
    """Read a file.

    Raises:
        OSError: it cannot be read.
    """
    return Lines(files.read_small(path))


@contextlib.contextmanager
def edit(path: Path, *, create: bool = False) -> Iterator[Lines]:
    """Read a file, and replace it with the changed lines when the block ends without an exception.

    A reader sees the file before or after all changes. Another command that edits the file waits for this one.

    Args:
        path: of the file; of a symbolic link, its target is replaced.
        create: make a missing file, readable by its owner only.

    Raises:
        OSError: it cannot be read or written.
    """
    target = Path(os.path.realpath(path))
    with _locked(target, create=create):
        lines = read_lines(target)
        before = lines.encode()
        yield lines
        after = lines.encode()
        if after.startswith(before):
            _append(target, after[len(before) :])
        else:
            _replace(target, after)


def _append(path: Path, data: bytes) -> None:
    """Append to a file in place: its directory need not be writable."""
    if data:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "wb") as file:
            file.write(data)


def _replace(path: Path, data: bytes) -> None:
    status = path.stat()
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, status.st_mode & 0o7777)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def _locked(path: Path, *, create: bool) -> Iterator[None]:
    """Hold the lock of a file; the file that had the path before another command has replaced it is not enough."""
    while True:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        fd = os.open(path, flags, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(fd, fcntl.LOCK_EX)
            if not _is_at(fd, path):
                continue
            yield
            return
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
