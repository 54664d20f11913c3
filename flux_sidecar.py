"""Where the command ``flux-sidecar`` starts: outside the package ``sidecar``, whose place another one may have taken.

PyPI has a package ``sidecar``, a widget for Jupyter. In the same environment it overwrites files of this one.
"""

from __future__ import annotations

import sys

_USAGE_ERROR = 2


def main() -> None:
    """Run the server's command line, or say that its package is not the one that is found."""
    reason = ""
    try:
        import sidecar
    except ImportError as exc:  # ours imports nothing
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
