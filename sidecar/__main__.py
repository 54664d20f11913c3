"""Entry point: choose between the role of a follower and the command line.

Every pod of an Indexed Job has a sidecar, but only that of the lead serves. The others wait, and need a tenth of the
memory because this module and :mod:`sidecar.follower` import next to nothing.
"""

from __future__ import annotations

import sys

from sidecar.runtime import termination

if sys.argv[1:2] == ["serve"]:
    termination.queue_signals()  # before other imports: SIGTERM is a stop from the first second on

from sidecar.config import early
from sidecar.runtime import log_writer


def main() -> None:
    """Run as a follower, or run the command line."""
    log_writer.use_json(early.early_option(sys.argv[1:], "log_format") == "json")
    role = early.early_role(sys.argv[1:])
    if role is not None:
        from sidecar import follower

        follower.run(role)
        return
    if not sys.warnoptions:  # Python stores the text of every warning that it has shown, forever
        import warnings

        warnings.simplefilter("ignore")
    from sidecar.cli import main as command

    command()


if __name__ == "__main__":
    main()
