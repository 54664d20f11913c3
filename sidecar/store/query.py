"""From a caller's filters to SQL. Values only ever travel as bound parameters."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.model import RESULTS, STATES

#: What a search may be ordered by: the caller's name for it, and its column.
ORDERS = {
    "id": "id",
    "f58id": "id",
    "t_submit": "t_submit",
    "state": "state",
    "result": "result",
    "name": "name",
    "queue": "queue",
    "username": "username",
    "userid": "userid",
    "nnodes": "nnodes",
    "ntasks": "ntasks",
    "runtime": "runtime",
}

Short = tuple[int, str, str, str]
"""id, state, result and name of a job."""


class Filter(msgspec.Struct, kw_only=True, frozen=True):
    """Which jobs to list. Empty lists and None let everything through."""

    states: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    user: str | None = None
    queue: str | None = None
    name: str | None = None
    since: float | None = None
    until: float | None = None
    before_id: int | None = None

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
        if self.queue is not None:
            term("queue = ?", self.queue)
        if self.name is not None:
            term("name = ?", self.name)
        if self.since is not None:
            term("t_submit >= ?", self.since)
        if self.until is not None:
            term("t_submit < ?", self.until)
        if self.before_id is not None:
            term("id < ?", self.before_id)
        return " AND ".join(terms) or "1", values


class Search(msgspec.Struct, kw_only=True, frozen=True):
    """A search as DataTables asks for one: a text, an order, and a window of the matches.

    ``length`` None is every match from ``start`` on.
    """

    text: str = ""
    start: int = 0
    length: int | None = None
    order: tuple[tuple[str, bool], ...] = ()
    """Columns (a key of :data:`ORDERS`) and whether descending."""

    def where(self) -> tuple[str, list[Any]]:
        """Return the SQL condition and its parameters: the text anywhere in a job, or in its state or result."""
        if not self.text:
            return "1", []
        if len(self.text) >= 3:
            found, values = "jobs_text MATCH ?", ['"' + self.text.replace('"', '""') + '"']
        else:  # shorter than a trigram: the index cannot help
            escaped = self.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            found, values = "text LIKE ? ESCAPE '\\'", [f"%{escaped}%"]
        sql = f"id IN (SELECT rowid FROM jobs_text WHERE {found})"  # noqa: S608 - values are bound
        for column, words in (("state", STATES), ("result", RESULTS)):
            hits = [word for word in words if self.text.upper() in word]
            if hits:
                sql += f" OR {column} IN ({_marks(hits)})"
                values += hits
        return f"({sql})", values

    def order_by(self) -> str:
        """Return the ORDER BY list; newest first unless asked otherwise, and always total."""
        terms = [f"{ORDERS[name]} {'DESC' if down else 'ASC'}" for name, down in self.order]
        return ", ".join([*terms, "id DESC"])


def _marks(values: Any) -> str:
    return ",".join("?" * len(values))
