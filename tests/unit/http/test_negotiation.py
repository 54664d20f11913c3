"""Accept header: RFC 9110, section 12.5.1."""

from __future__ import annotations

import time

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import NotAcceptable
from sidecar.http.negotiation import MEDIA_TYPE, accepts_gzip, best, choose

JSON, TEXT, BYTES = "application/json", "text/plain", "application/octet-stream"
OFFERED = (JSON, TEXT, BYTES)


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        (" */* ; q=0.1 ", JSON),
        ("text/plain", TEXT),
        ("TEXT/Plain;Q=1", TEXT),
        ("text/plain;charset=utf-8", TEXT),
        ("text/plain, */*", TEXT),
        ("*/*, text/plain", TEXT),
        ("text/*", TEXT),
        ("application/*", JSON),
        ("application/octet-stream, application/*", BYTES),
        ("text/plain;q=0.5, application/json;q=0.4", TEXT),
        ("text/plain;q=0.5, application/json", JSON),
        ("text/plain, application/json", TEXT),
        ("application/json, text/plain, */*", JSON),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("application/json;q=0, */*", TEXT),
        ("application/*;q=0, */*;q=0.1", TEXT),
        ("application/json;q=0.2, application/*;q=0.9", BYTES),
        ("text/plain;q=0.001", TEXT),
        ("text/plain;q=0", None),
        ("*/*;q=0", None),
        ("image/png", None),
        ("image/*, text/html", None),
        ("json", JSON),
        ("text", JSON),
        ("*/json", JSON),
        ("text/plain;q=2", JSON),
        ("text/plain;q=, image/png", None),
        (",,text/plain,,", TEXT),
        ("text/plain;format=flowed;q=0.3, application/json;q=0.2;x=y", TEXT),
        ("é", JSON),
        (",".join(["image/png"] * 63 + ["text/plain"]), TEXT),
    ],
)
def test_preferred_type(accept: str | None, found: str | None) -> None:
    assert best(accept, OFFERED) == found


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        ("application/problem+json", JSON),
        ("text/html, Application/Problem+JSON;q=0.1", JSON),
        ("application/problem+json, image/*", JSON),
        ("*/*;q=0.5, application/json;q=0", None),
        ("application/*, application/json;q=0", None),
        ("application/problem+json, application/json;q=0", None),
        ("application/problem+json, */*;q=0", None),
        ("application/problem+json;q=0", None),
        ("application/problem+xml", None),
        ("image/png", None),
    ],
)
def test_type_of_errors_stands_for_the_default(accept: str, found: str | None) -> None:
    request = make_mocked_request("GET", "/v1/whoami", headers={"Accept": accept})
    if found is None:
        with pytest.raises(NotAcceptable):
            choose(request, (JSON,))
    else:
        choose(request, (JSON,))
        assert request[MEDIA_TYPE] == found


@given(st.text(max_size=200))
def test_any_header_gives_a_type(accept: str) -> None:
    assert best(accept, OFFERED) in (*OFFERED, None)


@pytest.mark.parametrize(
    "accept",
    [
        ",".join(["a/b;q=0.1"] * 6000),
        "a" * 60_000,
        "a/b;" + "q=" * 30_000,
        " " * 60_000 + "a",
        "a/b" + " " * 60_000 + "x",
    ],
)
def test_long_headers_are_parsed_quickly(accept: str) -> None:
    before = time.process_time()
    best(accept, OFFERED)
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("br;q=1.0, gzip;q=0.001", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*", True),
        ("*;q=0", False),
        ("identity", False),
        ("identity;q=0", False),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("identity;q=0.6, gzip;q=0.5", False),
        ("gzip;q=2", False),
        ("gzip;q=x", False),
        ("gzipped", False),
        ("," * 1000 + "gzip", False),
    ],
)
def test_gzip(header: str | None, expected: bool) -> None:
    headers = {} if header is None else {"Accept-Encoding": header}
    assert accepts_gzip(make_mocked_request("GET", "/", headers)) is expected
