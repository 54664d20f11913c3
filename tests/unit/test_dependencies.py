"""What this package uses of others that is not their documented API, and what it relies on without saying so.

Each test names the version that it was written for. When one fails after an update, look at the new version's code
before anything else: what stands here is used where a test of behaviour may not notice its loss.
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

AIOHTTP = "aiohttp 3.14"
PYTHON = "Python 3.11 to 3.13"
SSE = "aiohttp-sse 3.0"


def source(of: object) -> str:
    return inspect.getsource(of)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["_request_count", "_reading_paused", "_buffer_paused", "_messages", "_force_close", "transport"]
)
def test_what_a_connection_reads_of_its_handler(name: str) -> None:
    """sidecar/http/connection.py; of aiohttp 3.14."""
    slots = {slot for cls in web.RequestHandler.__mro__ for slot in getattr(cls, "__slots__", ())}
    assert name in slots, AIOHTTP


@pytest.mark.parametrize(
    "name",
    ["connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing", "handle_error", "force_close",
     "close", "start", "finish_response"],
)  # fmt: skip
def test_what_a_connection_extends_of_its_handler(name: str) -> None:
    assert callable(getattr(web.RequestHandler, name)), AIOHTTP


def test_requests_are_counted_when_their_heads_are_complete() -> None:
    """sidecar/http/connection.py tells a head that is too long from a body by it."""
    assert "self._request_count += 1" in source(web.RequestHandler.data_received), AIOHTTP


def test_a_connection_is_left_open_by_aiohttp_when_it_is_forced_to_close() -> None:
    """sidecar/http/connection.py closes it itself then, after a while in which the peer may read the answer."""
    assert "if not self._force_close:\n            self._task_handler = None" in source(web.RequestHandler.start), (
        AIOHTTP
    )


def test_errors_of_the_parser_are_in_the_place_of_a_request() -> None:
    """sidecar/http/connection.py: one in a body ends that."""
    text = source(web.RequestHandler.data_received)
    assert "_ErrInfo(status=400, exc=exc, message=exc.message), EMPTY_PAYLOAD" in text, AIOHTTP
    assert "self._messages.append((msg, payload))" in text, AIOHTTP


def test_errors_of_the_parser_come_by_way_of_handle_error() -> None:
    """sidecar/http/connection.py gives them the shape of all errors there."""
    assert "self.handle_error(" in source(web.RequestHandler._make_error_handler), AIOHTTP
    assert list(inspect.signature(web.RequestHandler.handle_error).parameters) == [
        "self", "request", "status", "exc", "message",
    ], AIOHTTP  # fmt: skip


@pytest.mark.parametrize(
    "name", ["read_bufsize", "auto_decompress", "max_line_size", "max_field_size", "access_log", "keepalive_timeout"]
)
def test_what_a_handler_is_made_with(name: str) -> None:
    assert name in inspect.signature(web.RequestHandler.__init__).parameters, AIOHTTP


def test_the_handler_of_a_server_can_be_replaced() -> None:
    """sidecar/http/listeners.py puts its own around it, which each new connection takes from the server."""
    assert "self._request_handler: _RequestHandler | None = manager.request_handler" in source(
        web.RequestHandler.__init__
    ), AIOHTTP


def test_a_site_is_registered_by_its_base() -> None:
    """sidecar/http/connections.py has sites of its own."""
    assert "_reg_site" in source(web.BaseSite.start), AIOHTTP
    assert "_unreg_site" in source(web.BaseSite.stop), AIOHTTP


def test_a_response_knows_its_request() -> None:
    """sidecar/http/sse.py: the streams look there for path, place and transport."""
    assert "self._req = request" in source(web.StreamResponse._start), AIOHTTP
    assert "self._req = None" in source(web.StreamResponse.write_eof), AIOHTTP


def test_how_chunks_are_framed() -> None:
    """sidecar/http/sse.py writes the last one itself, to a reader for which nothing more is to be kept."""
    from aiohttp.http_writer import StreamWriter

    assert re.search(r'f"\{len\(chunk\):x\}\\r\\n"', source(StreamWriter._write_chunked_payload)), AIOHTTP


def test_a_write_waits_for_the_connection() -> None:
    """sidecar/http/streaming.py has no time-out of its own: a write waits until the connection takes more, or is lost."""
    assert "await waiter" in source(BaseProtocol._drain_helper), AIOHTTP
    assert "_drain_waiter" in source(BaseProtocol.connection_lost), AIOHTTP


def test_a_stream_of_events_pings_and_is_prepared_as_any_other() -> None:
    parameters = inspect.signature(EventSourceResponse.__init__).parameters
    assert {"sep", "ping_interval"} <= parameters.keys(), SSE
    assert issubclass(EventSourceResponse, web.StreamResponse), SSE


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing", "connection_lost", "_set_write_buffer_limits"])
def test_what_a_connection_extends_of_tls(name: str) -> None:
    """sidecar/http/connection.py; of Python 3.11 to 3.13."""
    assert callable(getattr(SSLProtocol, name)), PYTHON


def test_how_tls_is_put_on() -> None:
    names = list(inspect.signature(SSLProtocol.__init__).parameters)
    assert names[1:5] == ["loop", "app_protocol", "sslcontext", "waiter"], PYTHON
    assert {"server_side", "ssl_handshake_timeout"} <= set(names), PYTHON


async def test_how_much_is_read_at_once_can_be_set() -> None:
    """sidecar/http/connection.py: :func:`bounded`."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    assert hasattr(writer.transport, "max_size"), PYTHON
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_the_versions_that_these_tests_are_about() -> None:
    import aiohttp
    import aiohttp_sse

    assert aiohttp.__version__.startswith("3.14."), f"written for {AIOHTTP}; see the docstring of this module"
    assert aiohttp_sse.__version__.startswith("3.0"), f"written for {SSE}; see the docstring of this module"
    assert (3, 11) <= sys.version_info < (3, 14), f"written for {PYTHON}; see the docstring of this module"
