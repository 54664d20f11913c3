"""Translate filters and searches to SQL, which :mod:`sidecar.store.lists` runs. Values are always bound parameters."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.domain import fluid
from sidecar.domain.model import ANONYMOUS, RESULTS, STATES, ExceptionInfo, Job

# Names by which a search is ordered without reading each job's document, and their columns.
_COLUMNS = {
    "id": "id",
    "f58id": "id",
    "t_submit": "t_submit",
    "state": "state",
    "result": "result",
    "name": "name",
    "queue": "queue",
    "username": "username",
    "submitter": "submitter",
    "userid": "userid",
    "nnodes": "nnodes",
    "ntasks": "ntasks",
}
ORDERS = frozenset(Job.__struct_fields__) - {"command", "dependencies", "annotations", "exception"} | {
    f"exception.{name}" for name in ExceptionInfo.__struct_fields__
}
"""Names by which a search may be ordered: the scalar members of a job, and of its exception."""
JOINED = "jobs LEFT JOIN documents ON documents.num = jobs.num AND documents.job = id"
"""Jobs with their documents."""
DOCUMENT = "id, CAST(json AS BLOB), running"
"""ID of a job, its document as stored, and the start of its run while it runs."""
_INDEXED = {"id", "f58id", "t_submit", "state", "result", "name", "username"}
_MAX_SCANNED, _MAX_DECODED = 200_000, 10_000
_F58 = re.compile("[fƒ][1-9A-HJ-NP-Za-km-z]+")
_SHORTEST = 3  # characters of a text that the trigram index finds


def _order(order: Sequence[tuple[str, bool]], last: str) -> str:
    """Return the terms of a total order; missing values come first if it ascends."""
    terms = [f"{_expression(name)} {'DESC' if down else 'ASC'}" for name, down in order]
    return ", ".join([*terms, f"id {last}"])


def sort_problem(order: Sequence[tuple[str, bool]], count: int) -> str:
    """Return why jobs cannot be sorted: a sort without an index reads all of them, and others wait meanwhile.

    Args:
        order: names out of :data:`ORDERS`, and whether descending.
        count: number of the jobs.

    Returns:
        The reason; empty if they can be sorted.
    """
    for name, _ in order:
        most = count if name in _INDEXED else _MAX_SCANNED if name in _COLUMNS or name == "runtime" else _MAX_DECODED
        if count > most:
            names = ", ".join(sorted(_INDEXED))
            return f"{count} jobs cannot be sorted by {name}, at most {most}: use query=, or sort by {names}."
    return ""


def _chosen(condition: str, order: Sequence[tuple[str, bool]], last: str, columns: str) -> str:
    """Return the statement that selects columns of a window of jobs; its last parameters are the limit and the offset.

    The window is found by IDs alone, and its jobs are read afterwards: to sort whole jobs takes ten times as long.
    """
    terms = _order(order, last)
    simple = all(name in _COLUMNS or name == "runtime" for name, _ in order)
    source = "jobs" if simple else JOINED
    window = f"SELECT id AS chosen FROM {source} WHERE {condition} ORDER BY {terms} LIMIT ? OFFSET ?"  # noqa: S608
    return f"SELECT {columns} FROM ({window}) CROSS JOIN {JOINED} WHERE id = chosen ORDER BY {terms}"  # noqa: S608


def _expression(name: str) -> str:
    if name in _COLUMNS:
        return _COLUMNS[name]
    if name == "runtime":  # of a running job: its runtime so far
        return f"iif(state = 'RUN', {time.time():.3f} - since, coalesce(runtime, 0))"
    return f"nullif(member(json, '{name}'), '')"


class Filter(msgspec.Struct, kw_only=True, frozen=True):
    """A filter of jobs. Empty tuples and None match everything."""

    states: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    user: str | None = None
    submitter: str | None = None
    queue: str | None = None
    name: str | None = None
    since: float | None = None
    until: float | None = None
    before_id: int | None = None

    @property
    def indexed(self) -> bool:
        """Whether only ``before_id`` is set, so that the primary key finds the page."""
        return msgspec.structs.replace(self, before_id=None) == _NO_FILTER

    def matches(self, userid: int, username: str, submitter: str, queue: str, name: str, t_submit: float) -> bool:
        """Match one job as :meth:`where` does, except for state and result, which differ by event."""
        return (
            (self.user is None or self.user in (username, str(userid)))
            and (self.submitter is None or self.submitter == submitter)
            and (self.queue is None or self.queue == queue or (self.queue == ANONYMOUS and not queue))
            and (self.name is None or self.name == name)
            and (self.since is None or t_submit >= self.since)
            and (self.until is None or t_submit < self.until)
        )

    def where(self) -> tuple[str, list[Any]]:
        """Return the SQL condition and its parameters."""
        terms: list[str] = []
        values: list[Any] = []

        def term(sql: str, *parameters: Any) -> None:
            terms.append(sql)
            values.extend(parameters)

        if self.states:
            term(f"state IN ({_marks(self.states)})", *self.states)
        if self.results:
            term(f"result IN ({_marks(self.results)})", *self.results)
        if self.user is not None:
            term("(username = ? OR CAST(userid AS TEXT) = ?)", self.user, self.user)
        if self.submitter is not None:
            # The index has only jobs with a submitter.
            term("submitter = ? AND submitter != ''" if self.submitter else "submitter = ?", self.submitter)
        if self.queue is not None:
            # In Flux's anonymous queue it is empty; lists of queues and metrics show a name.
            term("queue IN (?, '')" if self.queue == ANONYMOUS else "queue = ?", self.queue)
        if self.name is not None:
            term("name = ?", self.name)
        if self.since is not None:
            term("t_submit >= ?", self.since)
        if self.until is not None:
            term("t_submit < ?", self.until)
        if self.before_id is not None:
            term("id < ?", self.before_id)
        return " AND ".join(terms) or "1", values


_NO_FILTER = Filter()


class Search(msgspec.Struct, kw_only=True, frozen=True):
    """A search in the form of DataTables: a text, an order, and a window of the matches."""

    text: str = ""
    start: int = 0
    length: int | None = None
    """Number of jobs; None: all from ``start`` on."""
    order: tuple[tuple[str, bool], ...] = ()
    """Names out of :data:`ORDERS`, and whether descending."""

    def select(self, columns: str) -> tuple[str, list[Any]]:
        """Return the statement that selects columns of the matching jobs in order.

        Returns:
            The statement, and its parameters except for the last two: the limit and the offset.
        """
        if not self.text:
            return _chosen("1", self.order, self._last, columns), []
        text, values = self._text_condition()
        other, more = self._column_condition()
        if not other and not self.order:
            # The index yields matches one by one, newest first: the cost does not grow with their number.
            newest = f"SELECT rowid AS chosen FROM jobs_text WHERE {text} ORDER BY rowid DESC LIMIT ? OFFSET ?"  # noqa: S608
            return (
                f"SELECT {columns} FROM ({newest}) CROSS JOIN documents ON documents.num = chosen "  # noqa: S608
                "CROSS JOIN jobs ON id = job ORDER BY chosen DESC"
            ), values
        matching = f"jobs.num IN (SELECT rowid FROM jobs_text WHERE {text}){other}"  # noqa: S608
        return _chosen(matching, self.order, self._last, columns), values + more

    def within(self, where: Filter, columns: str) -> tuple[str, list[Any]]:
        """Return the statement that selects columns of the window of jobs that match search and filter."""
        condition, values = where.where()
        if self.text:
            text, more = self._text_condition()
            other, others = self._column_condition()
            condition += f" AND (jobs.num IN (SELECT rowid FROM jobs_text WHERE {text}){other})"  # noqa: S608 - values are bound
            values += more + others
        values += [-1 if self.length is None else self.length, self.start]
        return _chosen(condition, self.order, self._last, columns), values

    def count(self) -> tuple[str, list[Any]]:
        """Return the statement that counts the matching jobs, and its parameters."""
        if not self.text:
            return "SELECT count(*) FROM jobs", []
        text, values = self._text_condition()
        other, more = self._column_condition()
        if not other:
            return f"SELECT count(*) FROM jobs_text WHERE {text}", values  # noqa: S608 - values are bound
        matching = f"jobs.num IN (SELECT rowid FROM jobs_text WHERE {text}){other}"  # noqa: S608
        return f"SELECT count(*) FROM jobs WHERE {matching}", values + more  # noqa: S608

    @property
    def _last(self) -> str:
        """The direction of IDs among equal jobs: that of the last column, so that one index serves both."""
        return "ASC" if self.order and not self.order[-1][1] else "DESC"

    @property
    def _needle(self) -> str:
        """The text to search for; of a job ID without surrounding white space."""
        bare = self.text.strip()
        if bare == self.text:
            return bare
        try:
            fluid.parse(bare)
        except ValueError:
            return self.text
        return bare

    @property
    def _spellings(self) -> list[str]:
        """The equivalent spellings of the text: a job ID starts with ƒ in Flux's output and with f in URLs."""
        text = plain(self._needle)
        spellings = [text]
        if _F58.fullmatch(text):
            spellings = [first + text[1:] for first in "ƒf"]
        if len(text) < _SHORTEST:  # without the index only ASCII matches in either case
            spellings += [text.lower(), text.upper()]
        return list(dict.fromkeys(spellings))

    def _text_condition(self) -> tuple[str, list[Any]]:
        """Return the condition on the search text of a job."""
        if len(plain(self._needle)) >= _SHORTEST:
            return "jobs_text MATCH ?", [" OR ".join('"' + each.replace('"', '""') + '"' for each in self._spellings)]
        # Shorter than a trigram: the index cannot be used.
        escaped = [each.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for each in self._spellings]
        return " OR ".join(["text LIKE ? ESCAPE '\\'"] * len(escaped)), [f"%{each}%" for each in escaped]

    def _column_condition(self) -> tuple[str, list[Any]]:
        """Return the condition on values that no search text has: states, results and other spellings of a job ID."""
        sql = ""
        values: list[Any] = []
        for column, names in (("state", STATES), ("result", RESULTS)):
            matches = [name for name in names if self._needle.upper() in name]
            if matches:
                sql += f" OR {column} IN ({_marks(matches)})"
                values += matches
        if (jobid := _jobid(self._needle)) is not None:
            sql, values = f"{sql} OR id = ?", [*values, jobid]
        return sql, values


def _jobid(text: str) -> int | None:
    """Return the job ID of a spelling that search texts do not contain; None if the text is not one."""
    try:
        jobid = fluid.parse(text)
    except ValueError:
        return None
    return None if text.isdecimal() or _F58.fullmatch(text) or jobid >= 2**63 else jobid


def plain(text: str) -> str:
    """Return a text in the normalization form of search texts, since accents can be encoded in two ways."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _marks(values: Any) -> str:
    return ",".join("?" * len(values))
