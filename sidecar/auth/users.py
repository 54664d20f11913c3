"""Users with passwords, from a file with one ``name:scopes:hash`` a line.

A password can be guessed, so its hash is slow: each check takes memory and a tenth of a second. Checks run in threads,
few at a time, after the limit of failed logins; the authenticator caches their results until the file changes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sidecar.auth import caller_file, file_edit, passwords
from sidecar.auth.caller import Caller, Credential, listed
from sidecar.auth.caller_file import CallerFile, Form
from sidecar.auth.passwords import PasswordHash
from sidecar.runtime.threads import Workers

METHOD = "user"
_AT_ONCE = 2  # checks; each takes up to passwords.MOST_MEMORY


class User(NamedTuple):
    """A line of the file."""

    hash: PasswordHash
    caller: Caller


class UserFile(CallerFile[User]):
    """The users of the file.

    Args:
        path: the file; it is read again by :meth:`read_again`.

    Raises:
        SettingsError: the file cannot be read, or a line of it is malformed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, FORM)

    def find(self, name: str) -> User | None:
        """Return a user by name; None if the file does not have it."""
        return next((user for user in self.entries if user.caller.name == name), None)


class UserPasswords:
    """The method ``user``, for name and password.

    Args:
        file: of the users.
        verify: checks a password, in a thread.
    """

    name = METHOD
    kinds = frozenset({"password"})
    cache_ttl = 3600.0  # a change of the file clears the cache
    max_concurrent = 4 * _AT_ONCE  # also those that wait for a thread

    def __init__(self, file: UserFile, verify: Callable[[str, PasswordHash], bool] = passwords.verify) -> None:
        self._file = file
        self._verify = verify
        self._workers = Workers(_AT_ONCE, "password")
        self._key = secrets.token_bytes(32)

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the user of a name and password; None if one of them is wrong, after the same time for either."""
        name, password = credential.name, credential.secret
        if not name or not password or len(password) > passwords.LONGEST:
            return None
        user = self._file.find(name)
        expected = user.hash if user else self._decoy(name)
        right = await self._workers.run(lambda: self._verify(password, expected))
        now = self._file.find(name)  # the file may have changed meanwhile
        return now.caller if right and user and now and now.hash == user.hash else None

    def close(self) -> None:
        """End the threads after the checks that they have begun."""
        self._workers.close()

    def _decoy(self, name: str) -> PasswordHash:
        """Return a hash for a name that the file does not have: of the cost that one of its users has."""
        users = self._file.entries
        if not users:
            return passwords.make_decoy(passwords.COST)
        digest = hmac.digest(self._key, name.encode(errors="surrogatepass"), hashlib.sha256)
        return passwords.make_decoy(users[int.from_bytes(digest) % len(users)].hash.cost)


def check_user(name: str, scopes: Sequence[str]) -> None:
    """Check the name and the scopes of a new user.

    Raises:
        ValueError: the name or a scope is not valid.
    """
    caller_file.check_line(name, scopes)
    if ":" in name:
        raise ValueError("NAME must not contain a colon: HTTP Basic authentication ends a name there")


def put(path: Path, name: str, scopes: Sequence[str] | None, password: PasswordHash, *, replace: bool) -> None:
    """Add a user to a file, or replace one; a new file is readable by its owner only.

    Args:
        path: of the file.
        name: of the user.
        scopes: of the user; None: those of the user that is replaced, otherwise ``submit``.
        password: of the user, as a hash.
        replace: whether the file may have the name.

    Raises:
        LookupError: the file has the name.
        OSError: the file cannot be read or written.
    """
    with file_edit.edit(path, create=True) as lines:
        index, user = _find(lines, name)
        if user and not replace:
            raise name_taken(path, name)
        if scopes is None:
            scopes = listed(user.caller.scopes) if user else ["submit"]
        line = f"{name}:{','.join(scopes)}:{password}"
        if user:
            lines.replace(index, line)
        else:
            lines.append(line)


def name_taken(path: Path, name: str) -> LookupError:
    """Return the error for a name that the file has."""
    return LookupError(f"{path} has a user {name}; to change its password or scopes, add --replace")


def exists(path: Path, name: str) -> bool:
    """Whether a file has a user; a missing file has none.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return _find(file_edit.read_lines(path), name)[1] is not None
    except FileNotFoundError:
        return False


def list_users(path: Path) -> tuple[list[Caller], list[str]]:
    """Return the users of a file, and the errors of malformed lines.

    Raises:
        OSError: the file cannot be read.
    """
    found, wrong = file_edit.read_lines(path).entries(FORM)
    return [user.caller for user in found.values()], wrong


def remove(path: Path, name: str) -> None:
    """Remove a user's line.

    Raises:
        LookupError: the file does not have the user.
        OSError: the file cannot be read or written.
    """
    with file_edit.edit(path) as lines:
        index, user = _find(lines, name)
        if not user:
            raise LookupError(f"{path} has no user {name}: `flux-sidecar user list --file {path}` shows its users")
        lines.remove({index})


def _find(lines: file_edit.Lines, name: str) -> tuple[int, User | None]:
    found, _ = lines.entries(FORM)
    return next(((index, user) for index, user in found.items() if user.caller.name == name), (-1, None))


def _parse(line: str) -> User:
    """Parse a line.

    Raises:
        ValueError: it is malformed. The message quotes nothing.
    """
    name, scopes, text = caller_file.split_line(line, "hash")
    if ":" in name:
        raise ValueError("a name must not contain a colon: HTTP Basic authentication ends it there")
    caller = Caller(name=name, scopes=caller_file.parse_scopes(scopes), method=METHOD)
    return User(passwords.read_hash(text), caller)


FORM = Form(
    option="--users",
    what="user",
    make="flux-sidecar user add NAME --file FILE",
    parse=_parse,
    unique=True,
)
"""The lines of the file."""
