"""What is asked of every request before anything of it is looked at: its host, its origin, its caller, their rate."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator

import structlog
from aiohttp import hdrs, web

from sidecar.access import Scope
from sidecar.auth.authenticator import Authenticator
from sidecar.auth.caller import SCOPES, Caller, Credential
from sidecar.auth.limits import Buckets, place
from sidecar.auth.origins import SAFE, Origins
from sidecar.auth.peer import SocketUsers, certificate_caller, is_unix
from sidecar.auth.sessions import Sessions, cookie_name
from sidecar.errors import Forbidden, TooMany, Unauthenticated, Unavailable

log = structlog.get_logger("auth")

CALLER = web.RequestKey("caller", Caller)

#: Who calls where nobody is asked who they are.
ANYBODY = Caller(name="", scopes=frozenset(SCOPES), method="none")
NOBODY = Caller(name="", scopes=frozenset(), method="none")

_LOOK_AGAIN = 10.0  # seconds
_CHALLENGE = 'Bearer realm="flux-sidecar"'


class Place:
    """The place of one request while it is worked on: what takes long there is done in it.

    Args:
        guard: whose place it is.
        request: that asked for it.
        scope: that it needs.
        stream: who follows the stream that it is; empty when it is none.
    """

    __slots__ = ("_guard", "_stream", "_timer", "request", "scope")

    def __init__(self, guard: Guard, request: web.Request, scope: Scope, stream: str) -> None:
        self.request = request
        self.scope = scope
        self._guard = guard
        self._stream = stream
        self._timer: asyncio.Timeout | None = None

    def __enter__(self) -> None:
        self._guard.places.add(self)
        if self._stream:
            self._guard.streams[self._stream] += 1

    def __exit__(self, *_: object) -> None:
        self._guard.places.discard(self)
        if self._stream:
            self._guard.streams -= Counter((self._stream,))

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Do something for as long as the caller is let in.

        Raises:
            Unauthenticated: they no longer are.
        """
        try:
            async with asyncio.timeout(None) as self._timer:
                yield
        except TimeoutError:
            if self._timer is not None and self._timer.expired():
                raise _unauthenticated("The credential has expired, or was revoked.") from None
            raise

    def take_away(self) -> None:
        """End what is done there."""
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())


PLACE = web.RequestKey("place", Place)


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
        self._rate = Buckets(rate, 2 * rate)
        self._max_streams = max_streams
        self.streams: Counter[str] = Counter()
        """How many streams each caller follows."""
        self.places: set[Place] = set()
        """Of all requests that are being worked on."""
        self._changed = asyncio.Event()

    @property
    def open(self) -> bool:
        """Whether callers on the port are not asked who they are."""
        return not self.authenticator.methods and self._certificate_scope is None

    # ---------------------------------------------------------------------------------------------- admission

    async def admit(self, request: web.Request, scope: Scope | None) -> Caller:
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
                self._check_rate(place(self.origins.address(request)))
            return NOBODY
        caller = await self._caller(request, unix, self.origins.address(request))
        if caller is None:
            self._check_rate(place(self.origins.address(request)))
            raise _unauthenticated("Say who you are: Authorization: Bearer TOKEN.")
        self._check_rate(caller.name or place(self.origins.address(request)))
        caller.require(scope)
        return caller

    async def _caller(self, request: web.Request, unix: bool, address: str | None) -> Caller | None:
        """Return who has sent a request; None when they show nothing. Without an address it is no guess."""
        credential = self.credential(request) if self.authenticator.methods else None
        if credential is not None:
            caller = await self.authenticator.caller(credential, address)
            if caller is not None:
                return caller
            raise _unauthenticated("This credential is nobody's here, or has expired.", ', error="invalid_token"')
        transport = request.transport
        if transport is not None and unix:
            if caller := self._socket_users.caller(transport):
                return caller
            raise Forbidden("This socket is for the instance's owner; see --socket-users.")
        if self._certificate_scope and (caller := certificate_caller(transport, self._certificate_scope)):
            return caller
        return ANYBODY if self.open else None

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
        if wait := self._rate.take(name):
            raise TooMany("You ask too often (--rate-limit).", retry_after=int(wait) + 1)

    # ------------------------------------------------------------------------------------------------- places

    def hold(self, request: web.Request, scope: Scope, *, stream: bool) -> Place:
        """Give a request its place; of streams there are so many, and no caller gets more than a quarter of them.

        Raises:
            TooMany: there is no place for another stream.
        """
        who = (request[CALLER].name or place(self.origins.address(request))) if stream else ""
        if stream and self.streams.total() >= self._max_streams:
            raise TooMany("Too many streams are followed (--max-streams).", retry_after=5)
        if stream and not self.open and self.streams[who] >= max(1, self._max_streams // 4):
            raise TooMany("You follow too many streams (a quarter of --max-streams).", retry_after=5)
        held = request[PLACE] = Place(self, request, scope, who)
        return held

    def look_again(self) -> None:
        """See to it that whoever is no longer let in, since something has changed, does not stay."""
        self.authenticator.forget()
        self._changed.set()

    async def watch(self) -> None:
        """End what is done for callers who are no longer let in: a stream may go on for days after it was admitted."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK_AGAIN)
            self._changed.clear()
            for held in list(self.places):
                try:
                    if not await self._stays(held):
                        held.take_away()
                except Exception:  # one place that cannot be looked at must not keep all the others from it
                    log.exception("a caller could not be looked at again", path=held.request.path)
                    held.take_away()

    async def _stays(self, held: Place) -> bool:
        request = held.request
        expires = request[CALLER].expires
        if expires is not None and expires <= time.time():
            return False
        try:
            caller = await self._caller(request, is_unix(request.transport), None)
            if caller is None:
                return False
            caller.require(held.scope)
        except (Unauthenticated, Forbidden):
            return False
        except Unavailable:  # who was let in stays until somebody says otherwise, or their time is up
            return True
        return True


def caller_of(request: web.Request) -> Caller:
    """Return who has sent a request."""
    return request[CALLER]


def read_authorization(request: web.Request) -> Credential | None:
    """Read the header Authorization.

    Raises:
        Unauthenticated: it is of a kind that is not read here.
    """
    headers = request.headers.getall(hdrs.AUTHORIZATION, ())
    if not headers:
        return None
    if len(headers) > 1:  # a proxy might have looked at the other one
        raise _unauthenticated("Authorization: send it once.")
    header = headers[0]
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return Credential("bearer", value)
    if scheme.lower() == "basic":
        try:
            name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if colon:
            return Credential("password", password, name)
    raise _unauthenticated("Authorization: send Bearer TOKEN (or Basic, where there is a password).")


def _unauthenticated(detail: str, error: str = "") -> Unauthenticated:
    # Bearer alone: for Basic a browser would open a dialog of its own.
    return Unauthenticated(detail, headers={hdrs.WWW_AUTHENTICATE: _CHALLENGE + error})
