"""From a caller's filters to SQL. Values only ever travel as bound parameters."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.domain import fluid
from sidecar.domain.model import ANONYMOUS, RESULTS, STATES, ExceptionInfo, Job

#: What a search may be ordered by without a look at each job's document: the caller's name for it, and its column.
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
#: Every member of a job that has one value, and of its exception.
ORDERS = frozenset(Job.__struct_fields__) - {"command", "dependencies", "annotations", "exception"} | {
    f"exception.{name}" for name in ExceptionInfo.__struct_fields__
}
_F58 = re.compile("[fƒ][1-9A-HJ-NP-Za-km-z]+")
_SHORTEST = 3  # characters that the index helps with


def _order(order: Sequence[tuple[str, bool]], last: str) -> str:
    """Return the terms of an order, which is always total; what has no value comes first where it ascends."""
    terms = [f"{_expression(name)} {'DESC' if down else 'ASC'}" for name, down in order]
    return ", ".join([*terms, f"id {last}"])


def _expression(name: str) -> str:
    if name in _COLUMNS:
        return _COLUMNS[name]
    if name == "runtime":  # so far, of jobs that run
        return f"iif(state = 'RUN', {time.time():.3f} - t_run, coalesce(runtime, 0))"
    return f"nullif(iif(json_valid(json), json_extract(json, '$.{name}'), NULL), '')"


class Filter(msgspec.Struct, kw_only=True, frozen=True):
    """Which jobs to list. Empty lists and None let everything through."""

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
        """Whether the first rows are found without looking through many that do not match."""
        return msgspec.structs.replace(self, before_id=None) == _EVERYTHING

    def matches(self, userid: int, username: str, submitter: str, queue: str, name: str, t_submit: float) -> bool:
        """Say of one job what :meth:`where` says, but for its state and result, which each event has its own of."""
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
            # The index holds only jobs that have one.
            term("submitter = ? AND submitter != ''" if self.submitter else "submitter = ?", self.submitter)
        if self.queue is not None:
            # Jobs of a queue without a name have none; lists of queues, and metrics, call it by one.
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


_EVERYTHING = Filter()


class Search(msgspec.Struct, kw_only=True, frozen=True):
    """A search as DataTables asks for one: a text, an order, and a window of the matches.

    ``length`` None is every match from ``start`` on.
    """

    text: str = ""
    start: int = 0
    length: int | None = None
    order: tuple[tuple[str, bool], ...] = ()
    """Columns (a key of :data:`ORDERS`) and whether descending."""

    def select(self, columns: str) -> tuple[str, list[Any]]:
        """Return the statement that reads columns of the matching jobs in order, and its parameters."""
        order = _order(self.order, "DESC")  # newest first unless asked otherwise
        if not self.text:
            return f"SELECT {columns} FROM jobs JOIN documents ON job = id ORDER BY {order}", []  # noqa: S608 - fixed words
        found, values = self._found()
        words, more = self._words()
        if not words and not self.order:
            # The index gives its matches newest first, one by one: how many there are costs nothing.
            newest = (
                f"jobs_text CROSS JOIN documents ON job = jobs_text.rowid WHERE {found} ORDER BY jobs_text.rowid DESC"
            )
            return f"SELECT {columns} FROM {newest}", values  # noqa: S608 - values are bound
        matching = f"id IN (SELECT rowid FROM jobs_text WHERE {found}){words}"  # noqa: S608
        return f"SELECT {columns} FROM jobs JOIN documents ON job = id WHERE {matching} ORDER BY {order}", values + more  # noqa: S608

    def within(self, where: Filter, columns: str) -> tuple[str, list[Any]]:
        """Return the statement that reads columns of the search's window of the jobs that a filter lets through.

        The window is found by ids alone, and only then are its jobs read: to sort whole jobs takes ten times as long.
        """
        condition, values = where.where()
        if self.text:
            found, more = self._found()
            words, others = self._words()
            condition += f" AND (id IN (SELECT rowid FROM jobs_text WHERE {found}){words})"  # noqa: S608 - values are bound
            values += more + others
        last = "ASC" if self.order and not self.order[-1][1] else "DESC"  # the same way, so that an index has the order
        order = _order(self.order, last)
        simple = all(name in _COLUMNS or name == "runtime" for name, _ in self.order)
        source = "jobs" if simple else "jobs JOIN documents ON job = id"
        window = f"SELECT id AS chosen FROM {source} WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608
        values += [-1 if self.length is None else self.length, self.start]
        return (
            f"SELECT {columns} FROM ({window}) CROSS JOIN jobs ON id = chosen CROSS JOIN documents ON job = chosen "  # noqa: S608
            f"ORDER BY {order}"
        ), values

    def count(self) -> tuple[str, list[Any]]:
        """Return the statement that counts the matching jobs, and its parameters."""
        if not self.text:
            return "SELECT count(*) FROM jobs", []
        found, values = self._found()
        words, more = self._words()
        if not words:
            return f"SELECT count(*) FROM jobs_text WHERE {found}", values  # noqa: S608 - values are bound
        matching = f"id IN (SELECT rowid FROM jobs_text WHERE {found}){words}"  # noqa: S608
        return f"SELECT count(*) FROM jobs WHERE {matching}", values + more  # noqa: S608

    @property
    def _needle(self) -> str:
        """The text as it is looked for: a job ID without the white space that was pasted with it."""
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
        """The text in each spelling that means the same: of an id as Flux writes it and as addresses have it."""
        text = plain(self._needle)
        found = [text]
        if _F58.fullmatch(text):
            found = [first + text[1:] for first in "ƒf"]
        if len(text) < _SHORTEST:  # what the index does by itself
            found += [text.lower(), text.upper()]
        return list(dict.fromkeys(found))

    def _found(self) -> tuple[str, list[Any]]:
        """The condition on the text of a job."""
        if len(plain(self._needle)) >= _SHORTEST:
            return "jobs_text MATCH ?", [" OR ".join('"' + each.replace('"', '""') + '"' for each in self._spellings)]
        # Shorter than a trigram: the index cannot help.
        escaped = [each.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for each in self._spellings]
        return " OR ".join(["text LIKE ? ESCAPE '\\'"] * len(escaped)), [f"%{each}%" for each in escaped]

    def _words(self) -> tuple[str, list[Any]]:
        """The condition on what the text is a part of, or another spelling of, and no text of a job has."""
        sql = ""
        values: list[Any] = []
        for column, words in (("state", STATES), ("result", RESULTS)):
            hits = [word for word in words if self._needle.upper() in word]
            if hits:
                sql += f" OR {column} IN ({_marks(hits)})"
                values += hits
        if (job := _id(self._needle)) is not None:
            sql, values = f"{sql} OR id = ?", [*values, job]
        return sql, values


def _id(text: str) -> int | None:
    """Return the id that a text is a spelling of which is not searched for as it is; None where it is none."""
    try:
        job = fluid.parse(text)
    except ValueError:
        return None
    return None if text.isdecimal() or _F58.fullmatch(text) or job >= 2**63 else job


def plain(text: str) -> str:
    """Return a text in the one form in which texts are searched: accents are typed in two ways."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _marks(values: Any) -> str:
    return ",".join("?" * len(values))
