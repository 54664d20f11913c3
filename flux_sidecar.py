"""Entry point of the command ``flux-sidecar``, outside the package ``sidecar``, which another one may have overwritten.

PyPI has a package ``sidecar``, a widget for Jupyter. In the same environment it overwrites files of this one.
"""

from __future__ import annotations

import sys

_USAGE_ERROR = 2


def main() -> None:
    """Run the server's command line, or report that another package ``sidecar`` is imported."""
    reason = ""
    try:
        import sidecar
    except ImportError as exc:  # the one of this project imports nothing
        reason = f"the package sidecar that is found cannot be imported: {exc}"
    else:
        if getattr(sidecar, "DISTRIBUTION", "") != "flux-sidecar":
            reason = f"{sidecar.__file__} is another package of the name sidecar"
    if reason:
        print(
            f"flux-sidecar: {reason}.\nPyPI's sidecar, a widget for Jupyter, has taken the place of flux-sidecar's own "
            "package. Install flux-sidecar into an environment of its own: pipx, uv tool install, or python -m venv.",
            file=sys.stderr,
        )
        sys.exit(_USAGE_ERROR)
    from sidecar.__main__ import main as run

    run()
