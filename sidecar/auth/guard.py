"""Check every request before its body is read: host, origin, caller, rate limit, scope and stream quota."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import structlog
from aiohttp import hdrs, web

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.authorization import read_authorization, unauthenticated
from sidecar.auth.caller import SCOPES, Caller, Credential
from sidecar.auth.origins import SAFE, Origins
from sidecar.auth.peer import PeerCallers, is_unix
from sidecar.auth.revalidation import Revalidator
from sidecar.auth.sessions import Sessions, cookie_name
from sidecar.config.access import Scope
from sidecar.domain.errors import Forbidden, TooManyRequests, Unauthenticated, Unavailable
from sidecar.runtime.rate_limiter import RateLimiter, client_key, read_address

log = structlog.get_logger("auth")

CALLER = web.RequestKey("caller", Caller)

#: The caller of every request while authentication is off.
ANONYMOUS = Caller(name="", scopes=frozenset(SCOPES), method="none")
NO_CALLER = Caller(name="", scopes=frozenset(), method="none")


class Admission:
    """An admitted request while its handler runs: counts its streams, and can be revoked.

    Args:
        guard: that has admitted it.
        request: the admitted request.
        scope: required by the operation.
        stream: quota key that the stream is counted for; None if the request is not a stream.
    """

    __slots__ = ("_guard", "_stream", "_timer", "request", "scope")

    def __init__(self, guard: Guard, request: web.Request, scope: Scope, stream: str | None) -> None:
        self.request = request
        self.scope = scope
        self._guard = guard
        self._stream = stream
        self._timer: asyncio.Timeout | None = None

    @property
    def caller(self) -> Caller:
        """The caller of the request."""
        return self.request[CALLER]

    def __enter__(self) -> None:
        self._guard.admissions.add(self)
        if self._stream is not None:
            self._guard.streams[self._stream] += 1

    def __exit__(self, *_: object) -> None:
        self._guard.admissions.discard(self)
        if self._stream is not None:
            self._guard.streams -= Counter((self._stream,))

    @contextlib.contextmanager
    def as_stream(self) -> Iterator[None]:
        """Count the request as a stream in this context: the client's reads determine how long the response takes.

        Raises:
            TooManyRequests: the limit of streams is reached.
        """
        if self._stream is not None:
            yield
            return
        key = self._guard.quota_key(self.request)
        self._guard.check_streams(key)
        self._guard.streams[key] += 1
        try:
            yield
        finally:
            self._guard.streams -= Counter((key,))

    @contextlib.asynccontextmanager
    async def while_authorized(self) -> AsyncIterator[None]:
        """Cancel the body of this context when the caller is no longer authorized.

        Raises:
            Unauthenticated: the caller is no longer authorized.
        """
        try:
            async with asyncio.timeout(None) as self._timer:
                yield
        except TimeoutError:
            if self._timer is not None and self._timer.expired():
                raise unauthenticated("The credential has expired, or was revoked.") from None
            raise

    def revoke(self) -> None:
        """End the request's :meth:`while_authorized` context."""
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())


ADMISSION = web.RequestKey("admission", Admission)


@dataclass(frozen=True, kw_only=True)
class CallerLimits:
    """The limits of requests and streams."""

    rate: float
    """Requests per second and caller; 0: no limit."""
    max_streams: int
    """Limit of concurrent streams; one caller gets a quarter of it."""


