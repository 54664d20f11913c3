"""``make bench``: compare the server with Flux and aiohttp, measured in the same run.

A row shows its limit if there is one, as absolute figures depend on the machine. Limit and server are measured in
turns, so that both are affected by a changing speed of the machine. The module of each row explains why its
measurement is fair. Exits with 1 if a row misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import followers, million, outputs, predecessor, reads, scrapes, searches, slope, soak, submits, whole
from bench.processes import say
from bench.row import Row, markdown_table, text_table
from bench.site import Volume

_RESULTS = Path(__file__).parent / "results"

#: In the order of measurement: memory before the server gets many requests, and rows that add jobs last.
ROWS: dict[str, Callable[[Volume, int], list[Row]]] = {
    "memory": whole.memory,
    "fill": whole.first_fill,
    "get": reads.get,
    "page": reads.page,
    "search": searches.search,
    "scrape": scrapes.scrape,
    "export": whole.export,
    "followers": followers.followers,
    "outputs": outputs.outputs,
    "latency": submits.latency,
    "submit": submits.submit,
    "bulk": submits.bulk,
    "slope": slope.slope,
    "million": million.million,
    "soak": soak.soak,
    "predecessor": predecessor.predecessor,
}
#: Only on request: these take minutes or half an hour, and the last one needs PyPI.
_ON_REQUEST = frozenset({"slope", "million", "soak", "predecessor"})


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs in the store (100000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row (5)")
    parser.add_argument(
        "--only",
        default=",".join(key for key in ROWS if key not in _ON_REQUEST),
        help=f"rows, separated by commas: {', '.join(ROWS)}",
    )
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if not shutil.which("flux"):
        print("make bench needs Flux: `flux` is not on the PATH.", file=sys.stderr)
        return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a thousand followers need as many descriptors
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all processes are ended
    rows: list[Row] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="flux-bench-", ignore_cleanup_errors=True) as directory,
            ExitStack() as stack,
        ):
            volume = Volume(Path(directory), options.jobs, stack)
            try:
                for key in (key for key in ROWS if key in chosen):
                    say(f"row {key}")
                    rows += _measure(key, volume, options.rounds)
            finally:  # a second Ctrl-C must not leave processes running
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    _report(rows, options.jobs, options.rounds)
    return 0 if all(row.reached for row in rows) else 1


def _measure(key: str, volume: Volume, rounds: int) -> list[Row]:
    """Return a row's figures, or why there are none: the other rows are still useful."""
    try:
        return ROWS[key](volume, rounds)
    except Exception as exc:
        reason = f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"
        say(f"  {key} failed: {reason}")
        return [Row(key=key, work=key, unit="", to_reach=("≥", 0), failed=reason)]


def _report(rows: list[Row], jobs: int, rounds: int) -> None:
    version = subprocess.run(["flux", "version"], text=True, capture_output=True, timeout=30).stdout.split()
    machine = {
        "python": platform.python_version(),
        "flux": version[version.index("libflux-core:") + 1] if "libflux-core:" in version else "unknown",
        "cores": os.cpu_count(),
        "jobs": jobs,
        "rounds": rounds,
        "when": time.strftime("%Y-%m-%d"),
    }
    _RESULTS.mkdir(exist_ok=True)
    data = {"machine": machine, "rows": [row.data() for row in rows]}
    (_RESULTS / "latest.local.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    (_RESULTS / "latest.local.md").write_text(f"{markdown_table(rows)}\n{about}\n")
    print(text_table(rows))


if __name__ == "__main__":
    sys.exit(main())
