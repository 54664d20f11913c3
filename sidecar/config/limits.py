"""Options of the group Limits: what clients may use of the server, and timeouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sidecar.config.options import group, option, require_not_negative, require_positive


@group("Limits")
@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """Limits of requests, connections and memory."""

    rate_limit: Annotated[
        float,
        option(
            "rate_limit",
            "Rate at which a caller may send requests, with bursts of twice as many. 0: unlimited.",
            unit="requests a second",
        ),
    ] = 2000.0
    guess_limit: Annotated[
        float,
        option(
            "guess_limit",
            "Number of invalid credentials that an address may send in a burst before it is limited to one per "
            "second. 0: unlimited.",
        ),
    ] = 20.0
    max_connections: Annotated[
        int,
        option("max_connections", "Maximum number of open connections. An address may have a quarter of them."),
    ] = 4096
    max_streams: Annotated[
        int,
        option("max_streams", "Maximum number of open streams. A caller or an address may have a quarter of them."),
    ] = 2048
    max_body: Annotated[
        int, option("max_body", "Maximum size of a request body; of a bulk submit, of each line.", unit="bytes")
    ] = 1024 * 1024
    max_in_flight: Annotated[
        int,
        option(
            "max_in_flight",
            "Memory for request bodies, and the same amount for responses that are not sent yet. A caller or an "
            "address may use a quarter of it.",
            unit="MiB",
        ),
    ] = 64
    bulk_window: Annotated[
        int,
        option(
            "bulk_window",
            "Maximum number of lines of a bulk submit that are submitted concurrently. The server uses fewer while "
            "Flux is slow.",
        ),
    ] = 4096
    header_timeout: Annotated[
        float, option("header_timeout", "Timeout for the first request of a connection.", unit="seconds")
    ] = 10.0
    body_timeout: Annotated[
        float,
        option("body_timeout", "Timeout for a request body, or between two parts of a bulk submit.", unit="seconds"),
    ] = 60.0
    send_timeout: Annotated[
        float,
        option(
            "send_timeout",
            "How long a client may read nothing of a response before its connection is closed.",
            unit="seconds",
        ),
    ] = 30.0
    heartbeat: Annotated[
        float, option("heartbeat", "Interval of keep-alive comments on an idle event stream.", unit="seconds")
    ] = 15.0
    min_free_disk: Annotated[
        int,
        option(
            "min_free_disk",
            "Free disk space for the store below which /readyz fails. When less than twice of it is free, the inactive "
            "jobs that ended first are removed, except for the last 1,000. 0: never.",
            unit="MiB",
        ),
    ] = 16

    def check(self) -> None:
        """Check the options of this group.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        require_positive(
            self,
            *("max_connections", "max_streams", "max_in_flight", "header_timeout", "body_timeout"),
            *("max_body", "heartbeat", "send_timeout", "bulk_window"),
        )
        require_not_negative(self, "rate_limit", "guess_limit", "min_free_disk")
