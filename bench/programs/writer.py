"""The job that followers read: waits for a file, then writes lines of the time at a steady rate."""

from __future__ import annotations

import sys
import time
from pathlib import Path

#: The marker of a line, whatever frames it: Server-Sent Events, chunks, JSON.
STAMP = rb"@(\d+\.\d+)@"


def main(go: str, lines: int, rate: int) -> None:
    print("ready", flush=True)  # so that there is an output to follow
    while not Path(go).exists():
        time.sleep(0.02)
    begin = time.monotonic()
    for number in range(lines):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        print(f"@{time.time():.6f}@ step {number} of the simulation", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
