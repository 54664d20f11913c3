"""Arbitrary headers, tokens and JWTs: none is accepted, none causes an internal error, none is logged."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey

from tests.support.access import TokenFile, audit
from tests.support.harness import PLAIN, Server, embedded

SECRET, PASSWORD = "a secret that is shared with clients", "correct horse battery"

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("fuzz")
    tokens = TokenFile(directory, alice="admin")
    server = embedded(
        directory, *tokens.options, "--rate-limit", "0", "--guess-limit", "0", "--log-format", "json",
        FLUX_TOKEN=PASSWORD, FLUX_SECRET_KEY=SECRET,
    )  # fmt: skip
    yield server.ready()
    server.close()


def send(server: Server, *headers: bytes, path: bytes = b"/v1/jobs") -> int:
    """Send a request with the given bytes; return the status, or 0 if the connection was closed."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers, b"", b""])
        )
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(b" ", 2)[1]) if answer else 0


def _refused(server: Server, *headers: bytes) -> None:
    assert send(server, *headers) in (400, 401)
    assert "a request failed" not in server.text()


_BYTES = st.binary(max_size=200).filter(lambda value: b"\n" not in value and b"\r" not in value)


@FUZZ
@given(_BYTES)
def test_authorization_headers(secured: Server, value: bytes) -> None:
    _refused(secured, b"Authorization: " + value)


@FUZZ
@given(st.sampled_from([b"Bearer", b"bearer", b"Basic", b"BEARER", b"Negotiate", b"Bearer Bearer"]), _BYTES)
def test_credentials(secured: Server, scheme: bytes, value: bytes) -> None:
    _refused(secured, b"Authorization: " + scheme + b" " + value)
    _refused(secured, b"Authorization: " + scheme + b" " + base64.b64encode(value))


@FUZZ
@given(_BYTES)
def test_x_token_headers(secured: Server, value: bytes) -> None:
    _refused(secured, b"X-Token: " + value)


@FUZZ
@given(_BYTES)
def test_cookies(secured: Server, value: bytes) -> None:
    _refused(secured, b"Cookie: " + value)
    _refused(secured, b"Cookie: __Host-flux-sidecar-a3b5c7d9=" + value)


@FUZZ
@given(_BYTES)
def test_hosts_origins_and_request_ids(secured: Server, value: bytes) -> None:
    for name in (b"X-Request-Id", b"Origin", b"Sec-Fetch-Site", b"Last-Event-ID", b"Accept", b"X-Forwarded-For"):
        _refused(secured, name + b": " + value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3),
    max_leaves=5,
)
_CLAIMS = st.dictionaries(
    st.sampled_from(["iss", "sub", "exp", "nbf", "iat", "aud", "user", "pass", "scope"]) | st.text(max_size=5), _JSON
)
_HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["none", "None", "NONE", "", "HS256", "HS512", "RS256", "ES256", "dir"]) | _JSON},
    optional={
        "typ": _JSON,
        "kid": _JSON,
        "crit": _JSON,
        "jwk": _JSON,
        "jku": _JSON,
        "x5u": _JSON,
        "zip": st.just("DEF"),
    },
)


def _part(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


@FUZZ
@given(_HEADERS, _CLAIMS, st.binary(max_size=64))
def test_jwts(secured: Server, header: object, claims: object, signature: bytes) -> None:
    token = b".".join([_part(header), _part(claims), base64.urlsafe_b64encode(signature).rstrip(b"=")])
    _refused(secured, b"Authorization: Bearer " + token)
    answer = httpx.post(f"{secured.url}/v1/token", headers={"Authorization": f"Bearer {token.decode()}"}, verify=PLAIN)
    assert answer.status_code == 400


@FUZZ
@given(_CLAIMS)
def test_claims_signed_with_the_shared_secret(secured: Server, claims: dict[str, object]) -> None:
    """A client that knows the secret cannot create an access token, and no claims cause an internal error of the login."""
    try:
        token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))
    except (TypeError, ValueError):
        return  # invalid JSON is not a JWT
    _refused(secured, b"Authorization: Bearer " + token.encode())
    answer = httpx.post(f"{secured.url}/v1/token", headers={"Authorization": f"Bearer {token}"}, verify=PLAIN)
    assert answer.status_code == 400
    assert "a request failed" not in secured.text()


@pytest.mark.parametrize(
    "value",
    [b"Bearer " + b"a" * 8000, b"Bearer " + b"a." * 3000, b"Bearer \0", b"Bearer a\0b", "Bearer ü".encode(), b"Basic Og==",
     b"Basic " + base64.b64encode(b":"), b"Basic " + base64.b64encode(b"a" * 4000 + b":"), b"Bearer eyJhbGciOiJub25lIn0.e30.",
     b"Bearer " + _part({"alg": "HS256"}) + b"." + base64.urlsafe_b64encode(b"[" * 3000) + b".x"],
)  # fmt: skip
def test_malformed_credentials(secured: Server, value: bytes) -> None:
    _refused(secured, b"Authorization: " + value)


def test_form_with_its_own_charset(secured: Server) -> None:
    form = {"username": "fluxuser", "password": PASSWORD, "_charset_": "utf-7"}
    answer = httpx.post(f"{secured.url}/v1/login/access-token", data=form, verify=PLAIN)
    assert answer.status_code == 400
    assert "_charset_" in answer.json()["detail"]


def test_input_is_not_logged(secured: Server) -> None:
    mark = "hunter2-hunter2"
    send(secured, b"Authorization: Bearer " + mark.encode())
    send(secured, b"Authorization: Basic " + base64.b64encode(f"fluxuser:{mark}".encode()))
    send(secured, b"X-Token: " + mark.encode())
    assert send(secured, b"X-Token: " + mark.encode() + b"\x01") == 400
    send(secured, b"Cookie: a=" + mark.encode())
    assert send(secured, b"Authorization: Bearer " + mark.encode() + b"\x01") == 400  # aiohttp would log the line
    assert send(secured, path=f"/v1/jobs?name={mark}".encode()) == 401
    httpx.post(f"{secured.url}/login", data={"token": mark}, verify=PLAIN)
    httpx.post(f"{secured.url}/v1/login/access-token", data={"username": mark, "password": mark}, verify=PLAIN)
    text = secured.text()
    assert mark not in text
    assert "Traceback" not in text
    assert PASSWORD not in text
    assert SECRET not in text
    assert any(event["outcome"] == "refused" for event in audit(secured))
