"""Read request bodies: counted against a budget, within a time limit, and decoded one large body at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import hdrs, web

from sidecar.domain.errors import InvalidRequest, RequestTimeout, TooLarge, UnsupportedMediaType
from sidecar.http import percent
from sidecar.http.unreadable import body_problem
from sidecar.runtime.budget import Budget, Reservation
from sidecar.runtime.clock import LoopClock

SMALL = 16 * 1024
"""Bytes of a body where no credential is required: enough for a token or a password.

A request of that size is not counted: its connection takes as much memory. So a stop, a cancel and a login are
accepted even when others have used up the budget: their bodies are no larger.
"""
BOM = b"\xef\xbb\xbf"

_MAX_CONTENT_TYPE = 256  # characters
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_MAX_PARAMETERS = 1000  # as in a form
_LARGE = 64 * 1024  # bytes of a body and its decoded values from which on it is decoded alone


class Bodies:
    """Reads bodies.

    Args:
        largest: bytes of a body (``--max-body``).
        seconds: time to receive a body (``--body-timeout``).
        budget: of all bodies together.
        clock: measures the time.
        name: returns the key of a request's caller in the budget.
    """

    def __init__(
        self, largest: int, seconds: float, budget: Budget, clock: LoopClock, name: Callable[[web.Request], str]
    ) -> None:
        self.largest = largest
        self._seconds = seconds
        self.budget = budget
        self._clock = clock
        self.name = name
        self._decoding = asyncio.Lock()

    def hold(self, request: web.Request) -> Reservation:
        """Return an empty reservation for the bytes of a request; see :func:`counted`."""
        return self.budget.reserve(self.name(request))

    def timeout(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Limit the time in this context to that of receiving a body.

        Raises:
            TimeoutError: it took longer.
        """
        return self._clock.timeout(self._seconds)

    @property
    def too_slow(self) -> RequestTimeout:
        """The error of a body that is not received in time."""
        return RequestTimeout(f"The body was not received within {self._seconds:g} s (--body-timeout).")

    async def read(self, request: web.Request, *, small: bool) -> tuple[bytes, Reservation]:
        """Read a body.

        Args:
            request: the request.
            small: limit the body to :data:`SMALL` bytes.

        Returns:
            The body, and its bytes in the budget, to be released once the request is answered.

        Raises:
            TooLarge: the body is over the limit.
            RequestTimeout: the body was not received in time.
            InvalidRequest: the body is malformed, or UTF-16.
            UnsupportedMediaType: the body is in another encoding than UTF-8.
            TooManyRequests: the caller sends too many bytes at the same time.
            Overloaded: all callers together do.
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
        """Decode a body in this context: large ones one after another, with other requests between them.

        Args:
            weight: bytes of the body and its decoded values.
        """
        if weight < _LARGE:
            yield
            return
        async with self._decoding:
            try:
                yield
            finally:
                await asyncio.sleep(0)

    async def give_way(self) -> None:
        """Yield to other requests. One waiter proceeds in each iteration of the event loop."""
        async with self._decoding:
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
    """Remove the byte order mark that some programs write before UTF-8 (RFC 8259, section 8.1).

    Args:
        raw: a body, or its first line.

    Raises:
        InvalidRequest: the text is UTF-16 or UTF-32.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff", b"{\0", b"\0{", b"\0\0\0{")):
        raise InvalidRequest("The body is UTF-16 or UTF-32; send it as UTF-8.")
    return raw.removeprefix(BOM)


def check_charset(request: web.Request) -> None:
    """Check that Content-Type declares UTF-8 or no encoding.

    Raises:
        UnsupportedMediaType: it declares another one, or is malformed.
    """
    try:
        charset = request.charset
    except ValueError:  # not a media type
        raise UnsupportedMediaType("Content-Type: it is malformed.") from None
    if charset is not None and charset.lower() not in _CHARSETS:
        raise UnsupportedMediaType(f"Content-Type: unsupported charset {charset[:40]!r}; send the body as UTF-8.")


def counted(size: int) -> int:
    """Return how many of a request's bytes count against the budget; see :data:`SMALL`."""
    return size if size > SMALL else 0


def check_head(request: web.Request) -> None:
    """Check the address of a request, and what its headers declare about its body.

    Raises:
        InvalidRequest: the query has too many parameters (yarl caches the last 128 addresses, decoded), or the address
            is not UTF-8.
        UnsupportedMediaType: the body is compressed, and so without a limit; or its type is very long, which takes
            time in proportion to the square of its length to parse.
    """
    url, headers = request.rel_url, request.headers
    path, query = url.raw_path, url.raw_query_string
    if query.count("&") >= _MAX_PARAMETERS:
        raise InvalidRequest(f"The query has more than {_MAX_PARAMETERS:,} parameters; send them as a body.")
    percent.check(path, query)
    if len(headers.get(hdrs.CONTENT_TYPE, "")) > _MAX_CONTENT_TYPE:
        raise UnsupportedMediaType(f"Content-Type: it is longer than {_MAX_CONTENT_TYPE} characters.")
    for line in headers.getall(hdrs.CONTENT_ENCODING, ()):
        for coding in line.split(","):
            if coding.strip().lower() not in ("", "identity"):
                raise UnsupportedMediaType("Content-Encoding: none is supported; send the body uncompressed.")


def _too_large(limit: int, small: bool) -> TooLarge:
    option = "where no credential is required" if small else "--max-body"
    return TooLarge(f"The body is larger than the limit of {limit} bytes ({option}).")
