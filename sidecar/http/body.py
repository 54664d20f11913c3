"""Request bodies: read by bytes that are counted, in time, and decoded one large one after another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import hdrs, web

from sidecar.domain.errors import InvalidRequest, RequestTimeout, TooLarge, UnsupportedMediaType
from sidecar.http import percent as encoded
from sidecar.http.unreadable import body_problem
from sidecar.runtime.budget import Budget, Reservation
from sidecar.runtime.clock import LoopClock

SMALL = 16 * 1024
"""Bytes that a body may have where no credential is asked for: a token or a password, and no more.

A request that takes no more than that is not counted: its connection holds as much by itself. So whatever others hold,
a stop, a cancel and a login are taken, of which no body is larger.
"""
_LONGEST_TYPE = 256  # characters of a Content-Type
BOM = b"\xef\xbb\xbf"
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_MOST_PARAMETERS = 1000  # as of a form
_LARGE = 64 * 1024  # bytes from which on a body, with what is made of it, is not decoded beside others


class Bodies:
    """Reads bodies.

    Args:
        largest: bytes that one may have (``--max-body``).
        seconds: how long one may take (``--body-timeout``).
        budget: of all bodies together.
        clock: which the seconds are of.
        name: says whose a request's bytes are.
    """

    def __init__(
        self, largest: int, seconds: float, budget: Budget, clock: LoopClock, name: Callable[[web.Request], str]
    ) -> None:
        self.largest = largest
        self._seconds = seconds
        self.budget = budget
        self._clock = clock
        self.name = name
        self._turn = asyncio.Lock()

    def hold(self, request: web.Request) -> Reservation:
        """Return what takes the bytes of a request, none yet; see :func:`counted`."""
        return self.budget.reserve(self.name(request))

    def timeout(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Limit what is done in this context to the seconds that a body may take.

        Raises:
            TimeoutError: it took longer.
        """
        return self._clock.timeout(self._seconds)

    @property
    def too_slow(self) -> RequestTimeout:
        """The error of a body that does not come."""
        return RequestTimeout(f"The body did not come within {self._seconds:g} s (--body-timeout).")

    async def read(self, request: web.Request, *, small: bool) -> tuple[bytes, Reservation]:
        """Read a body.

        Args:
            request: whose body it is.
            small: it may have :data:`SMALL` bytes only.

        Returns:
            The body, and its bytes in the budget, which are to be given back when the request is answered.

        Raises:
            TooLarge: it has more bytes than it may.
            RequestTimeout: it comes too slowly.
            InvalidRequest: it is broken, or UTF-16.
            UnsupportedMediaType: it is in another encoding than UTF-8.
            TooMany: the caller sends too much at once.
            Overloaded: all callers do.
        """
        limit = min(SMALL, self.largest) if small else self.largest
        if (request.content_length or 0) > limit:
            raise _too_large(limit, small)
        held = self.hold(request)
        try:
            async with self.timeout():
                raw = without_bom(await _read(request, held, limit, small))
                if raw:
                    check_charset(request)
                return raw, held
        except BaseException as exc:
            held.close()
            if isinstance(exc, TimeoutError):
                raise self.too_slow from None
            if isinstance(exc, web.RequestPayloadError):
                raise body_problem(exc) from None
            raise

    @contextlib.asynccontextmanager
    async def decoding(self, weight: int) -> AsyncIterator[None]:
        """Decode a body in this context: of large ones one after another, and others get their turn in between.

        Args:
            weight: bytes of the body, and of what is made of it.
        """
        if weight < _LARGE:
            yield
            return
        async with self._turn:
            try:
                yield
            finally:
                await asyncio.sleep(0)

    async def give_way(self) -> None:
        """Yield to other requests. One waiter proceeds in each iteration of the event loop."""
        async with self._turn:
            await asyncio.sleep(0)


BODIES = web.AppKey("bodies", Bodies)
"""Reads the bodies of an application's requests."""


async def _read(request: web.Request, held: Reservation, limit: int, small: bool) -> bytes:
    raw = bytearray()
    while chunk := await request.content.readany():
        raw += chunk
        if len(raw) > limit:
            raise _too_large(limit, small)
        held.resize(counted(len(raw)))
    return bytes(raw)


def without_bom(raw: bytes) -> bytes:
    """Return a body, or the first line of one, without the mark that some programs put before UTF-8 (RFC 8259, 8.1).

    Raises:
        InvalidRequest: it is UTF-16 or UTF-32.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff", b"{\0", b"\0{", b"\0\0\0{")):
        raise InvalidRequest("The body is UTF-16 or UTF-32; send it as UTF-8.")
    return raw.removeprefix(BOM)


def check_charset(request: web.Request) -> None:
    """Let a body through that is said to be UTF-8, or of which nothing is said.

    Raises:
        UnsupportedMediaType: it is said to be in another encoding.
    """
    try:
        charset = request.charset
    except ValueError:  # of what is no content type at all
        raise UnsupportedMediaType("Content-Type: it cannot be read.") from None
    if charset is not None and charset.lower() not in _CHARSETS:
        raise UnsupportedMediaType(f"Content-Type: a body is read as UTF-8, not as {charset[:40]!r}; send it so.")


def counted(size: int) -> int:
    """Return how many of the bytes that a request takes are counted; see :data:`SMALL`."""
    return size if size > SMALL else 0


def check_head(request: web.Request) -> None:
    """Let a request through whose head says of the body what can be read here, and whose address can be read.

    Raises:
        InvalidRequest: its query has too many parameters (yarl keeps what it makes of the last 128 addresses), or its
            text is not UTF-8.
        UnsupportedMediaType: it is compressed, and what it unpacks to has no bound; or its type is very long: to parse
            that takes time that grows with the square of its length.
    """
    path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
    if query.count("&") >= _MOST_PARAMETERS:
        raise InvalidRequest(f"The query has more than {_MOST_PARAMETERS:,} parameters; send them as a body.")
    encoded.check(path, query)
    if len(request.headers.get(hdrs.CONTENT_TYPE, "")) > _LONGEST_TYPE:
        raise UnsupportedMediaType(f"Content-Type: it is longer than {_LONGEST_TYPE} characters.")
    for line in request.headers.getall(hdrs.CONTENT_ENCODING, ()):
        for coding in line.split(","):
            if coding.strip().lower() not in ("", "identity"):
                raise UnsupportedMediaType("Content-Encoding: a body is read as it is here; send it uncompressed.")


def _too_large(limit: int, small: bool) -> TooLarge:
    option = "where no credential is asked for" if small else "--max-body"
    return TooLarge(f"The body is larger than the limit of {limit} bytes ({option}).")
