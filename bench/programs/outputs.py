"""Readers of one job's output, of every kind at once, each with its own connection.

Prints the result of each as JSON: its kind, the seconds, and a digest of the job's bytes in that form.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

#: Paths and their headers; the page's download is the form for people.
KINDS = {
    "json": ("/v1/jobs/{}/output", "application/json"),
    "text": ("/v1/jobs/{}/output", "text/plain"),
    "stream": ("/v1/jobs/{}/output/stream", "text/event-stream"),
    "page": ("/jobs/{}/output", "*/*"),
}
_shown = re.compile(rb'"data":"([^"\\]*)\\n"')


def read(url: str, job: str, kind: str, found: list[dict[str, Any]]) -> None:
    """Read the whole response."""
    path, accept = KINDS[kind]
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=600)
    begin = time.monotonic()
    connection.request("GET", path.format(job), headers={"Accept": accept})
    answer = connection.getresponse()
    digest, gathered, rest = hashlib.sha256(), [], b""
    while data := answer.read1(1 << 16):
        if kind == "json":
            gathered.append(data)
        elif kind == "stream":
            data = rest + data
            cut = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
            lines, rest = _shown.findall(data[:cut]), data[cut:]
            if lines:
                digest.update(b"\n".join(lines) + b"\n")
        else:
            digest.update(data)
    if gathered:
        digest.update("".join(json.loads(b"".join(gathered))["Output"]).encode())
    found.append({"kind": kind, "seconds": time.monotonic() - begin, "digest": digest.hexdigest()})


def main(url: str, job: str, number: int) -> None:
    """Read with a number of clients at once."""
    found: list[dict[str, Any]] = []
    kinds = [list(KINDS)[index % len(KINDS)] for index in range(number)]
    threads = [threading.Thread(target=read, args=(url, job, kind, found)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
