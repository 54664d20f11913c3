"""Addresses that options take: the listen address, host names and origins, networks, and URIs of instances."""

from __future__ import annotations

import contextlib
import ipaddress
import re

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_LONGEST = 254  # characters of a name in DNS, including a final dot
_PORT = re.compile(r":[0-9]{1,5}")
_ORIGIN = re.compile(r"(https?)://([^/@?#\s*]+)")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_SSH = re.compile(r"[^/\s]+/\S.*")
_JOB = r"[ƒf][1-9A-HJ-NP-Za-km-z]+|[0-9][0-9a-fx.]*"
_ANCESTOR = re.compile(rf"/?((\.\.?|{_JOB})/+)*(\.\.?|{_JOB})?")  # flux_open(3): the root, the parent, a job's instance


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_listening(text: str) -> None:
    """Check an address to listen on.

    Raises:
        ValueError: it is neither a name nor an IP address; the text says what to write.
    """
    if not _is_address(text) and not _is_name(text):
        raise ValueError(
            f"{text[:80]!r} is not an address; use a name or an IP address, without scheme, port and brackets "
            "(0.0.0.0 or :: is every address of this machine)"
        )


def allowed_host(text: str) -> str:
    """Return a host name of the server in the form of a request's: in lower case, without port.

    ``*.example.org`` stands for every subdomain.

    Raises:
        ValueError: no request can have such a name; the text says what to write.
    """
    plain = _without_port(text)
    if _is_address(plain.removeprefix("[").removesuffix("]")):
        return plain.lower()
    if _is_name(plain.removeprefix("*.")):
        return plain.lower().rstrip(".")
    hint = "write a name, as in lead.example.org, or *.example.org for every subdomain"
    if plain == "*":
        hint = "every name cannot be accepted; list the names, or write *.example.org for every subdomain"
    elif plain.startswith(".") and _is_name(plain[1:]):
        hint = f"write *{plain} for every subdomain"
    elif "//" in plain and (name := _without_port(plain.partition("//")[2].partition("/")[0])) and _is_name(name):
        hint = f"write the name alone: {name}"
    raise ValueError(f"{text[:80]!r} is not a host name; {hint}")


def origin(text: str) -> str:
    """Return the origin of a web page as browsers send it: in lower case, without the scheme's default port.

    Raises:
        ValueError: no browser sends it; the text says what to write.
    """
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"{text[:80]!r} is not an origin; write it as https://portal.example.org, without a path")
    return match[0].removesuffix(_DEFAULT_PORTS[match[1]])


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return a network, or an address as a network of one.

    Raises:
        ValueError: ``text`` is neither; the error says what to write.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        hint = "write it as 10.0.0.0/8"
    with contextlib.suppress(ValueError):
        hint = f"the network of this address is {ipaddress.ip_network(text, strict=False)}"
    raise ValueError(f"{text[:80]!r} is not an address or a network; {hint}")


def check_instance(uri: str) -> None:
    """Check the URI of a Flux instance. libflux has connectors for ``local://`` and ``ssh://`` only.

    Raises:
        ValueError: libflux can never connect to it; the text says what to write.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "local" and rest.strip():
        return
    if separator and scheme == "ssh" and _SSH.fullmatch(rest):
        return
    if uri.startswith(("/", ".")) and _ANCESTOR.fullmatch(uri):
        return
    hint = f"; for this socket local://{uri[:80]}" if uri.startswith("/") else ", as flux-uri(1) prints it"
    raise ValueError(f"{uri[:80]!r} is not the address of a Flux instance; use local://PATH or ssh://HOST/PATH{hint}")


def _without_port(text: str) -> str:
    """Return a host without its port; before a port, an IPv6 address has brackets."""
    host, colon, port = text.rpartition(":")
    return host if _PORT.fullmatch(colon + port) and (":" not in host or host.endswith("]")) else text


def _is_name(text: str) -> bool:
    """Whether ``text`` is a host name; one that ends with a number is a wrong address, such as 300.1.1.1."""
    last = text.rstrip(".").rpartition(".")[2]
    return len(text) <= _LONGEST and bool(_NAME.fullmatch(text)) and not last.isdecimal()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
