"""The instance with its jobs and launchers: the work that keeps a server in use and that a stop ends."""

from __future__ import annotations

from typing import NamedTuple

from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.services.launchers import Launchers


class Workload(NamedTuple):
    """The work of one server."""

    instance: Instance
    feed: Feed
    """Active jobs."""
    launchers: Launchers
