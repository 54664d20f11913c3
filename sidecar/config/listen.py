"""Options of the group Listen: addresses and the names under which clients reach the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sidecar.config import addresses
from sidecar.config.options import group, option
from sidecar.config.values import SettingsError, read_list
from sidecar.config.variables import general_variable


@group("Listen")
@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Addresses to listen on, and names and proxies to accept."""

    port: Annotated[int, option("port", "Port to listen on. 0 selects a free port.", "PORT")] = 5000
    host: Annotated[
        str,
        option(
            "host",
            "Address to listen on. An address other than loopback requires an authentication method or --no-auth.",
            "HOST",
        ),
    ] = "127.0.0.1"
    socket: Annotated[
        str,
        option(
            "socket",
            "Unix socket to listen on in addition to the port. A client is identified by its uid; the user that runs "
            "the server has the scope admin.",
        ),
    ] = ""
    tcp: Annotated[bool, option("tcp", "Listen on --port. With --no-tcp, listen on --socket only.")] = True
    allowed_hosts: Annotated[
        str,
        option(
            "allowed_hosts",
            "Additional host names of the server, separated by commas; *.example.org matches every subdomain. A "
            "request for any other host gets 421. Always accepted: IP addresses, localhost, names in the cluster "
            "(.svc, .cluster.local, .kubernetes, the pod's search domain), SERVICE.NAMESPACE in the pod's namespace, "
            "and names of a container's host (host.docker.internal). A name without a dot is accepted if a credential "
            "is required; otherwise it must be the name of this machine or of a Service in the pod's namespace.",
        ),
    ] = ""
    allowed_origins: Annotated[
        str,
        option(
            "allowed_origins",
            "Origins of other web pages that may send requests with a token (CORS), separated by commas, as in "
            "https://portal.example.org.",
        ),
    ] = ""
    trusted_proxies: Annotated[
        str,
        option(
            "trusted_proxies",
            "Addresses or networks of reverse proxies whose X-Forwarded-For header is trusted, separated by commas, as "
            "in 10.0.0.0/8. Limits and the audit log then use the client address in that header.",
        ),
    ] = ""

    @property
    def address(self) -> str:
        """The configured address, for messages; empty if the port is selected at the start."""
        if self.tcp and self.port:
            return f"{self.host} port {self.port}"
        return "" if self.tcp else self.socket

    @property
    def host_source(self) -> str:
        """For an error: the general variable that has set the host, in brackets; else empty."""
        return _source(general_variable("HOST", self.host))

    @property
    def notes(self) -> list[str]:
        """What to log about options that variables of other programs may have set."""
        return [
            f"--{flag} {value} is taken from the variable {name}"
            for flag, value in (("host", self.host), ("port", self.port))
            if (name := general_variable(flag.upper(), value))
        ]

    def check(self) -> None:
        """Check the options of this group.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        if self.tcp:
            try:
                addresses.check_listening(self.host)
            except ValueError as exc:
                raise SettingsError(f"--host{self.host_source}: {exc}.") from None
        if not 0 <= self.port <= 65535:
            source = _source(general_variable("PORT", self.port))
            raise SettingsError(f"--port {self.port}{source} is not a port: use 0 to 65535.")
        if not self.tcp and not self.socket:
            raise SettingsError("--no-tcp leaves nothing to listen on: give --socket.")
        read_list("--trusted-proxies", self.trusted_proxies, addresses.network)
        read_list("--allowed-hosts", self.allowed_hosts, addresses.allowed_host)
        read_list("--allowed-origins", self.allowed_origins, addresses.origin)


def _source(variable: str) -> str:
    return f" (from the variable {variable})" if variable else ""
