"""Bearer tokens from a file that contains their digests only, one ``name:scopes:sha256`` a line.

A token has 256 random bits and cannot be guessed, so a plain SHA-256 is as safe as a slow hash. A line may have a
fourth field, the expiry of its token.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sidecar.auth import caller_file, file_edit
from sidecar.auth.caller import Caller, Credential
from sidecar.auth.caller_file import TOKEN_PREFIX, CallerFile, Form
from sidecar.auth.expiry import expiry_field, read_expiry

_LENGTH, _SHORT = 64, 8  # digits of a digest, and those of it that are shown
_DIGEST = re.compile("[0-9a-f]+")


class Token(NamedTuple):
    """A line of the file."""

    digest: str
    caller: Caller

    @property
    def short_digest(self) -> str:
        """The first digits of the digest, which tell the tokens of a name apart."""
        return self.digest[:_SHORT]


class TokenFile(CallerFile[Token]):
    """The method ``token``.

    Args:
        path: the file; it is read again by :meth:`read_again`.
        now: returns the Unix time.

    Raises:
        SettingsError: the file cannot be read, or a line of it is malformed.
    """

    name = "token"
    kinds = frozenset({"bearer"})
    cache_ttl = 3600.0  # a change of the file clears the cache
    max_concurrent = 0

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        super().__init__(path, FORM)
        self._now = now

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the caller of a token; None if the file does not have it, or it has expired."""
        digest = _digest(credential.secret)
        found = [token.caller for token in self.entries if hmac.compare_digest(token.digest, digest)]
        now = self._now()
        return next((caller for caller in found if caller.expires is None or caller.expires > now), None)


def make_token(name: str, scopes: Sequence[str], expires: str = "") -> tuple[str, str]:
    """Create a token.

    Args:
        name: of its caller.
        scopes: of its caller.
        expires: a duration such as ``30d``, or a date; empty: never.

    Returns:
        The token, and its line of the file.

    Raises:
        ValueError: the name, a scope or the expiry is not valid.
    """
    caller_file.check_line(name, scopes)
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    line = f"{name}:{','.join(scopes)}:{_digest(token)}"
    if expires:
        line += f":{expiry_field(expires, time.time())}"
    _parse(line)
    return token, line


def append_line(path: Path, line: str) -> int:
    """Append a line to a token file; a new file is readable by its owner only.

    Returns:
        The number of tokens of the same name that the file had before.

    Raises:
        OSError: the file cannot be read or written.
    """
    with file_edit.edit(path, create=True) as lines:
        earlier, _ = lines.entries(FORM)
        lines.append(line)
    name = _parse(line).caller.name
    return sum(token.caller.name == name for token in earlier.values())


def list_tokens(path: Path) -> tuple[list[Token], list[str]]:
    """Return the tokens of a file, and the errors of malformed lines.

    Raises:
        OSError: the file cannot be read.
    """
    found, wrong = file_edit.read_lines(path).entries(FORM)
    return list(found.values()), wrong


def revoke(path: Path, what: str) -> Token:
    """Remove the line of a token.

    Args:
        path: of the file.
        what: name of the token's caller, or the first digits of its digest, at least eight.

    Returns:
        The token.

    Raises:
        LookupError: no token matches, or several do; the message says which.
        OSError: the file cannot be read or written.
    """
    prefix = what.lower() if len(what) >= _SHORT else "-"
    with file_edit.edit(path) as lines:
        tokens, _ = lines.entries(FORM)
        found = {
            index: token
            for index, token in tokens.items()
            if token.caller.name == what or token.digest.startswith(prefix)
        }
        if not found:
            raise LookupError(
                f"{path} has no such token: `flux-sidecar token list --file {path}` shows names and digests"
            )
        if len({token.digest for token in found.values()}) > 1:
            each = ", ".join(f"{token.caller.name} {token.short_digest}" for token in found.values())
            raise LookupError(f"several tokens match: {each}. Give the digits of one of them")
        lines.remove(found)
    return next(iter(found.values()))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _parse(line: str) -> Token:
    """Parse a line.

    Raises:
        ValueError: it is malformed. The message quotes nothing: if the fields are swapped, any of them may be a token.
    """
    expires = None
    before, _, last = line.rpartition(":")
    if not _is_digest(last) and _is_digest(before.rpartition(":")[2]):  # so a line without expiry is read as ever
        line, expires = before, read_expiry(last)
    name, scopes, digest = caller_file.split_line(line, "sha256")
    caller = Caller(name=name, scopes=caller_file.parse_scopes(scopes), method=TokenFile.name, expires=expires)
    if not _is_digest(digest):
        raise ValueError("the last field must be a SHA-256 in 64 hexadecimal digits: `flux-sidecar token new`")
    return Token(digest.lower(), caller)


def _is_digest(text: str) -> bool:
    return len(text) == _LENGTH and _DIGEST.fullmatch(text.lower()) is not None


FORM = Form(option="--tokens", what="token", make="flux-sidecar token new NAME --file FILE", parse=_parse)
"""The lines of the file."""
