"""Send one large body, and read the response while it is sent. Prints seconds and the response's lines as JSON."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit


def main(url: str, path: str, file: str) -> None:
    address, body = urlsplit(url), Path(file).read_bytes()
    assert address.hostname
    assert address.port
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/x-ndjson\r\n"
        f"Accept: application/x-ndjson\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    begin = time.perf_counter()
    with socket.create_connection((address.hostname, address.port)) as connection:
        # A server that responds to lines while it reads lines would wait for a client that only writes.
        sender = threading.Thread(target=_send, args=(connection, head.encode() + body), daemon=True)
        sender.start()
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        text = answer.read()
        seconds = time.perf_counter() - begin
    if answer.status != 200:
        raise SystemExit(f"a bulk submit failed: {answer.status} {text.decode(errors='replace')[:600]}")
    accepted = [line for line in map(json.loads, text.splitlines()) if line["status"] == 200]
    print(json.dumps({"seconds": seconds, "accepted": len({line["id"] for line in accepted})}))


def _send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        return  # the server refuses: its response says why


if __name__ == "__main__":
    main(*sys.argv[1:])
