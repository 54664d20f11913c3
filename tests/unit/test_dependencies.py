"""Undocumented parts of other packages that this one relies on.

Each test names the version that it was written for. If one fails after an update, read the code of the new version
first: tests of behaviour may not notice a change of these parts.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from asyncio.sslproto import SSLProtocol

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp_sse import EventSourceResponse

from sidecar.http.connection import Handler

AIOHTTP = "aiohttp 3.14"
PYTHON = "Python 3.11 to 3.13"
SSE = "aiohttp-sse 3.0"


def source(of: object) -> str:
    return inspect.getsource(of)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["_request_count", "_reading_paused", "_buffer_paused", "_messages", "_force_close", "transport"]
)
def test_attributes_of_the_connection_handler(name: str) -> None:
    """sidecar/http/connection.py; of aiohttp 3.14."""
    slots = {slot for cls in web.RequestHandler.__mro__ for slot in getattr(cls, "__slots__", ())}
    assert name in slots, AIOHTTP


@pytest.mark.parametrize(
    "name",
    ["connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing", "handle_error", "force_close",
     "close", "start", "finish_response"],
)  # fmt: skip
def test_methods_of_the_connection_handler(name: str) -> None:
    assert callable(getattr(web.RequestHandler, name)), AIOHTTP


def test_attributes_of_a_connection_hide_none_of_aiohttp() -> None:
    """Such as ``_paused``: a write would wait for ever."""
    slots = {slot for cls in web.RequestHandler.__mro__ for slot in getattr(cls, "__slots__", ())}
    own = set(re.findall(r"self\.(\w+)(?:: [^=\n]+)? = ", source(Handler.__init__)))
    assert len(own) > 5
    assert not own & slots, AIOHTTP


def test_requests_are_counted_when_their_heads_are_complete() -> None:
    """sidecar/http/connection.py distinguishes a head that is too long from a body by it."""
    assert "self._request_count += 1" in source(web.RequestHandler.data_received), AIOHTTP


def test_aiohttp_leaves_a_connection_open_that_is_forced_to_close() -> None:
    """sidecar/http/connection.py closes it itself, after the peer has had time to read the response."""
    assert "if not self._force_close:\n            self._task_handler = None" in source(web.RequestHandler.start), (
        AIOHTTP
    )


def test_errors_of_the_parser_take_the_place_of_a_request() -> None:
    """sidecar/http/connection.py ends a body in which one occurs."""
    text = source(web.RequestHandler.data_received)
    assert "_ErrInfo(status=400, exc=exc, message=exc.message), EMPTY_PAYLOAD" in text, AIOHTTP
    assert "self._messages.append((msg, payload))" in text, AIOHTTP


def test_errors_of_the_parser_are_passed_to_handle_error() -> None:
    """sidecar/http/connection.py renders them like all other errors."""
    assert "self.handle_error(" in source(web.RequestHandler._make_error_handler), AIOHTTP
    assert list(inspect.signature(web.RequestHandler.handle_error).parameters) == [
        "self", "request", "status", "exc", "message",
    ], AIOHTTP  # fmt: skip


@pytest.mark.parametrize(
    "name", ["read_bufsize", "auto_decompress", "max_line_size", "max_field_size", "access_log", "keepalive_timeout"]
)
def test_parameters_of_the_connection_handler(name: str) -> None:
    assert name in inspect.signature(web.RequestHandler.__init__).parameters, AIOHTTP


def test_the_handler_of_a_server_can_be_replaced() -> None:
    """sidecar/http/listeners.py wraps it; each new connection takes it from the server."""
    assert "self._request_handler: _RequestHandler | None = manager.request_handler" in source(
        web.RequestHandler.__init__
    ), AIOHTTP


def test_a_site_is_registered_by_its_base() -> None:
    """sidecar/http/tcp_listener.py derives listeners from it."""
    assert "_reg_site" in source(web.BaseSite.start), AIOHTTP
    assert "_unreg_site" in source(web.BaseSite.stop), AIOHTTP


def test_a_response_knows_its_request() -> None:
    """sidecar/http/sse.py reads path, admission and transport of it."""
    assert "self._req = request" in source(web.StreamResponse._start), AIOHTTP
    assert "self._req = None" in source(web.StreamResponse.write_eof), AIOHTTP


def test_headers_wait_for_the_body() -> None:
    """sidecar/http/whole.py encodes the headers itself, and has aiohttp write them together with the body."""
    from aiohttp.http_writer import StreamWriter, _serialize_headers

    assert "self._payload_writer = request._payload_writer" in source(web.StreamResponse._start), AIOHTTP
    assert "self._headers_buf = buf" in source(StreamWriter.write_headers), AIOHTTP
    assert "self._send_headers_with_payload(chunk, True)" in source(StreamWriter.write_eof), AIOHTTP
    assert _serialize_headers("HTTP/1.1 200 OK", {"A": "b"}) == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", AIOHTTP  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Potential header injection"):
        _serialize_headers("HTTP/1.1 200 OK", {"A": "b\r\nC: d"})  # type: ignore[arg-type]


def test_how_chunks_are_framed() -> None:
    """sidecar/http/sse.py writes the last one itself, to a reader that is too slow."""
    from aiohttp.http_writer import StreamWriter

    assert re.search(r'f"\{len\(chunk\):x\}\\r\\n"', source(StreamWriter._write_chunked_payload)), AIOHTTP


def test_a_write_waits_for_the_connection() -> None:
    """sidecar/http/streaming.py has no timeout: a write waits until the connection takes more data, or is lost."""
    assert "await waiter" in source(BaseProtocol._drain_helper), AIOHTTP
    assert "_drain_waiter" in source(BaseProtocol.connection_lost), AIOHTTP


def test_a_stream_of_events_pings_and_is_prepared_as_any_other() -> None:
    parameters = inspect.signature(EventSourceResponse.__init__).parameters
    assert {"sep", "ping_interval"} <= parameters.keys(), SSE
    assert issubclass(EventSourceResponse, web.StreamResponse), SSE


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing", "connection_lost", "_set_write_buffer_limits"])
def test_methods_of_a_tls_connection(name: str) -> None:
    """sidecar/http/tls_connection.py; of Python 3.11 to 3.13."""
    assert callable(getattr(SSLProtocol, name)), PYTHON


def test_parameters_of_a_tls_connection() -> None:
    names = list(inspect.signature(SSLProtocol.__init__).parameters)
    assert names[1:5] == ["loop", "app_protocol", "sslcontext", "waiter"], PYTHON
    assert {"server_side", "ssl_handshake_timeout"} <= set(names), PYTHON


async def test_the_size_of_a_read_can_be_set() -> None:
    """sidecar/http/connections.py sets it."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    assert hasattr(writer.transport, "max_size"), PYTHON
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_tested_versions() -> None:
    import aiohttp
    import aiohttp_sse

    assert aiohttp.__version__.startswith("3.14."), f"written for {AIOHTTP}; see the docstring of this module"
    assert aiohttp_sse.__version__.startswith("3.0"), f"written for {SSE}; see the docstring of this module"
    assert (3, 11) <= sys.version_info < (3, 14), f"written for {PYTHON}; see the docstring of this module"
