"""Many followers of one job's output, each with its own connection.

A hundred lines a second to a thousand followers are 100,000 lines a second, on the cores of the server that sends
them: so this only receives, records the time, and parses the same data once for all followers that get it. Prints
``following`` when all are, and when each has every line a summary as JSON: delays in seconds, over every line of every
follower.
"""

from __future__ import annotations

import json
import re
import resource
import select
import socket
import sys
import time
from urllib.parse import urlsplit

from bench.programs.writer import STAMP

_PATIENCE = 30.0
_stamps = re.compile(STAMP).finditer


class Follower:
    """One connection, and what it has received so far."""

    def __init__(self, host: str, port: int, request: bytes) -> None:
        self.socket = socket.create_connection((host, port), 60)
        self.socket.sendall(request)
        self.rest = b""
        self.lines = 0

    def head(self) -> None:
        """Read the head of the response."""
        while b"\r\n\r\n" not in self.rest:
            data = self.socket.recv(4096)
            if not data:
                raise SystemExit("the server has closed a follower's connection")
            self.rest += data
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        if head[9:12] != b"200":
            raise SystemExit(f"a follower was refused: {head.decode()}\n{self.rest.decode(errors='replace')[:300]}")


def follow(followers: list[Follower], lines: int) -> dict[str, float]:
    """Receive until every follower has every line."""
    poll, by_number = select.epoll(), {}
    for follower in followers:
        poll.register(follower.socket, select.EPOLLIN)
        by_number[follower.socket.fileno()] = follower
    seen: dict[bytes, tuple[list[float], bytes]] = {}
    arrived: list[tuple[float, list[float]]] = []
    patience = time.monotonic() + 600  # until the first line
    while by_number:
        events = poll.poll(5.0)
        if events and arrived:
            patience = time.monotonic() + _PATIENCE
        elif time.monotonic() > patience:
            lost = sum(lines - follower.lines for follower in by_number.values())
            raise SystemExit(f"{len(by_number)} followers wait for {lost} lines that do not come")
        for number, _ in events:
            follower = by_number[number]
            data = follower.socket.recv(1 << 16)
            now = time.time()
            text = follower.rest + data
            known = seen.get(text)
            if known is None:
                matches = list(_stamps(text))
                known = seen[text] = ([float(m[1]) for m in matches], text[matches[-1].end() :] if matches else text)
            stamps, follower.rest = known
            if stamps:
                arrived.append((now, stamps))
                follower.lines += len(stamps)
            if follower.lines >= lines or not data:
                if follower.lines != lines:
                    raise SystemExit(f"a follower got {follower.lines} of {lines} lines")
                poll.unregister(number)
                del by_number[number]
    delays = sorted(now - stamp for now, stamps in arrived for stamp in stamps)
    return {
        "p50": delays[len(delays) // 2],
        "p99": delays[len(delays) * 99 // 100],
        "worst": delays[-1],
        "pieces": len(arrived) / len(followers),
    }


def main(url: str, path: str, count: int, lines: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode()
    followers = []
    for begin in range(0, count, 100):  # in hundreds: the length of a listening socket's queue
        some = [Follower(address.hostname, address.port, request) for _ in range(begin, min(begin + 100, count))]
        for follower in some:
            follower.head()
        followers += some
    print("following", flush=True)
    json.dump(follow(followers, lines), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
