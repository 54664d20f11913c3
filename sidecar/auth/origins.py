"""Check the Host and Origin headers, handle CORS, and read the client's address from X-Forwarded-For.

On a server without authentication that listens on loopback, these checks alone keep web pages from running commands.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

from aiohttp import HttpVersion10, hdrs, web

from sidecar.cluster import names
from sidecar.config.environment import in_kubernetes, service_names
from sidecar.domain.errors import Forbidden, Misdirected
from sidecar.runtime.rate_limiter import read_address

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
#: No foreign page can have a name with these suffixes: they are not domains of the public DNS.
_CLUSTER = (
    ".svc",
    ".cluster.local",
    ".kubernetes",  # used by clients of the API server for a port-forward to a pod, also by flux-operator's SDK
    ".localhost",
    ".docker.internal",  # this and the next ones: the host's name in its containers
    ".containers.internal",
    ".minikube.internal",
    ".k3d.internal",
    ".lima.internal",
)
_LONGEST_NAME = 262  # characters: of a name in DNS, a colon and a port
_HOPS = 16  # proxies of a chain that are evaluated
_LONGEST_ADDRESS = 45  # characters, of an IPv6 address
_ELSEWHERE = "A page from elsewhere may not call here; see --allowed-origins."


class Origins:
    """The allowed hosts, origins and proxies.

    Args:
        hosts: names of the server, in addition to those that no foreign page can have.
        pages: origins of other web pages that may send requests.
        proxies: networks of reverse proxies with a trusted X-Forwarded-For.
        strict: accept a name without a dot only if it is known to be this server's. A local network may resolve such
            a name to anything, and without authentication only Host distinguishes a page of this server from one that
            uses DNS rebinding.
    """

    def __init__(
        self, hosts: Iterable[str], pages: Iterable[str], proxies: Iterable[str], *, strict: bool = False
    ) -> None:
        self.pages = frozenset(pages)
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._host_known = functools.lru_cache(maxsize=256)(
            functools.partial(_host_known, _Names(frozenset(hosts), strict))
        )

    def check_host(self, request: web.Request) -> None:
        """Require a Host of this server.

        A page that uses DNS rebinding still sends its own name as Host. Only HTTP/1.0, which no browser sends, may omit
        the header (RFC 9112, 3.2), as the health checks of load balancers do.

        Raises:
            Misdirected: the request names another host, or none.
        """
        host = request.headers.get(hdrs.HOST)
        if host is None and request.version == HttpVersion10:
            host = request.host  # from an absolute URL in the request line, else the local address
        if not host:
            raise Misdirected("The request names no host: send the header Host, with a name of --allowed-hosts.")
        # An absolute URL in the request line, as sent to a proxy, takes precedence over Host (RFC 9112, 3.2.2).
        target = request.host
        for name in (host,) if target == host else (host, target):
            if len(name) > _LONGEST_NAME or not self._host_known(name):
                raise Misdirected(
                    f"This server is not called {name[:100]!r}; add the name to --allowed-hosts if it is."
                )

    def check_page(self, request: web.Request) -> None:
        """Refuse a request that changes something and was sent by a foreign page.

        A browser sends the origin of the page; other clients send none, and authenticate with a credential.

        Raises:
            Forbidden: a page of another origin has sent the request.
        """
        if request.method in SAFE:
            return
        if not _is_ours(request) and request.headers.get(hdrs.ORIGIN) not in self.pages:
            raise Forbidden(_ELSEWHERE)

    def is_elsewhere(self, request: web.Request) -> bool:
        """Whether a request comes from an allowed page of another origin, which must not use the session cookie.

        Browsers attach the cookie to requests from pages of the same site, which may be of another origin.
        """
        return bool(self.pages) and not _is_ours(request)

    def address(self, request: web.Request) -> str:
        """Return the client's address; X-Forwarded-For is used as far as trusted proxies have written it."""
        remote = request.remote or "socket"
        if not self._proxies:
            return remote
        # Each proxy appends its client's address: the last one that is not a trusted proxy's is the caller's.
        lines = request.headers.getall("X-Forwarded-For", ())[-_HOPS:]
        hops = [*(hop.strip() for line in lines for hop in line.rsplit(",", _HOPS)[-_HOPS:]), remote][-_HOPS:]
        for hop in reversed(hops):
            found = read_address(hop)  # some proxies add the port
            if found is None:
                return hop[:_LONGEST_ADDRESS]
            if not any(found in network for network in self._proxies):
                return str(found)
        return hops[0]

    # --------------------------------------------------------------------------------------------------- CORS

    def shared_with(self, request: web.Request) -> dict[str, str]:
        """Return the CORS headers that allow a page of an allowed origin to read the response."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin not in self.pages or origin is None:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "ETag, Link, Location, Retry-After, Flux-Events-Position, X-Request-Id",
        }

    def preflight(self, request: web.Request) -> web.Response | None:
        """Return the response to a CORS preflight request; None for any other request.

        Raises:
            Forbidden: the origin is not allowed.
        """
        if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return None
        if request.headers.get(hdrs.ORIGIN) not in self.pages:
            raise Forbidden(_ELSEWHERE)
        allowed = {
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match, "
            "Last-Event-ID, X-Request-Id, X-Token",
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers={**self.shared_with(request), **allowed})


def _is_ours(request: web.Request) -> bool:
    """Whether a request comes from a page of this server, or from no page."""
    origin, site = request.headers.get(hdrs.ORIGIN), request.headers.get("Sec-Fetch-Site")
    if site is not None:  # over plain HTTP, browsers send it to localhost only
        return site in ("same-origin", "none")
    return origin is None or origin.partition("://")[2] == request.headers.get(hdrs.HOST)


class _Names:
    """The known names of this server.

    Args:
        hosts: from the configuration; ``*.example.org`` matches every name below it.
        strict: whether a name without a dot must be one of them, of this machine, or of a Service of the namespace.
    """

    def __init__(self, hosts: frozenset[str], strict: bool) -> None:
        self.hosts = hosts
        self._machine = names.own_names()
        self._services = service_names()
        self._strict = strict
        pod = names.resolver_domain() if in_kubernetes() else names.ResolverDomain("", "")
        self._namespace = pod.namespace
        self._suffixes = (*_CLUSTER, f".svc.{pod.domain}") if pod.domain else _CLUSTER

    def without_dot(self, name: str) -> bool:
        """Whether a name without a dot is accepted."""
        return not self._strict or name == "localhost" or name in self.hosts or self._is_own(name)

    def with_dots(self, name: str) -> bool:
        """Whether a name with dots is accepted; ``SERVICE.NAMESPACE`` is if both are this pod's."""
        if name in self.hosts or name in self._machine or name.endswith(self._suffixes):
            return True
        first, _, rest = name.partition(".")
        if rest == self._namespace and self._is_own(first):
            return True
        return any(known.startswith("*.") and name.endswith(known[1:]) for known in self.hosts)

    def _is_own(self, name: str) -> bool:
        return name in self._machine or names.as_variable(name) in self._services


def _host_known(names_: _Names, host: str) -> bool:
    """Whether a Host is one that no foreign page can have, or one of this server."""
    if _is_address(host):  # aiohttp strips the brackets of an IPv6 address in an absolute URL
        return True
    name, colon, port = host.rpartition(":")
    if not colon or (port and not port.isdecimal()):  # a port may be empty (RFC 3986, 3.2.3)
        name = host
    name = name.lower().rstrip(".")
    if _is_address(name):
        return True
    if not name or not all(part and part.replace("-", "").replace("_", "").isalnum() for part in name.split(".")):
        return False
    return names_.with_dots(name) if "." in name else names_.without_dot(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
