"""Drain and undrain nodes by host name or rank."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.domain.errors import NotFound
from sidecar.instance import Instance

_SHOWN = 10  # names in an error


class NodeAdmin:
    """Drain and undrain the nodes of an instance.

    Args:
        instance: has the nodes.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def drain(self, name: str, reason: str) -> tuple[int, ...]:
        """Drain a node: no more jobs start there, running jobs continue. Return its ranks.

        Args:
            name: a host name, for all ranks on that host; else a rank.
            reason: shown with the node while it is drained.

        Raises:
            NotFound: no node has this name or rank.
            Unavailable: the instance does not answer.
        """
        ranks = await self._ranks(name)
        await self._instance.drain(ranks, reason)
        return ranks

    async def undrain(self, name: str) -> tuple[int, ...]:
        """Undrain a node: jobs start there again. Return its ranks.

        Raises:
            NotFound, Unavailable: see :meth:`drain`.
        """
        ranks = await self._ranks(name)
        await self._instance.undrain(ranks)
        return ranks

    async def _ranks(self, name: str) -> tuple[int, ...]:
        self._instance.status.require_ready()
        nodes = (await self._instance.resources()).nodes
        ranks = tuple(node.rank for node in nodes if node.name == name)
        ranks = ranks or tuple(node.rank for node in nodes if str(node.rank) == name)
        if not ranks:
            raise NotFound(f"There is no node {name!r}; the nodes are: {_listed(node.name for node in nodes)}.")
        return ranks


def _listed(names: Iterable[str]) -> str:
    unique = tuple(dict.fromkeys(names))
    more = f" … ({len(unique)} in all)" if len(unique) > _SHOWN else ""
    return ", ".join(unique[:_SHOWN]) + more or "none"
