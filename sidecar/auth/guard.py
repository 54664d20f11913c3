"""What is asked of every request before anything of it is looked at: its host, its origin, its caller, their rate."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import structlog
from aiohttp import hdrs, web

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.authorization import read_authorization, unauthenticated
from sidecar.auth.caller import SCOPES, Caller, Credential
from sidecar.auth.origins import SAFE, Origins
from sidecar.auth.peer import SocketUsers, certificate_caller, is_unix
from sidecar.auth.revalidation import Revalidator
from sidecar.auth.sessions import Sessions, cookie_name
from sidecar.config.access import Scope
from sidecar.domain.errors import Forbidden, TooManyRequests, Unauthenticated, Unavailable
from sidecar.runtime.rate_limiter import RateLimiter, client_key, read_address

log = structlog.get_logger("auth")

CALLER = web.RequestKey("caller", Caller)

#: Who calls where nobody is asked who they are.
ANONYMOUS = Caller(name="", scopes=frozenset(SCOPES), method="none")
NO_CALLER = Caller(name="", scopes=frozenset(), method="none")


class Admission:
    """The place of one request while it is worked on: what takes long there is done in it.

    Args:
        guard: whose place it is.
        request: that asked for it.
        scope: that it needs.
        stream: whose share the stream takes that it is; None when it is none.
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
        """Count as a stream, too, in this context: an answer that takes as long as its reader likes.

        Raises:
            TooMany: there is no place for another stream.
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
        """Do something for as long as the caller is let in.

        Raises:
            Unauthenticated: they no longer are.
        """
        try:
            async with asyncio.timeout(None) as self._timer:
                yield
        except TimeoutError:
            if self._timer is not None and self._timer.expired():
                raise unauthenticated("The credential has expired, or was revoked.") from None
            raise

    def revoke(self) -> None:
        """End what is done there."""
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())


ADMISSION = web.RequestKey("place", Admission)


class Guard:
    """Lets requests through, or says why not.

    Args:
        authenticator: knows credentials; without methods nobody is asked for any, unless through the socket.
        sessions: of browsers.
        origins: says which hosts, pages and proxies are ours.
        socket_users: who may call through the Unix socket.
        certificate_scope: what the owner of a client certificate may do; None: such are not asked for.
        rate: how often a caller may ask, a second; 0: no limit.
        max_streams: how many streams may be followed at once.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        sessions: Sessions,
        origins: Origins,
        socket_users: SocketUsers,
        *,
        certificate_scope: Scope | None,
        rate: float,
        max_streams: int,
    ) -> None:
        self.authenticator = authenticator
        self.sessions = sessions
        self._socket_users = socket_users
        self._certificate_scope = certificate_scope
        self.origins = origins
        self._rate = RateLimiter(rate, 2 * rate)
        self._max_streams = max_streams
        self.streams: Counter[str] = Counter()
        """How many streams each caller follows."""
        self.admissions: set[Admission] = set()
        """Of all requests that are being worked on."""
        self._asked = frozenset(method.name for method in authenticator.methods)
        self._revalidator = Revalidator(self.admissions, self._is_authorized, self._asked)

    @property
    def allows_anonymous(self) -> bool:
        """Whether callers on the port are not asked who they are."""
        return not self.authenticator.methods and self._certificate_scope is None

    # ---------------------------------------------------------------------------------------------- admission

    async def authorize(self, request: web.Request, scope: Scope | None) -> Caller:
        """Let a request through.

        Args:
            request: of which only the head has been read.
            scope: what is needed; None: nothing, and nobody is asked who they are.

        Raises:
            Misdirected: it is meant for another host.
            Forbidden: another page's script has sent it, or the caller has not the scope.
            Unauthenticated: nobody knows who calls.
            TooMany: they ask too often.
            Unavailable: who knows the caller cannot be asked.
        """
        unix = is_unix(request.transport)
        if not unix:
            self.origins.check_host(request)
        self.origins.check_page(request)
        if scope is None:
            if request.method not in SAFE:  # a login, or what wants to look like one: each is audited
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
            if caller := self._socket_users.caller(transport):
                return caller
            raise Forbidden("This socket is for the instance's owner; see --socket-users.")
        if self._certificate_scope and (caller := certificate_caller(transport, self._certificate_scope)):
            return caller
        return ANONYMOUS if self.allows_anonymous else None

    def credential(self, request: web.Request) -> Credential | None:
        """Return what a request shows: a header, or the cookie of a session.

        Raises:
            Unauthenticated: the header is of a kind that is not read here.
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
        """Give a request its place; of streams there are so many, and no caller gets more than a quarter of them.

        Raises:
            TooMany: there is no place for another stream.
        """
        key = self.quota_key(request) if stream else None
        if key is not None:
            self.check_streams(key)
        held = request[ADMISSION] = Admission(self, request, scope, key)
        return held

    def check_streams(self, key: str) -> None:
        """Let another stream through.

        Args:
            key: of the caller, from :meth:`quota_key`.

        Raises:
            TooMany: there is no place for it.
        """
        if self.streams.total() >= self._max_streams:
            raise TooManyRequests("The server has too many open streams (--max-streams).", retry_after=5)
        if key and self.streams[key] >= max(1, self._max_streams // 4):
            raise TooManyRequests("This caller has too many open streams (a quarter of --max-streams).", retry_after=5)

    def quota_key(self, request: web.Request) -> str:
        """Return whose share of streams and bytes a request takes: its caller's, else its address's.

        It is empty where that may be many callers': a port-forward, a tunnel or an unknown proxy on this machine.
        """
        caller: Caller = request.get(CALLER, NO_CALLER)
        if caller.name:
            return caller.name
        address = self.origins.address(request)
        found = read_address(address)
        return "" if found is None or found.is_loopback else client_key(address)

    def revalidate(self) -> None:
        """See to it that whoever is no longer let in, since something has changed, does not stay."""
        self.authenticator.clear_cache()
        self._revalidator.now()

    async def revalidate_forever(self) -> None:
        """End what is done for callers who are no longer let in: a stream may go on for days after it was admitted."""
        await self._revalidator.run()

    async def _is_authorized(self, held: Admission) -> bool:
        """Whether a caller is still let in, by what has let them in, with the name and all scopes that they had."""
        request = held.request
        was = held.caller
        try:
            if was.method in self._asked:
                credential = self.credential(request)
                caller = await self.authenticator.reauthenticate(credential, was.method) if credential else None
            else:
                caller = self._by_connection(request, is_unix(request.transport))
        except (Unauthenticated, Forbidden):
            return False
        except Unavailable:  # who was let in stays until somebody says otherwise, or their time is up
            return True
        return caller is not None and caller.name == was.name and was.scopes <= caller.scopes


def caller_of(request: web.Request) -> Caller:
    """Return who has sent a request."""
    return request[CALLER]
