"""Addresses that options take."""

from __future__ import annotations

import re

import pytest

from sidecar.config import addresses
from sidecar.config.values import SettingsError
from tests.support.settings import make_settings


def error_of(**options: object) -> str:
    """Return the error for settings that are not valid."""
    with pytest.raises(SettingsError) as caught:
        make_settings(embedded=True, **options).check()
    return str(caught.value)


@pytest.mark.parametrize(
    "host", ["http://localhost", "localhost:5000", "127.0.0.1:80", "300.1.1.1", "", " ", "[::1]", "a b", "-x"]
)
def test_an_invalid_listen_address_is_rejected(host: str) -> None:
    text = f"--host: {host!r} is not an address; use a name or an IP address, without scheme, port and brackets"
    assert text in error_of(host=host)
    assert text in error_of(host=host, no_auth=True)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("http://web.io/", "write the name alone: web.io"),
        ("https://web.io:443", "write the name alone: web.io"),
        ("*", "every name cannot be accepted; list the names, or write *.example.org"),
        (".dot.io", "write *.dot.io for every subdomain"),
        ("a.*.io", "write a name, as in lead.example.org, or *.example.org"),
        ("*.*.io", "write a name"),
        ("*.", "write a name"),
        ("a..io", "write a name"),
        ("web.io/x", "write a name"),
        ("web.io:port", "write a name"),
        ("a b", "write a name"),
    ],
)
def test_an_invalid_allowed_host_is_rejected(host: str, text: str) -> None:
    error = error_of(allowed_hosts=f"lead.example.org, {host}")
    assert error.startswith(f"--allowed-hosts: {host!r} is not a host name; {text}")


@pytest.mark.parametrize(
    ("host", "normalized"),
    [
        ("Lead.IO:7412", "lead.io"),
        ("lead.io.", "lead.io"),
        ("gateway", "gateway"),
        ("my_host", "my_host"),
        ("*.Example.org:443", "*.example.org"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("::1", "::1"),
        ("[::1]:80", "[::1]"),
    ],
)
def test_allowed_hosts_are_normalized(host: str, normalized: str) -> None:
    assert addresses.allowed_host(host) == normalized
    make_settings(embedded=True, allowed_hosts=host).check()


@pytest.mark.parametrize(
    "page", ["portal.example.org", "https://a.org/x", "https://", "*", "https://*.a.org", "https://a@b.org"]
)
def test_an_invalid_origin_is_rejected(page: str) -> None:
    assert f"--allowed-origins: {page!r} is not an origin; write it as https://" in error_of(allowed_origins=page)


def test_origins_are_normalized() -> None:
    pages = ["https://Portal.example.org:443", "http://a.org:80", "http://a.org:443"]
    assert [*map(addresses.origin, pages)] == ["https://portal.example.org", "http://a.org", "http://a.org:443"]


def test_an_invalid_network_is_rejected() -> None:
    assert "'10.0.0.1/8' is not an address or a network; the network of this address is 10.0.0.0/8" in error_of(
        trusted_proxies="10.0.0.1/8"
    )
    assert "'ingress' is not an address or a network; write it as 10.0.0.0/8" in error_of(trusted_proxies="ingress")


@pytest.mark.parametrize(
    "uri",
    ["foo", "tcp://1.2.3.4", "local:/x", "local://", "ssh://host", "ssh:///x", "loop://", "shmem://x", "/tmp/flux/local", " "],
)  # fmt: skip
def test_a_uri_that_libflux_cannot_connect_to_is_rejected(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """The server would retry forever; also for a URI from Flux's own variable."""
    text = f"{uri!r} is not the address of a Flux instance; use local://PATH or ssh://HOST/PATH"
    monkeypatch.delenv("FLUX_URI", raising=False)
    with pytest.raises(SettingsError, match=re.escape(f"--uri: {text}")):
        make_settings(uri=uri).check()
    monkeypatch.setenv("FLUX_URI", uri)
    with pytest.raises(SettingsError, match=re.escape(f"--uri (from the variable FLUX_URI): {text}")):
        make_settings(uri=uri).check()


@pytest.mark.parametrize(
    "uri",
    ["local:///run/flux/local", "local://relative", "ssh://host/run/local", "ssh://me@host:22/x?y", "/", "..", "../..",
     "/ƒ2oKj3/f4", "/123"],
)  # fmt: skip
def test_a_uri_that_libflux_can_connect_to(uri: str) -> None:
    make_settings(uri=uri).check()
