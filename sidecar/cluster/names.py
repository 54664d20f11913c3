"""Names of this machine, or of this pod, read from files of ``/etc`` without DNS."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_HOSTS = Path("/etc/hosts")
_RESOLVER = Path("/etc/resolv.conf")


class ResolverDomain(NamedTuple):
    """The namespace and the cluster's domain in a pod's resolver; empty outside a pod."""

    namespace: str
    domain: str


def resolver_domain(resolver: Path = _RESOLVER) -> ResolverDomain:
    """Return this pod's namespace and its cluster's domain, which need not be ``cluster.local``.

    kubelet writes ``search NAMESPACE.svc.DOMAIN svc.DOMAIN DOMAIN``.
    """
    try:
        lines = resolver.read_text(errors="replace").lower().splitlines()
    except OSError:
        return ResolverDomain("", "")
    for line in lines:
        words = [word.rstrip(".") for word in line.split()]
        if words[:1] == ["search"] and len(words) > 2:
            namespace, _, rest = words[1].partition(".")
            domain = rest.removeprefix("svc.")
            if rest == words[2] == f"svc.{domain}":
                return ResolverDomain(namespace, domain)
    return ResolverDomain("", "")


def own_names(hosts: Path = _HOSTS) -> frozenset[str]:
    """Return the names of this machine: its host name, and in a pod also its names in the cluster.

    Of ``mc-0.flux-service.default.svc.cluster.local`` the second part is the pod's headless Service.
    """
    name = socket.gethostname().lower()
    found = {name, name.partition(".")[0]}
    try:
        lines = hosts.read_text(errors="replace").lower().splitlines()
    except OSError:
        lines = []
    for line in lines:
        aliases = line.partition("#")[0].split()[1:]
        if not found.isdisjoint(aliases):
            found.update(aliases)
            found.update(part for alias in aliases for part in _service(alias))
    return frozenset(found - {""})


def _service(name: str) -> Iterable[str]:
    parts = name.split(".")
    return parts[1:2] if parts[3:4] == ["svc"] else ()


def as_variable(service: str) -> str:
    """Return the prefix of the environment variables that Kubernetes sets for a Service."""
    return service.upper().replace("-", "_")
