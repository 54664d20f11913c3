"""Build and run the server; the only package that imports all parts.

``components`` constructs the parts, ``routes`` maps them to operations, ``server`` starts and closes them, and ``run``
runs them in one process.
"""

from sidecar.app.run import SOFTWARE_ERROR, USAGE_ERROR, report_failure, serve
from sidecar.app.server import Server

__all__ = ["SOFTWARE_ERROR", "USAGE_ERROR", "Server", "report_failure", "serve"]
