"""A reader of server-sent events, as a browser is one: it knows the last id, and can come back with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx

from tests.harness import Server


class Message(NamedTuple):
    id: str
    event: str
    data: Any


def messages(server: Server, path: str, *, last: str = "", **params: Any) -> Iterator[Message]:
    """Yield messages until the stream ends; close the iterator to go away earlier."""
    headers = {"Last-Event-ID": last} if last else {}
    timeout = httpx.Timeout(30, read=60)
    with server.http.stream("GET", path, params=params, headers=headers, timeout=timeout) as answer:
        if answer.status_code != 200:
            raise AssertionError(answer.read())
        assert answer.headers["Content-Type"] == "text/event-stream"
        id_, event, data = last, "message", []
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                id_ = value
            elif name == "event":
                event = value
            elif name == "data":
                data.append(value)
            elif not line and data:
                yield Message(id_, event, json.loads("\n".join(data)))
                event, data = "message", []


def until(server: Server, path: str, count: int, **params: Any) -> list[Message]:
    """Return the first so many messages, and go away."""
    found: list[Message] = []
    stream = messages(server, path, **params)
    for message in stream:
        found.append(message)
        if len(found) == count:
            break
    stream.close()  # type: ignore[attr-defined]
    return found
