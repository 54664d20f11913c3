"""Answers that are sent in pieces: begun in one place, so that an error in the middle cuts them off."""

from __future__ import annotations

from aiohttp import web

RESPONSE = web.RequestKey("response", web.StreamResponse)
"""The answer whose headers were sent."""
HEADERS = web.RequestKey("headers", dict[str, str])
"""What every answer to this request says, unless its handler says something else."""


async def begin(request: web.Request, response: web.StreamResponse) -> None:
    """Send the headers of an answer that is to come in pieces."""
    add_headers(request, response)
    request[RESPONSE] = response
    await response.prepare(request)


def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Give an answer the headers that every answer to this request has."""
    setdefault = response.headers.setdefault
    for name, value in request[HEADERS].items():
        setdefault(name, value)
