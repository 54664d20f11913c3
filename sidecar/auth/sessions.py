"""Browser sessions: a random cookie that stands for the credential which its owner has logged in with.

The credential stays here and is asked about again on every request, like one in a header: a token that is revoked or
has expired ends its sessions.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from sidecar.auth.caller import Credential

_MOST = 1000
_MOST_EACH = 20  # of one credential: whoever logs in again and again ends none but their own


class _Session(NamedTuple):
    credential: Credential
    until: float


class Sessions:
    """The sessions of one server; they end with it.

    Args:
        lifetime: in seconds.
        clock: the time that they are counted by, in seconds: not the wall clock, by which sessions would last longer
            when it is set back.
    """

    def __init__(self, lifetime: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, credential: Credential) -> str:
        """Begin a session; return what the cookie holds."""
        own = [digest for digest, session in self._sessions.items() if session.credential == credential]
        for digest in own[: max(0, len(own) + 1 - _MOST_EACH)]:
            del self._sessions[digest]
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = _Session(credential, self._clock() + self.lifetime)
        if len(self._sessions) > _MOST:
            self._sessions.popitem(last=False)
        return cookie

    def credential(self, cookie: str) -> Credential | None:
        """Return what the owner of a cookie has logged in with; None when the session has ended."""
        session = self._sessions.get(_digest(cookie))
        if session is None or session.until <= self._clock():
            return None
        return session.credential

    def end(self, cookie: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(cookie), None)


def cookie_name(host: str) -> str:
    """Return the cookie's name for a server that is called by this name.

    Cookies know no ports: two servers behind two forwarded ports of localhost must not end each other's sessions.
    ``__Host-`` has the browser see to it that nobody else has set it.
    """
    return f"__Host-flux-sidecar-{hashlib.sha256(host.encode(errors='replace')).hexdigest()[:8]}"


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode(errors="surrogatepass")).digest()