class Guard:
    """Authorize and admit requests.

    Args:
        authenticator: checks credentials; without methods, requests over TCP need none.
        sessions: of browsers.
        origins: the allowed hosts, origins and proxies.
        peers: callers that need no credential: users of the Unix socket, and owners of client certificates.
        limits: of requests and streams.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        sessions: Sessions,
        origins: Origins,
        peers: PeerCallers,
        limits: CallerLimits,
    ) -> None:
        self.authenticator = authenticator
        self.sessions = sessions
        self.origins = origins
        self._peers = peers
        self._rate = RateLimiter(limits.rate, 2 * limits.rate)
        self._max_streams = limits.max_streams
        self.streams: Counter[str] = Counter()
        """Number of streams by quota key."""
        self.admissions: set[Admission] = set()
        """Admissions of all requests in progress."""
        self._asked = frozenset(method.name for method in authenticator.methods)
        self._revalidator = Revalidator(self.admissions, self._is_authorized, self._asked)

    @property
    def allows_anonymous(self) -> bool:
        """Whether requests over TCP need no credential."""
        return not self.authenticator.methods and self._peers.certificate_scope is None

    # ---------------------------------------------------------------------------------------------- admission

    async def authorize(self, request: web.Request, scope: Scope | None) -> Caller:
        """Authorize a request; return its caller.

        Args:
            request: only its head has been read.
            scope: required by the operation; None: no authentication.

        Raises:
            Misdirected: the request names another host.
            Forbidden: a page of another origin has sent it, or the caller does not have the scope.
            Unauthenticated: it has no valid credential.
            TooManyRequests: the caller is over a rate limit.
            Unavailable: the backend of an authentication method is unavailable.
        """
        unix = is_unix(request.transport)
        if not unix:
            self.origins.check_host(request)
        self.origins.check_page(request)
        if scope is None:
            if request.method not in SAFE:  # a login, or a request to the same path: each is audited
                self._check_rate(client_key(self.origins.address(request)))
            return NO_CALLER
        caller = await self._caller(request, unix, self.origins.address(request))
        if caller is None:
            self._check_rate(client_key(self.origins.address(request)))
            raise unauthenticated("Credentials are required: send Authorization: Bearer TOKEN.")
        self._check_rate(caller.name or client_key(self.origins.address(request)))
        caller.require(scope)
        return caller

    async def _caller(self, request: web.Request, unix: bool, address: str) -> Caller | None:
        """Return the caller of a request; None without a credential."""
        credential = self.credential(request) if self.authenticator.methods else None
        if credential is None:
            return self._by_connection(request, unix)
        if caller := await self.authenticator.authenticate(credential, address):
            return caller
        text = "Unknown or expired credential: log in again, or ask for a new token."
        raise unauthenticated(text, ', error="invalid_token"')

    def _by_connection(self, request: web.Request, unix: bool) -> Caller | None:
        """Return the caller that a connection identifies; None if it identifies none."""
        transport = request.transport
        if transport is not None and unix:
            if caller := self._peers.socket_caller(transport):
                return caller
            raise Forbidden("This socket is for the instance's owner; see --socket-users.")
        if caller := self._peers.certificate_caller(transport):
            return caller
        return ANONYMOUS if self.allows_anonymous else None

    def credential(self, request: web.Request) -> Credential | None:
        """Return the credential of a request, from its Authorization or X-Token header, or its session cookie.

        Raises:
            Unauthenticated: a header is repeated or empty, or its scheme is not supported.
        """
        return read_authorization(request) or (None if self.origins.is_elsewhere(request) else self._session(request))

    def _session(self, request: web.Request) -> Credential | None:
        if hdrs.COOKIE not in request.headers:
            return None
        cookie = request.cookies.get(cookie_name(request.headers.get(hdrs.HOST, "")))
        return self.sessions.credential(cookie) if cookie else None

    def _check_rate(self, name: str) -> None:
        if wait := self._rate.acquire(name):
            raise TooManyRequests("Too many requests (--rate-limit).", retry_after=int(wait) + 1)

    # ------------------------------------------------------------------------------------------------- admissions

    def admit_request(self, request: web.Request, scope: Scope, *, stream: bool) -> Admission:
        """Admit a request. The number of streams is limited, and one caller gets at most a quarter of them.

        Raises:
            TooManyRequests: the limit of streams is reached.
        """
        key = self.quota_key(request) if stream else None
        if key is not None:
            self.check_streams(key)
        admission = request[ADMISSION] = Admission(self, request, scope, key)
        return admission

    def check_streams(self, key: str) -> None:
        """Require room for another stream.

        Args:
            key: of the caller, from :meth:`quota_key`.

        Raises:
            TooManyRequests: the limit of streams is reached.
        """
        if self.streams.total() >= self._max_streams:
            raise TooManyRequests("The server has too many open streams (--max-streams).", retry_after=5)
        if key and self.streams[key] >= max(1, self._max_streams // 4):
            raise TooManyRequests("This caller has too many open streams (a quarter of --max-streams).", retry_after=5)

    def quota_key(self, request: web.Request) -> str:
        """Return the key that a request's streams and bytes are counted for: the caller's name, else the address.

        It is empty if many callers may share the address: a port-forward, a tunnel or an unknown proxy on this machine.
        """
        caller: Caller = request.get(CALLER, NO_CALLER)
        if caller.name:
            return caller.name
        address = self.origins.address(request)
        found = read_address(address)
        return "" if found is None or found.is_loopback else client_key(address)

    def revalidate(self) -> None:
        """Clear the cache and check all requests in progress now: the tokens have changed."""
        self.authenticator.clear_cache()
        self._revalidator.now()

    async def revalidate_forever(self) -> None:
        """End requests of callers that are no longer authorized: a stream may run for days after it was admitted."""
        await self._revalidator.run()

    async def _is_authorized(self, admission: Admission) -> bool:
        """Whether the method that admitted a caller still returns the same name and at least the same scopes."""
        request = admission.request
        was = admission.caller
        try:
            if was.method in self._asked:
                credential = self.credential(request)
                caller = await self.authenticator.reauthenticate(credential, was.method) if credential else None
            else:
                caller = self._by_connection(request, is_unix(request.transport))
        except (Unauthenticated, Forbidden):
            return False
        except Unavailable:  # keep the request until the credential is rejected or expires
            return True
        return caller is not None and caller.name == was.name and was.scopes <= caller.scopes


def caller_of(request: web.Request) -> Caller:
    """Return the caller of a request."""
    return request[CALLER]
