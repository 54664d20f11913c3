"""Rows ``get``, ``page`` and ``page-details``: reads of the store, compared with aiohttp that sends the same bytes.

The limit is a handler with every response in a dictionary, in a separate process: the same framework, the same client,
the same responses. The difference to 1 is the cost of routing, validation, SQLite and JSON. The responses are read from
the server beforehand, and the sizes that both send are compared.
"""

from __future__ import annotations

import json
import sys
from urllib.parse import urlencode

from bench.processes import MeasurementError, say
from bench.row import Row, number
from bench.site import HERE, Volume, load
from tests.support.harness import Server

_CLIENTS, _PATHS = 16, 400
_TOLERANCE = 400  # bytes of headers (Link, chunks) in a response


def get(volume: Volume, rounds: int) -> list[Row]:
    """One job by its ID, any of all jobs."""
    ids = volume.random.sample(volume.full.ids, min(_PATHS, volume.full.jobs))
    return [_row(volume, rounds, "get", "read one job", [f"/v1/jobs/{id_}" for id_ in ids], 12_000, 0.7)]


def page(volume: Volume, rounds: int) -> list[Row]:
    """A page of 100 anywhere in the list, brief and with all fields."""
    rows = []
    for key, work, query, requests, reach in (
        ("page", "page of 100 jobs", {}, 4000, 0.7),
        ("page-details", "page of 100 jobs, all fields", {"details": "true", "listing": "true"}, 2000, 0.5),
    ):
        # The last 100 have no full page after them.
        cursors = volume.full.ids[: max(1, len(volume.full.ids) - 101)]
        chosen = volume.random.sample(cursors, min(_PATHS, len(cursors)))
        paths = [f"/v1/jobs?{urlencode({'limit': '100', **query, 'cursor': cursor})}" for cursor in chosen]
        rows.append(_row(volume, rounds, key, work, paths, requests, reach))
    return rows


def _row(volume: Volume, rounds: int, key: str, work: str, paths: list[str], count: int, reach: float) -> Row:
    row = Row(
        key=key,
        work=f"{work}, {_CLIENTS} clients",
        unit="req/s",
        to_reach=("≥", reach),
        limit_is="aiohttp alone, same bytes",
    )
    server, directory = volume.full.server, volume.new_directory(key)
    bodies = directory / "bodies.json"
    bodies.write_text(json.dumps({path: server.http.get(path).raise_for_status().text for path in paths}))
    bare = volume.start(Server([sys.executable, "-m", "bench.programs.bare", str(bodies)], directory, **HERE))
    requests = [["GET", volume.random.choice(paths), {}, ""] for _ in range(count)]
    size = 0.0
    for number_ in range(rounds + 1):
        limit = load(bare.url, _CLIENTS, requests, directory)
        done = load(server.url, _CLIENTS, requests, directory)
        after = load(bare.url, _CLIENTS, requests, directory)  # the shorter of the two: a drift is more visible
        size = sum(done["sizes"]) / count
        if abs(sum(limit["sizes"]) / count - size) > _TOLERANCE:
            raise MeasurementError(f"answers are of {size:.0f} bytes, the limit's of {sum(limit['sizes']) / count:.0f}")
        if number_ == 0:
            continue  # warm-up
        row.limits.append(2 * count / (limit["seconds"] + after["seconds"]))
        row.figures.append(count / done["seconds"])
        say(f"  {key}: limit {number(row.limits[-1])}/s, server {number(row.figures[-1])}/s")
    bare.close()
    row.note = f"{size / 1000:.1f} kB an answer"
    return row
