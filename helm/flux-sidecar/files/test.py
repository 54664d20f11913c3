"""Submit a job through the Service and wait until it has COMPLETED.

Readiness is not enough: a broker whose image lacks a library of the job shell is ready, and fails every job.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any

_PAUSE, _PATIENCE = 1.0, 30.0


def _trust() -> ssl.SSLContext | None:
    if not os.environ["URL"].startswith("https:"):
        return None
    # The server's own certificate is the trust anchor, whatever its issuer and its names.
    context = ssl.create_default_context(cafile="/tls/tls.crt")
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _call(path: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(os.environ["URL"] + path, data, headers)  # noqa: S310 - the chart's own URL
    with urllib.request.urlopen(request, timeout=2 * _PATIENCE, context=_trust()) as answer:  # noqa: S310
        return json.load(answer) if answer.headers.get_content_type() == "application/json" else answer.read()


def _until_ready(deadline: float) -> None:
    while True:
        try:
            _call("/readyz")
        except (urllib.error.URLError, OSError) as exc:  # not listening yet, or 503
            if time.monotonic() > deadline:
                sys.exit(f"not ready in time: {exc}")
            time.sleep(_PAUSE)
        else:
            return


def main() -> None:
    """Exit with 0 when the job has completed in time."""
    deadline = time.monotonic() + float(os.environ["TIMEOUT"])
    _until_ready(deadline)
    job = _call("/v1/jobs/submit", {"command": ["echo", "hello from helm test"], "name": "helm-test"})["f58id"]
    print(f"submitted {job}")
    found: dict[str, Any] = {}
    while time.monotonic() < deadline:
        found = _call(f"/v1/jobs/{urllib.request.quote(job)}?wait={_PATIENCE:g}")
        if found["state"] == "INACTIVE":
            break
    output = _call(f"/v1/jobs/{urllib.request.quote(job)}/output").get("Output")
    print(f"state {found.get('state')}, result {found.get('result')}, output {output}")
    sys.exit(found.get("result") != "COMPLETED")


if __name__ == "__main__":
    main()
