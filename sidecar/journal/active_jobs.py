"""The jobs that have not ended, according to the journal, whether or not their events can be stored.

Lists follow the store. ``--idle-stop`` must not: while the disk is full nothing is stored, and an instance without
active jobs would never be stopped.
"""

from __future__ import annotations

from collections import OrderedDict

from sidecar.domain.model import JobEvents, JournalBegin

_RECENT = 4096
_ENDS = frozenset({"clean", "invalidate"})


class ActiveJobs:
    """Follow the journal in one pass; of each response only the event names are read."""

    def __init__(self) -> None:
        self._active: set[int] = set()
        self._accepted: dict[int, None] = {}
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._accepted_before_history: list[int] = []
        self._history_read = self._interrupted = False

    @property
    def complete(self) -> bool:
        """Whether the journal has delivered all active jobs and is still followed; otherwise there may be more."""
        return self._history_read and not self._interrupted

    def __len__(self) -> int:
        """Return the number of jobs that have not ended, including accepted ones without any event yet."""
        return len(self._active) + len(self._accepted)

    def push(self, item: JournalBegin | JobEvents) -> None:
        """Process one journal item; see :class:`~sidecar.instance.base.Sink`."""
        if isinstance(item, JournalBegin):
            self._active.clear()
            self._accepted_before_history = list(self._accepted)
            self._history_read = self._interrupted = False
        elif item.id == -1:
            for jobid in self._accepted_before_history:  # not active any more: ended, purged, or never accepted
                self._accepted.pop(jobid, None)
            self._accepted_before_history, self._history_read = [], True
        elif item.events:
            self._push_events(item)

    def _push_events(self, item: JobEvents) -> None:
        jobid = item.id
        if any(event.name in _ENDS for event in item.events):
            self._active.discard(jobid)
        elif item.events[0].name == "submit":
            self._active.add(jobid)
        elif jobid not in self._active:
            return  # an event after the end, such as a memo
        if jobid in self._accepted:
            del self._accepted[jobid]
        elif jobid not in self._active:
            self._recent[jobid] = None
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)

    def interrupted(self) -> None:
        """Record that no events are received until the next history."""
        self._interrupted = True

    def note_accepted(self, jobid: int) -> None:
        """Record an accepted job; its events, even the last one, may have been received before."""
        if jobid not in self._active and jobid not in self._recent:
            self._accepted[jobid] = None

    def discard_accepted(self, jobid: int) -> None:
        """Forget an accepted job: its events were received, or never will be."""
        self._accepted.pop(jobid, None)
