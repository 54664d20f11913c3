"""The logins with name and password, as the API and the login page use them: one user, or the users of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.auth.caller import Caller, Credential

if TYPE_CHECKING:  # the JWT library takes ten megabytes
    from sidecar.auth.access_tokens import SharedSecret
    from sidecar.auth.login import Login
    from sidecar.auth.user_tokens import UserTokens


@dataclass(frozen=True, kw_only=True)
class Logins:
    """The configured logins with name and password; there may be none."""

    login: Login | None = None
    users: UserTokens | None = None
    shared: SharedSecret | None = None
    lifetime: float = 0.0
    """Of an access token, in seconds."""

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self.login is not None or self.users is not None

    @property
    def shares_a_secret(self) -> bool:
        """Whether ``POST /v1/token`` is available."""
        return bool(self) and self.shared is not None

    def password_of(self, token: str) -> Credential | None:
        """Return name and password of a signed login; None if it is not valid."""
        return self.shared.password_of(token) if self.shared else None

    def access_token(self, caller: Caller) -> str | None:
        """Make an access token of a caller that has just logged in with a password; None for any other."""
        if self.login and caller.method == self.login.name:
            return self.login.access_token()
        return self.users.access_token(caller.name) if self.users and caller.method == self.users.name else None
