"""Which jobs have not ended, by what the instance has told: known when it arrives, whether or not it can be stored.

What lists show follows the store. ``--idle-stop`` must not: with a full disk nothing is stored any more, and an
instance all of whose jobs have ended would never be stopped.
"""

from __future__ import annotations

from collections import OrderedDict

from sidecar.domain.model import HistoryBegin, JobEvents

_RECENT = 4096
_ENDS = frozenset({"clean", "invalidate"})


class ActiveJobs:
    """Follows what the instance tells, in one pass and without reading more of it than the names of events."""

    def __init__(self) -> None:
        self._told: set[int] = set()
        self._awaited: dict[int, None] = {}
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._before: list[int] = []
        self._whole = self._interrupted = False

    @property
    def known(self) -> bool:
        """Whether all was told, the whole history and what came after it: else there may be more jobs than these."""
        return self._whole and not self._interrupted

    def __len__(self) -> int:
        """How many jobs have not ended, with those that were accepted and that nothing was told of yet."""
        return len(self._told) + len(self._awaited)

    def push(self, item: HistoryBegin | JobEvents) -> None:
        """Take one item from the instance; see :class:`~sidecar.instance.base.Sink`."""
        if isinstance(item, HistoryBegin):
            self._told.clear()
            self._before, self._whole, self._interrupted = list(self._awaited), False, False
        elif item.id == -1:
            for fluid in self._before:  # the history has not told of them: Flux has purged them, or never had them
                self._awaited.pop(fluid, None)
            self._before, self._whole = [], True
        elif item.events:
            self._take(item)

    def _take(self, item: JobEvents) -> None:
        fluid = item.id
        if any(event.name in _ENDS for event in item.events):
            self._told.discard(fluid)
        elif item.events[0].name == "submit":
            self._told.add(fluid)
        elif fluid not in self._told:
            return  # what comes after the end, such as a memo
        if fluid in self._awaited:
            del self._awaited[fluid]
        elif fluid not in self._told:
            self._recent[fluid] = None
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)

    def interrupted(self) -> None:
        """Note that nothing more is told until the next history."""
        self._interrupted = True

    def accept(self, fluid: int) -> None:
        """Note a job that the instance has accepted; it may have been told of before, even to its end."""
        if fluid not in self._told and fluid not in self._recent:
            self._awaited[fluid] = None

    def forget(self, fluid: int) -> None:
        """Await an accepted job no longer: it has been told of, or never will be."""
        self._awaited.pop(fluid, None)
