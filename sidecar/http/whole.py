"""A complete response that is sent in one step.

aiohttp takes more time for the head of a small response than for all else of it: it completes a dictionary of headers,
checks each line, and calls a chain of coroutines. Here the lines that all responses share are encoded once, and only
the others are checked and encoded. Anything unusual (HEAD, HTTP/1.0, the last response of a connection, a cookie) is
left to aiohttp; ``tests/unit/test_dependencies.py`` covers the members of aiohttp that this relies on.
"""

from __future__ import annotations

import functools
import time
from email.utils import formatdate

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import _serialize_headers

from sidecar.http.headers import HEADERS
from sidecar.http.responses import RESPONSE_HEADERS, add_headers

_STATUS = "HTTP/1.1 200 OK"


class WholeResponse(web.Response):
    """A response with status 200 and a body of bytes; its headers are those of every other response."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Encode the head; aiohttp then writes it together with the body."""
        if self.prepared or not self._is_usual(request):
            if not self.prepared:
                add_headers(request, self)
            return await super().prepare(request)
        headers, body = self._headers, self._body
        setdefault = headers.setdefault
        for name, value in request[RESPONSE_HEADERS].items():
            setdefault(name, value)
        head = _serialize_headers(_STATUS, headers)[:-2] + _shared(tuple([name for name in HEADERS if name in headers]))
        self._req, self._must_be_empty_body, self._keep_alive = request, False, True
        writer = self._payload_writer = request._payload_writer
        writer._headers_buf = b"%b%bContent-Length: %d\r\n\r\n" % (head, _date(int(time.time())), len(body))  # type: ignore[attr-defined,arg-type]
        return writer

    def _is_usual(self, request: web.BaseRequest) -> bool:
        return (
            request.version == HttpVersion11
            and request.method != hdrs.METH_HEAD
            and self._status == 200
            and self._keep_alive is None
            and request.keep_alive
            and self._cookies is None
            and not self._chunked
            and isinstance(self._body, bytes)
        )


@functools.lru_cache(maxsize=64)
def _shared(own: tuple[str, ...]) -> bytes:
    """Return the lines of the headers of all responses, without those that a response sets itself."""
    return "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items() if name not in own).encode()


@functools.lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
