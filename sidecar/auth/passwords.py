"""Hashes of passwords: scrypt, as text in the PHC format ``$scrypt$ln=…,r=…,p=…$SALT$HASH``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import unicodedata
from typing import NamedTuple

SHORTEST, LONGEST = 8, 1024
"""Characters of a password."""
MOST_MEMORY = 64 << 20
"""Bytes that the check of one password may take."""

_FORM = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{1,128})\$([A-Za-z0-9+/]{1,128})")
_LEAST_MEMORY = 1 << 20
_MOST_WORK = 1 << 30  # bytes that are mixed: some seconds
_SALT, _KEY = 16, 32  # bytes


class Cost(NamedTuple):
    """The parameters of scrypt."""

    ln: int
    r: int
    p: int

    @property
    def memory(self) -> int:
        """Bytes that a check takes."""
        return 128 * self.r << self.ln


COST = Cost(14, 8, 5)
"""Of new hashes: 16 MiB, and about 0.2 s of a core. The least memory of the costs that OWASP recommends."""


class PasswordHash(NamedTuple):
    """What verifies a password."""

    cost: Cost
    salt: bytes
    key: bytes

    def __str__(self) -> str:
        """Return the hash in the PHC format."""
        ln, r, p = self.cost
        return f"$scrypt$ln={ln},r={r},p={p}${_encode(self.salt)}${_encode(self.key)}"


def make_hash(password: str, cost: Cost = COST) -> PasswordHash:
    """Return the hash of a password, with a new salt.

    Raises:
        ValueError: the password is too short or too long.
    """
    if len(password) < SHORTEST:
        raise ValueError(f"the password has less than {SHORTEST} characters")
    if len(password) > LONGEST:
        raise ValueError(f"the password has more than {LONGEST} characters")
    salt = secrets.token_bytes(_SALT)
    return PasswordHash(cost, salt, _scrypt(password, cost, salt, _KEY))


def make_decoy(cost: Cost) -> PasswordHash:
    """Return the hash of no password, whose check costs as much as that of any other."""
    return PasswordHash(cost, secrets.token_bytes(_SALT), secrets.token_bytes(_KEY))


def verify(password: str, expected: PasswordHash) -> bool:
    """Whether a password is right. This takes tenths of a second, without the GIL."""
    key = _scrypt(password, expected.cost, expected.salt, len(expected.key))
    return hmac.compare_digest(key, expected.key)


def read_hash(text: str) -> PasswordHash:
    """Parse a hash in the PHC format.

    Raises:
        ValueError: it is malformed, too weak or too costly. The message does not quote it.
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise ValueError("the last field must be a hash of scrypt: `flux-sidecar user add`")
    cost = Cost(*map(int, found.group(1, 2, 3)))
    if not (cost.ln and cost.r and cost.p) or cost.memory < _LEAST_MEMORY:
        raise ValueError(
            f"the hash is too weak: ln and r must give at least {_LEAST_MEMORY >> 20} MiB (128 * r * 2^ln)"
        )
    if cost.memory > MOST_MEMORY or cost.memory * cost.p > _MOST_WORK:
        raise ValueError(
            f"the hash is too costly: ln and r may give {MOST_MEMORY >> 20} MiB (128 * r * 2^ln), "
            f"and p times that {_MOST_WORK >> 20} MiB"
        )
    salt, key = _decode(found[4]), _decode(found[5])
    if len(salt) < 8 or not 16 <= len(key) <= 64:
        raise ValueError("the salt of the hash must have at least 8 bytes, and the hash 16 to 64")
    return PasswordHash(cost, salt, key)


def _scrypt(password: str, cost: Cost, salt: bytes, length: int) -> bytes:
    # Keyboards and systems compose accents in different ways (RFC 8265, 4.2.1).
    secret = unicodedata.normalize("NFC", password).encode(errors="surrogatepass")
    room = cost.memory + 128 * cost.r * (cost.p + 2) + 1024
    return hashlib.scrypt(secret, salt=salt, n=1 << cost.ln, r=cost.r, p=cost.p, maxmem=room, dklen=length)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    """Decode base64 without padding.

    Raises:
        ValueError: it is not base64.
    """
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("the salt and the hash must be in base64 without padding") from None
