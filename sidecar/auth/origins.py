"""Where a request says that it comes from, and where to: Host, Origin, X-Forwarded-For, and what follows from them.

Without any credential these are all that stands between a web page and a shell, on a server that listens on loopback.
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
#: No page from elsewhere can have a name that ends so: these are no domains of the public DNS.
_CLUSTER = (
    ".svc",
    ".cluster.local",
    ".kubernetes",  # by which clients of the API server call a pod through a port-forward, flux-operator's SDK too
    ".localhost",
    ".docker.internal",  # by which containers call their host, as the next ones
    ".containers.internal",
    ".minikube.internal",
    ".k3d.internal",
    ".lima.internal",
)
_LONGEST_NAME = 262  # characters: of a name in DNS, a colon and a port
_HOPS = 16  # proxies in a row that are looked at
_LONGEST_ADDRESS = 45  # characters, of an IPv6 address
_ELSEWHERE = "A page from elsewhere may not call here; see --allowed-origins."


class Origins:
    """Which hosts, pages and proxies are ours.

    Args:
        hosts: names that the server is called by, beside those that no page from elsewhere can take.
        pages: origins of other web pages that may call.
        proxies: networks of proxies that say truly who has called them.
        strict: names without a dot are let in only where they are known to be this server's. Such a name can be
            anything on a network that resolves it, and where no credential is asked for Host is all that tells a page
            of this server from one whose name was made to point here.
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
        """Let a request through that is meant for this server.

        A page whose name was made to point here (DNS rebinding) still sends its own name as Host. Only HTTP/1.0, which
        no browser sends, may leave it out (RFC 9112, 3.2), as a load balancer's checks do.

        Raises:
            Misdirected: it names another host, or none.
        """
        host = request.headers.get(hdrs.HOST)
        if host is None and request.version == HttpVersion10:
            host = request.host  # of a whole address in the request line, else the address that was connected to
        if not host:
            raise Misdirected("The request names no host: send the header Host, with a name of --allowed-hosts.")
        # A whole address in the request line, as it is sent to a proxy, counts more than Host (RFC 9112, 3.2.2).
        for name in (host, request.host):
            if len(name) > _LONGEST_NAME or not self._host_known(name):
                raise Misdirected(
                    f"This server is not called {name[:100]!r}; add the name to --allowed-hosts if it is."
                )

    def check_page(self, request: web.Request) -> None:
        """Let a request through that no page from elsewhere has sent.

        A browser says from which page a request comes; what is no browser says nothing, and shows a credential.

        Raises:
            Forbidden: another page's script has sent it.
        """
        if request.method in SAFE:
            return
        if not _is_ours(request) and request.headers.get(hdrs.ORIGIN) not in self.pages:
            raise Forbidden(_ELSEWHERE)

    def is_elsewhere(self, request: web.Request) -> bool:
        """Whether a request comes from another page, which may call, but not as whoever has logged in here.

        To a browser a page of the same site is no stranger: it sends our cookies along.
        """
        return bool(self.pages) and not _is_ours(request)

    def address(self, request: web.Request) -> str:
        """Return where a request comes from, as far as can be believed."""
        remote = request.remote or "socket"
        if not self._proxies:
            return remote
        # Each proxy adds the address that has called it: the last one that is no proxy of ours is the caller's.
        lines = request.headers.getall("X-Forwarded-For", ())[-_HOPS:]
        hops = [*(hop.strip() for line in lines for hop in line.rsplit(",", _HOPS)[-_HOPS:]), remote][-_HOPS:]
        for hop in reversed(hops):
            found = read_address(hop)  # some write the port too
            if found is None:
                return hop[:_LONGEST_ADDRESS]
            if not any(found in network for network in self._proxies):
                return str(found)
        return hops[0]

    # --------------------------------------------------------------------------------------------------- CORS

    def shared_with(self, request: web.Request) -> dict[str, str]:
        """Return the headers that let another page, which may call, read the answer."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin not in self.pages or origin is None:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Link, Location, Retry-After, Flux-Events-Position, X-Request-Id",
        }

    def preflight(self, request: web.Request) -> web.Response | None:
        """Answer a browser that asks whether another page may call; None when it does not ask."""
        if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return None
        if request.headers.get(hdrs.ORIGIN) not in self.pages:
            raise Forbidden(_ELSEWHERE)
        allowed = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id",
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers={**self.shared_with(request), **allowed})


def _is_ours(request: web.Request) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    origin, site = request.headers.get(hdrs.ORIGIN), request.headers.get("Sec-Fetch-Site")
    if site is not None:  # not sent over plain HTTP, but to localhost
        return site in ("same-origin", "none")
    return origin is None or origin.partition("://")[2] == request.headers.get(hdrs.HOST)


class _Names:
    """The names that are known to be this server's.

    Args:
        hosts: those that were configured; ``*.example.org`` is every name below.
        strict: whether a name without a dot has to be one of them, of this machine, or of a Service of its namespace.
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
        """Whether a name without a dot is let in."""
        return not self._strict or name == "localhost" or name in self.hosts or self._is_own(name)

    def with_dots(self, name: str) -> bool:
        """Whether another name is let in; ``SERVICE.NAMESPACE`` is one where both are this pod's."""
        if name in self.hosts or name in self._machine or name.endswith(self._suffixes):
            return True
        first, _, rest = name.partition(".")
        if rest == self._namespace and self._is_own(first):
            return True
        return any(known.startswith("*.") and name.endswith(known[1:]) for known in self.hosts)

    def _is_own(self, name: str) -> bool:
        return name in self._machine or names.as_variable(name) in self._services


def _host_known(names_: _Names, host: str) -> bool:
    """Whether a Host is one that no page from elsewhere can have, or one of ours."""
    if _is_address(host):  # of a whole address in the request line an IPv6 address comes without brackets
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
