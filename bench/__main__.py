"""``make bench``: how close the server comes to what Flux itself can do, both measured in the same run.

A row is a ratio against its limit: absolute figures say more about the machine than about the server. Each round
measures the limit and the server in turn, so that a machine whose speed drifts drifts for both; the limit on a
broker of its own, which no server follows.
Jobs are held (urgency 0): what is measured is the way into Flux, not Flux's scheduler.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.harness import Broker, beside

HERE = Path(__file__).parent
ROUNDS, JOBS, CLIENTS = 7, 1000, 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--jobs", type=int, default=JOBS)
    options = parser.parse_args()
    if not shutil.which("flux"):
        print("make bench needs Flux: `flux` is not on the PATH.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="flux-sidecar-bench-") as directory:
        rows = [_submit(Path(directory), options.rounds, options.jobs)]
    _report(rows)
    return 0 if all(row["ratio"] >= row["to_reach"] for row in rows) else 1


def _submit(directory: Path, rounds: int, jobs: int) -> dict[str, object]:
    """One job a request from many clients, beside the bare ``submit_async`` loop of the same Python."""
    limits, figures = [], []
    for number in range(rounds):
        # New brokers each time: what a broker already holds slows it down, and windows of 64 more than long pipelines.
        here = directory / str(number)
        bare, broker = Broker(here / "bare").running(), Broker(here / "served")
        server = beside(broker, here)
        try:
            server.ready()
            limits.append(_run("limit.py", bare.uri, str(jobs)))
            figures.append(_run("clients.py", server.url, str(jobs), str(CLIENTS)))
            print(f"  round {number}: limit {limits[-1]:.0f}/s, server {figures[-1]:.0f}/s", file=sys.stderr)
        finally:
            for process in (server, broker, bare):
                process.close()
    ratios = [figure / limit for figure, limit in zip(figures, limits, strict=True)]
    return {
        "work": f"submit, one job a request, {CLIENTS} clients",
        "limit_is": "bare submit_async loop",
        "limit": round(statistics.median(limits), 1),
        "server": round(statistics.median(figures), 1),
        "unit": "jobs/s",
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "to_reach": 0.6,
    }


def _run(script: str, *arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], check=True, text=True, stdout=subprocess.PIPE, timeout=300
    )
    return float(done.stdout)


def _report(rows: list[dict[str, object]]) -> None:
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "when": time.strftime("%Y-%m-%d")}
    version = subprocess.run(["flux", "version"], text=True, capture_output=True, timeout=30).stdout.split()
    machine["flux"] = version[version.index("libflux-core:") + 1] if "libflux-core:" in version else "unknown"
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.local.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"{'work':45} {'limit':>9} {'server':>9} {'unit':8} {'ratio':>6} {'min':>6} {'max':>6} {'to reach':>9}")
    for row in rows:
        print(
            f"{row['work']:45} {row['limit']:>9} {row['server']:>9} {row['unit']:8} "
            f"{row['ratio']:>6} {row['ratio_min']:>6} {row['ratio_max']:>6} {row['to_reach']:>9}"
        )


if __name__ == "__main__":
    sys.exit(main())
