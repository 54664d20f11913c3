"""The frame of every page: the navigation, the state of the instance, and the error page."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from sidecar.api import position
from sidecar.domain.errors import Problem
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.services.lifecycle import Lifecycle
from sidecar.store import Store
from sidecar.web.render import render_page


class Layout:
    """Provide the values that every page shows.

    Args:
        store: has the position from which a page's scripts follow events.
        feed: knows how far the history is read.
        instance: the instance that is served.
        lifecycle: has the state of the service.
        no_auth: whether pages warn that the server was started with --no-auth.
    """

    def __init__(self, store: Store, feed: Feed, instance: Instance, lifecycle: Lifecycle, *, no_auth: bool) -> None:
        self._store = store
        self._feed = feed
        self._instance = instance
        self._lifecycle = lifecycle
        self._no_auth = no_auth

    def values(self, current: str) -> dict[str, Any]:
        """Return the values of a page's frame; call this before the page's own data is read.

        Args:
            current: the entry of the navigation to mark as current.
        """
        return {
            "current": current,
            "instance": self._instance.status,
            "service": self._lifecycle.service(),
            "no_auth": self._no_auth,
            "reading": "" if self._feed.caught_up or not self._feed.live else str(self._feed.history.progress),
            "position": position.format_event_id(self._store, self._store.position),
        }

    def error_page(self, request: web.Request, problem: Problem) -> web.Response:
        """Return the page of an error, with the status and the texts that API clients get."""
        response = render_page(request, "error.html", status=problem.status, **self.values(""), problem=problem)
        response.headers.update(problem.headers)
        return response
