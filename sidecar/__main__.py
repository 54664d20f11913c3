"""Where the command starts: nothing is loaded before it is known whether this pod's server serves at all.

A sidecar is in every pod of an Indexed Job, and only that of the lead has something to serve. The others wait in a
tenth of the memory, for which this module and :mod:`sidecar.follower` import next to nothing.
"""

from __future__ import annotations

import sys

from sidecar.runtime import exit as leaving

if sys.argv[1:2] == ["serve"]:
    leaving.keep_signals()  # before anything else is loaded: SIGTERM is a stop, also in the first second

from sidecar.config import early
from sidecar.runtime import log_writer


def main() -> None:
    """Be a follower, or run the command line."""
    log_writer.write_json(early.early_option(sys.argv[1:], "log_format") == "json")
    role = early.early_role(sys.argv[1:])
    if role is not None:
        from sidecar import follower

        follower.run(role)
        return
    if not sys.warnoptions:  # Python keeps the text of every warning that it has shown, for good
        import warnings

        warnings.simplefilter("ignore")
    from sidecar.cli import main as command

    command()


if __name__ == "__main__":
    main()
