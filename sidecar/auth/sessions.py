"""Browser sessions: a random cookie that maps to the credential of the login.

The credential stays on the server and is checked on every request, like one in a header: a session ends when its token
is revoked or expires. Of a password it is an access token: requests of a session are no attempts to guess the password,
which others at the same address could use up.
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
_MOST_EACH = 20  # of one credential: repeated logins end only sessions of the same credential


class _Session(NamedTuple):
    login: bytes
    """Digest of the credential of the login."""
    credential: Credential
    until: float


class Sessions:
    """The sessions of one server; they end with it.

    Args:
        lifetime: of a session, in seconds.
        clock: returns the monotonic time in seconds: setting the wall clock back must not extend sessions.
    """

    def __init__(self, lifetime: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, login: Credential, credential: Credential | None = None) -> str:
        """Start a session; return the value of its cookie.

        Args:
            login: the credential of the login.
            credential: of the requests of the session; default: that of the login.
        """
        key = login.digest()
        own = [digest for digest, session in self._sessions.items() if session.login == key]
        for digest in own[: max(0, len(own) + 1 - _MOST_EACH)]:
            del self._sessions[digest]
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = _Session(key, credential or login, self._clock() + self.lifetime)
        if len(self._sessions) > _MOST:
            self._sessions.popitem(last=False)
        return cookie

    def credential(self, cookie: str) -> Credential | None:
        """Return the credential of a cookie's session; None if the session has ended."""
        session = self._sessions.get(_digest(cookie))
        if session is None or session.until <= self._clock():
            return None
        return session.credential

    def end(self, cookie: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(cookie), None)


def cookie_name(host: str) -> str:
    """Return the cookie's name for a server with this Host.

    Cookies are not isolated by port: two servers behind two forwarded ports of localhost must not end each other's
    sessions. With the prefix ``__Host-`` browsers accept the cookie from this host only.
    """
    return f"__Host-flux-sidecar-{hashlib.sha256(host.encode(errors='replace')).hexdigest()[:8]}"


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode(errors="surrogatepass")).digest()
