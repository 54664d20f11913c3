"""A client that reads a response as fast as possible and discards it. Prints seconds and bytes as JSON.

It receives into one buffer, which costs little beside the server's work. The server closes the connection at the end of
the response, as the request asks.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from urllib.parse import urlsplit


def main(url: str, path: str, accept: str) -> None:
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    head = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    buffer = bytearray(1 << 20)
    size = 0
    begin = time.perf_counter()
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode())
        while received := connection.recv_into(buffer):
            size += received
    print(json.dumps({"seconds": time.perf_counter() - begin, "bytes": size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
